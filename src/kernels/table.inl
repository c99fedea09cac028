// Expands bodies x tiles into this ISA's KernelInfo rows. Included by isa.cpp.

template <int kRows, int kVectors>
constexpr KernelInfo conv3x3_row() {
  using Body = Conv3x3<kRows, kVectors>;
  return {1, kRows, kVectors, Body::kCarryFloats, Body::compute, Body::pack};
}

template <int kLanes>
struct Tiles {
  // 24 sums fill 32 vector registers with the weights and loads in flight; 21 where a map has multiples of 7 rows.
  static constexpr KernelInfo kRows[] = {conv3x3_row<8, 1>(), conv3x3_row<7, 1>(), conv3x3_row<4, 2>()};
};
template <>
struct Tiles<1> {
  static constexpr KernelInfo kRows[] = {conv3x3_row<4, 4>()};  // the scalar unit is there to be right
};

constexpr IsaTable kTable = {Vec::kLanes,
                             Vec::kLoadCostL1,
                             Vec::kLoadCostL2,
                             Tiles<Vec::kLanes>::kRows,
                             static_cast<int>(sizeof(Tiles<Vec::kLanes>::kRows) / sizeof(KernelInfo)),
                             peak};
