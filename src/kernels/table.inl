// Expands bodies x tiles into this ISA's KernelInfo rows. Included by isa.cpp.

template <class V, int kRows, int kVectors>
constexpr KernelInfo conv3x3_row() {
  using Body3x3 = Conv3x3<kRows, kVectors>;
  constexpr int kTileFloats = Body3x3::kTileRows * Body3x3::kRowFloats;
  return {"conv3x3",        Body::kPattern, 1, kRows, kVectors, 0, kRows, kAllTaps, kTileFloats, Body3x3::kCarryFloats,
          Body3x3::compute, Body3x3::pack};
}

template <class V, int kRows, int kVectors>
constexpr KernelInfo line3x3_row() {
  using Line = Line3x3<kRows, kVectors>;
  constexpr int kTileFloats = Line::kTileRows * Line::kRowFloats;
  return {"line3x3", Body::kLine, 1, kRows, kVectors, 0, kRows, kAllTaps, kTileFloats, 0, Line::compute, Line::pack};
}

template <class V, int kRows, int kVectors>
constexpr KernelInfo conv3x3s2_row() {
  using Strided = Conv3x3S2<kRows, kVectors>;
  return {"conv3x3",
          Body::kPattern,
          2,
          kRows,
          kVectors,
          0,
          kRows,
          kAllTaps,
          Strided::kTileFloats,
          Strided::kCarryFloats,
          Strided::compute,
          Strided::pack};
}

// Whole maps of up to kVectors vectors; a map of one column has the most rows.
template <class V, int kVectors, uint32_t kFamily>
constexpr KernelInfo map3x3_row() {
  using Map = Map3x3<V, kVectors, kFamily>;
  return {"map3x3", Body::kMap,   1,        1, kVectors, 0, kVectors * V::kLanes, kFamily, Map::kTileFloats,
          0,        Map::compute, Map::pack};
}

template <class V>
constexpr KernelInfo tiny3x3_row() {
  using Tiny = Tiny3x3<V>;
  return {"tiny3x3", Body::kTinyMap, 1,         1, 1, 0, Tiny::kMostPixels, kAllTaps, Tiny::kTileFloats,
          0,         Tiny::compute,  Tiny::pack};
}

// Any convolution; kBlock filters share each load.
template <class V, int kRows, int kVectors, int kBlock>
constexpr KernelInfo window_row() {
  return {"taps",
          Body::kWindow,
          0,
          kRows,
          kVectors,
          kBlock,
          kRows,
          kAllTaps,
          0,
          0,
          Taps<V, kRows, kVectors, kBlock>::compute,
          pack_window};
}

// The same over planes.
template <class V, int kVectors, int kBlock>
constexpr KernelInfo planes_row() {
  return {"planes",
          Body::kPlanes,
          0,
          1,
          kVectors,
          kBlock,
          1,
          kAllTaps,
          kVectors * V::kLanes,
          0,
          TapsOfPlanes<V, kVectors, kBlock>::compute,
          nullptr};
}

template <class V, int kVectors>
constexpr KernelInfo scatter_row() {
  static_assert(kVectors <= kMostScatterVectors && V::kLanes <= 16, "TileArgs::inner_lanes has room");
  return {"scatter",
          Body::kScatter,
          0,
          1,
          kVectors,
          0,
          1,
          kAllTaps,
          kVectors * V::kLanes,
          kVectors * V::kLanes,
          Scatter<V, kVectors>::compute,
          nullptr};
}

constexpr int kDepthwiseVectors = 8;
constexpr KernelInfo depthwise_row() {
  return {"depthwise", Body::kDepthwise, 0, 1, kDepthwiseVectors, 0, 1, kAllTaps, 0, 0, nullptr, nullptr};
}

constexpr int kDwDirectVectors = 8;
constexpr KernelInfo dwdirect_row() {
  return {"dwdirect", Body::kDwDirect, 0, 1, kDwDirectVectors, 0, 1, kAllTaps, 0, 0, nullptr, nullptr};
}

// Only the rows of this ISA are compiled: hence V, which is always Vec.
template <class V, int kLanes = V::kLanes>
struct Tiles {
  // 24 sums fill 32 vector registers with the weights and loads in flight; 21 where a map has multiples of 7 rows.
  static constexpr KernelInfo kRows[] = {conv3x3_row<V, 8, 1>(),   conv3x3_row<V, 7, 1>(),   conv3x3_row<V, 4, 2>(),
                                         window_row<V, 1, 8, 1>(), window_row<V, 2, 6, 1>(), window_row<V, 1, 6, 4>(),
                                         window_row<V, 2, 3, 4>(), planes_row<V, 8, 1>(),    planes_row<V, 6, 4>(),
                                         planes_row<V, 3, 8>(),    conv3x3s2_row<V, 8, 1>(), depthwise_row()};
};
template <class V>
struct Tiles<V, 16> {
  // As above. Maps: 27 sums for any patterns, 25 for those within the cross.
  static constexpr KernelInfo kRows[] = {conv3x3_row<V, 8, 1>(),
                                         conv3x3_row<V, 7, 1>(),
                                         conv3x3_row<V, 4, 2>(),
                                         tiny3x3_row<V>(),
                                         map3x3_row<V, 1, kAllTaps>(),
                                         map3x3_row<V, 2, kAllTaps>(),
                                         map3x3_row<V, 3, kAllTaps>(),
                                         map3x3_row<V, 4, kCrossTaps>(),
                                         map3x3_row<V, 5, kCrossTaps>(),
                                         window_row<V, 1, 8, 1>(),
                                         window_row<V, 4, 2, 1>(),
                                         window_row<V, 1, 6, 4>(),
                                         window_row<V, 3, 2, 4>(),
                                         planes_row<V, 8, 1>(),
                                         planes_row<V, 6, 4>(),
                                         planes_row<V, 3, 8>(),
                                         scatter_row<V, 5>(),
                                         dwdirect_row(),
                                         depthwise_row()};
};
template <class V>
struct Tiles<V, 8> {
  // 16 registers: 12 sums beside two weights and an input. 8x1 wastes no lane where maps have multiples of 8 columns.
  static constexpr KernelInfo kRows[] = {line3x3_row<V, 6, 2>(),   line3x3_row<V, 5, 2>(),   line3x3_row<V, 4, 2>(),
                                         line3x3_row<V, 8, 1>(),   conv3x3_row<V, 4, 1>(),   window_row<V, 1, 8, 1>(),
                                         window_row<V, 4, 2, 1>(), window_row<V, 1, 3, 4>(), planes_row<V, 8, 1>(),
                                         planes_row<V, 3, 4>(),    scatter_row<V, 2>(),      conv3x3s2_row<V, 4, 1>(),
                                         dwdirect_row(),           depthwise_row()};
};
template <class V>
struct Tiles<V, 1> {
  // The scalar unit is there to be right.
  static constexpr KernelInfo kRows[] = {conv3x3_row<V, 4, 4>(),   window_row<V, 2, 4, 1>(), window_row<V, 2, 4, 4>(),
                                         planes_row<V, 8, 1>(),    planes_row<V, 4, 4>(),    scatter_row<V, 4>(),
                                         conv3x3s2_row<V, 2, 2>(), depthwise_row()};
};

constexpr TensorOps kTensorOps = {activate,          binary,         Linear::compute, Reduce::sum, AvgPool::compute,
                                  Bilinear::compute, Reduce::softmax};

constexpr IsaTable kTable = {Vec::kLanes,
                             Vec::kLoadCostL1,
                             Vec::kLoadCostL2,
                             Vec::kKernelCost,
                             Vec::kRunCost,
                             Vec::kSharingCost,
                             Vec::kMasksLoads,
                             Tiles<Vec>::kRows,
                             static_cast<int>(sizeof(Tiles<Vec>::kRows) / sizeof(KernelInfo)),
                             pack_planes,
                             Depthwise<Vec, kDepthwiseVectors>::compute,
                             DwDirect<Vec, kDwDirectVectors>::function(),
                             Vec::kPicksLanes ? 2 : 1,
                             MaxPool::compute,
                             MaxPool::squares,
                             peak,
                             &kTensorOps};
