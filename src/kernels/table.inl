// Expands bodies x tiles into this ISA's KernelInfo rows. Included by isa.cpp.

template <class V, int kRows, int kVectors>
constexpr KernelInfo conv3x3_row() {
  using Body = Conv3x3<kRows, kVectors>;
  return {1, kRows, kVectors, Body::kCarryFloats, Body::compute, Body::pack};
}

// Only the rows of this ISA are compiled: hence V, which is always Vec.
template <class V, int kLanes = V::kLanes>
struct Tiles {
  // 24 sums fill 32 vector registers with the weights and loads in flight; 21 where a map has multiples of 7 rows.
  static constexpr KernelInfo kRows[] = {conv3x3_row<V, 8, 1>(), conv3x3_row<V, 7, 1>(), conv3x3_row<V, 4, 2>()};
};
template <class V>
struct Tiles<V, 8> {
  // 16 registers: 12 sums beside a pattern's four weights, or 15 beside one; inputs are memory operands.
  static constexpr KernelInfo kRows[] = {conv3x3_row<V, 5, 1>(), conv3x3_row<V, 4, 1>()};
};
template <class V>
struct Tiles<V, 1> {
  static constexpr KernelInfo kRows[] = {conv3x3_row<V, 4, 4>()};  // the scalar unit is there to be right
};

constexpr IsaTable kTable = {Vec::kLanes,
                             Vec::kLoadCostL1,
                             Vec::kLoadCostL2,
                             Vec::kKernelCost,
                             Tiles<Vec>::kRows,
                             static_cast<int>(sizeof(Tiles<Vec>::kRows) / sizeof(KernelInfo)),
                             peak};
