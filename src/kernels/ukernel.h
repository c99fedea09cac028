// The contract of every ukernel: argument structs, function types and the table row.
//
// Flow: plan.cpp chooses a KernelInfo row, a runner (runners.h) packs an input tile and lets the row's function
// run a list of filters over it. A ukernel is noexcept, allocates nothing, starts no thread, reads no global and
// touches no memory outside the extents stated here. Pointers to tiles are aligned to kTileAlign bytes, but for planes,
// and all others to a float.
#ifndef PCONV_KERNELS_UKERNEL_H_
#define PCONV_KERNELS_UKERNEL_H_

#include <cstddef>
#include <cstdint>

#define PCONV_INLINE inline __attribute__((always_inline))
// For lambdas: GCC stops inlining inner ones in large functions unless each says so.
#define PCONV_INLINE_LAMBDA __attribute__((always_inline))

namespace pconv {

constexpr int kTileAlign = 64;

// Kernels of one filter that share a pattern and follow each other.
struct Run {
  uint32_t pattern;    // id in patterns.def
  uint32_t n_kernels;  // >= 1
};

// Floats a kernel with n_taps kept weights takes in FilterProgram::weights: whole groups of four, so that NEON reads
// them as q registers.
static constexpr int weight_pitch(int n_taps) { return (n_taps + 3) / 4 * 4; }

constexpr int kKernelsAhead = 3;  // distance at which ukernels prefetch the tile: measured, docs/PERFORMANCE.md

// The same in steps of a tap stream.
constexpr int kStepsAhead = 8;  // at least 4, as single filters take four steps a turn

// Ukernels that spend few multiply-adds on a weight prefetch weights by so many floats, as those of small maps come
// from L3 in a network: measured, docs/PERFORMANCE.md.
constexpr int kWeightsAhead = 1024;

// Floats that are readable behind a tap stream's last weight: weights are read in fours.
constexpr int kWeightsBehind = 3;

// What one filter does to a tile, in the order in which it is summed.
// Pattern ukernels: runs of kernels. Taps: `block` neighbours of the list run together, and the first holds a stream of
// steps for all, each an offset and a weight for every filter of the block. Scatter: only channel and bias.
struct FilterProgram {
  const float* weights;         // per kernel weight_pitch(taps) floats in tap order, kernels of all runs in a row;
                                // taps: per step `block` floats, kWeightsBehind more readable
  const int32_t* tile_offsets;  // per kernel: bytes from the tile's start to the plane of its input channel; readable
                                // for kKernelsAhead kernels more. Taps: per step, to what output 0 reads; with
                                // planes readable for kStepsAhead steps more (PlacedTaps)
  const uint16_t* channels;     // whole maps, instead: per kernel its input channel, in half the bytes, as these
                                // ukernels wait for memory
  const Run* runs;              // taps: null
  int32_t n_runs;               // taps: steps
  int32_t out_channel;          // -1: fills up a block, nothing is stored
  float bias;
};

// Kernels, or parts of them, of one channel with the same taps, 1 .. kScatterTaps of them.
constexpr int kScatterTaps = 4;
constexpr int kMostScatterVectors = 5;  // of a tile
struct ScatterRun {
  int32_t places[kScatterTaps];  // plane_place() that the taps read
  int32_t n_taps;
  int32_t n_kernels;  // >= 1
  uint32_t shifted;   // bit t: for an output tap t reads what lies in its place for the output before; zero where that
                      // is of another row. Only where V::kMasksLoads
};

// All kept weights of a list of filters, by channel and taps.
struct ScatterProgram {
  const ScatterRun* runs;
  int32_t n_runs;
  const float* weights;  // per kernel kScatterTaps floats, zeros behind the last tap
  const int32_t* sums;   // per kernel: floats from `carry` to the sums of its filter
};

// Outputs of a row of a tile whose rows are single cache lines (Body::kLine); a 3x3 kernel reads two columns more.
constexpr int line_outputs(int vectors, int lanes) {
  constexpr int kMost = kTileAlign / static_cast<int>(sizeof(float)) - 2;
  return vectors * lanes < kMost ? vectors * lanes : kMost;
}

// One tile of rows x (vectors * lanes) outputs, for a list of filters; Body::kLine: rows x line_outputs(), lane j holds
// the input column of its left tap, and nothing is shifted or carried. Other pattern ukernels, 3x3 with stride 1:
// Lane j of the tile is output column x0 + j and holds the input column of its centre tap. The sums of the taps in the
// left (right) column are shifted by one lane up (down) at the end; what crosses the tile's edge goes through `carry`.
// A tile may reach over a seam (strips: docs/ARCHITECTURE.md): lanes from `seam` on belong to the band below, where
// lane j is output column x0 + j again once `out` has moved by seam_step. No sum crosses a seam. `rows` counts for the
// band of lane 0.
// A whole-map ukernel (Body::kMap, Body::kTinyMap) has one tile, a map of `rows` x `lane_end` outputs whose rows lie
// without gaps (row_stride == lane_end): no carry, no tile to prefetch.
struct TileArgs {
  const float* tile;             // [n_channels][tile_floats of the ukernel], zeros outside the image
  const FilterProgram* filters;  // [n_filters]
  int32_t n_filters;
  int32_t rows;                        // output rows to store, 1 .. the ukernel's band_rows
  int32_t lane_begin, lane_end;        // lanes to store
  bool has_prev;                       // carry holds the last vectors of the tile to the left; they are stored here
  bool has_next;                       // a tile follows to the right: leave the last vectors in carry
  int32_t prev_lane_begin;             // first lane of the left tile's last vector to store
  bool near_seam;                      // this tile or the left tile's last vector reaches over a seam
  int32_t seam;                        // first lane behind it, or at least the tile's lanes: none
  int32_t seam_rows;                   // output rows to store behind it
  int32_t prev_seam;                   // in the left tile's last vector the first lane behind its seam; 0: none
  ptrdiff_t seam_step;                 // floats from a lane's output before a seam to the same lane's behind it
  float* carry;                        // [n_filters][carry_floats of the ukernel], aligned to a vector
  float* out;                          // lane 0, row 0 of output channel 0
  const float* residual;               // as out, or null
  ptrdiff_t plane_stride, row_stride;  // of out and residual, in floats
  float clamp_min, clamp_max;
  const float* next_input;  // for prefetching: input of the next tile's lane 0, row 0, channel 0; null: no next tile
  ptrdiff_t next_channel_stride, next_row_stride;  // in floats
  int32_t n_channels;
  const float* next_out;  // for prefetching: as out, of the first tile of this thread's next strip; null: not now
  bool prefetch_tile;     // the tile is larger than L1: prefetch it inside the filters too
  bool ragged_input;      // planes: of the last vector only the tile's lanes are readable
  ptrdiff_t row_step;     // windows: floats in the tile from the inputs of an output row to those of the next
  // Body::kScatter: from a plane to the next, and from one of its rows to the next; what `filters` do; `carry` holds
  // their sums, which start and end here.
  ptrdiff_t plane_bytes, plane_row_bytes;
  const ScatterProgram* scatter;
  const uint16_t* inner_lanes;  // null: no tap is shifted. Of each vector the outputs that are not their row's first
};

// Copies the input window of a tile: rows y0 .. y0+tile_rows-1, columns x0 .. x0+vectors*lanes-1 of every channel,
// zeros outside the image.
// Columns from x0 + seam on are taken from rows_to_next_band rows further down and columns_of_band columns to the left.
// Body::kLine takes a cache line of columns. Whole-map ukernels take the image as it is: row_stride == w, y0 and x0
// unused, no seam. Windows: tile_rows rows of `phases` times row_floats floats, float j of phase p being column x0 + p
// + j * phases; no seam.
struct PackTileArgs {
  const float* image;                    // [n_channels][h][w] with the strides below
  ptrdiff_t channel_stride, row_stride;  // in floats
  int32_t n_channels, h, w;
  int32_t y0, x0;  // may be negative
  int32_t seam, rows_to_next_band, columns_of_band;
  int32_t tile_rows, phases, row_floats;
  float* tile;  // [n_channels][tile_floats]
};

// What the taps of an input channel read that share a kernel column and a phase of rows (image rows congruent modulo
// the stride), or read the same as that column for the output before (ScatterRun::shifted): for each output row one row
// of the plane, and below the last one n_rows - 1 more. A tap reads the plane from one of its first n_rows rows on.
struct Plane {
  int32_t channel;
  int32_t kx;
  int32_t row;  // of the image, that row 0 of the plane is for output row 0; may be negative
  int32_t n_rows;
};

// Where a tap reads its plane: number of the plane and row in it, in one number.
constexpr int kPlaneRowBits = 8;
constexpr int kMaxPlaneRows = 1 << kPlaneRowBits;
constexpr int64_t kMaxPlanes = int64_t{1} << (31 - kPlaneRowBits);
constexpr int32_t plane_place(int64_t plane, int64_t row) { return static_cast<int32_t>(plane * kMaxPlaneRows + row); }
constexpr int32_t plane_of(int32_t place) { return place >> kPlaneRowBits; }
constexpr int32_t row_of(int32_t place) { return place & (kMaxPlaneRows - 1); }

// Writes the planes (im2col) of tiles that follow each other: what taps read for an image's outputs, numbered row by
// row, zeros outside the image.
struct PackPlanesArgs {
  const float* image;                    // [n_channels][h][w] with the strides below
  ptrdiff_t channel_stride, row_stride;  // in floats
  int32_t h, w;
  int32_t stride_h, stride_w, dilation_w, pad_left;
  const Plane* planes;
  int32_t n_planes;
  int32_t out_w, first_row, n_rows;  // of outputs, those that the tiles begin and end in included
  int32_t before, n_outputs;         // outputs of the first row that lie before the first tile; those of the tiles
  // [n_planes][plane_floats]. share_rows: rows of out_w floats, those of the first output row first. Else for every row
  // that taps read from a copy of the tiles' outputs alone, row_floats apart. A vector behind each is written too.
  float* planes_out;
  bool share_rows;
  ptrdiff_t plane_floats, row_floats;
};

// A kept weight of a depthwise filter, and where its inputs lie: among the phases of output row 0 (kDepthwise), or,
// with all taps numbered row by row, which it is (kDwDirect).
struct DepthwiseTap {
  int32_t row, shift;  // kDepthwise: in rows of phase_floats, and floats in it; kDwDirect: the number, 0
  float weight;
};

struct DepthwiseFilter {
  const DepthwiseTap* taps;
  int32_t n_taps;
  int32_t channel, out_channel;
  float bias;
};

// Some output rows of filters that read one channel each.
struct DepthwiseArgs {
  const float* image;        // [channels][h][w]
  ptrdiff_t channel_stride;  // in floats
  int32_t h, w;
  int32_t stride_h, stride_w, pad_left;
  const DepthwiseFilter* filters;
  int32_t n_filters;
  // [n_rows][stride_w][phase_floats], of one channel: float j of phase p is column p + j * stride_w - pad_left of the
  // image, the first row its row first_row. A tile's vectors more are readable.
  float* phases;
  int32_t phase_floats, n_rows, first_row;
  int32_t rows, out_w;     // outputs
  float* out;              // first row, of output channel 0
  const float* residual;   // as out, or null
  ptrdiff_t plane_stride;  // of both, in floats
  float clamp_min, clamp_max;
};

// How the vectors of outputs of a DwDirectTile lie, and what they read.
enum class DirectForm {
  kFlat,    // stride 1, rows as long as the image's: whole vectors of outputs numbered row by row, inputs alike
  kRows,    // stride_w 1: vectors of one column block, row below row
  kStrided  // stride_w 2: the same, or rows of two short rows each; every other lane of two vectors of inputs is read
};
// Masks of a tap and a vector: lanes to sum; kStrided: those, lanes to read of the first vector of inputs, of the
// second.
constexpr int direct_masks(DirectForm form) { return form == DirectForm::kStrided ? 3 : 1; }

// Up to `vectors` of the ukernel vectors of outputs.
struct DwDirectTile {
  ptrdiff_t in;     // of vector 0: floats from a channel's start to what lane 0 reads under a tap with offset 0
  int32_t out;      // floats from a plane's start to output 0
  int32_t vectors;  // at least 1
  int32_t masks;    // where in DwDirectArgs::masks: for every tap [direct_masks][vectors of the ukernel], and then
                    // [vectors of the ukernel] of which outputs to store
};

// Filters that read one channel each, straight from the image: lanes whose input lies outside it are masked.
struct DwDirectArgs {
  const float* image;        // [channels][h][w]
  ptrdiff_t channel_stride;  // in floats
  const DepthwiseFilter* filters;
  int32_t n_filters;
  const DwDirectTile* tiles;
  int32_t n_tiles;
  DirectForm form;
  int32_t n_taps;                // of a kernel, kept or not
  const ptrdiff_t* tap_offsets;  // [n_taps] floats
  const uint16_t* masks;         // bit i: lane i
  // From a vector of a tile to the next, in floats; kFlat: the lanes.
  ptrdiff_t in_step, out_step;
  // kStrided: from a vector's first inputs to its second ones, in floats; which lanes of the two are read.
  ptrdiff_t high_step;
  const int32_t* picked;  // [lanes]
  ptrdiff_t tile_floats;  // of the image that a tile comes to, about: for prefetching
  // kStrided: filters whose channels lie within may read whole vectors.
  const float *whole_begin, *whole_end;
  float* out;              // of output channel 0
  const float* residual;   // as out, or null
  ptrdiff_t plane_stride;  // of both, in floats
  float clamp_min, clamp_max;
};

// Max pooling of some planes.
struct MaxPoolArgs {
  const float* in;  // [planes][h][w]
  float* out;       // [planes][out_h][out_w]
  int64_t planes, h, w, out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  // [line_rows][line_floats] scratch, of a line and kMaxPoolBehind vectors more what the windows of an output row span.
  float* lines;
  int64_t line_rows, line_floats;
};
constexpr int kMaxPoolBehind = 2;

// Maxima of windows of 2x2 side by side.
struct PoolSquaresArgs {
  const float* in;  // two rows for each of out
  float* out;
  ptrdiff_t in_step, out_step;  // from a row to the next, in floats
  int64_t rows, columns;        // of out
};

using TileFn = void (*)(const TileArgs&) noexcept;
using PackPlanesFn = void (*)(const PackPlanesArgs&) noexcept;
using DepthwiseFn = void (*)(const DepthwiseArgs&) noexcept;
using DwDirectFn = void (*)(const DwDirectArgs&) noexcept;
using MaxPoolFn = void (*)(const MaxPoolArgs&) noexcept;
using PoolSquaresFn = void (*)(const PoolSquaresArgs&) noexcept;
using PackTileFn = void (*)(const PackTileArgs&) noexcept;
// Runs `iterations` rounds of independent multiply-adds on kPeakValues floats and returns the number of floating-point
// operations. The values must differ, or the compiler merges the sums, and be below 1, or they grow; one is written
// back.
constexpr int kPeakValues = 32;
using PeakFn = double (*)(int64_t iterations, float* values) noexcept;

constexpr uint32_t kAllTaps = 0x1ff, kCrossTaps = 0x0ba;  // as masks of patterns.def

enum class Body {
  kPattern,    // conv3x3.inl, conv3x3s2.inl: 3x3, stride 1 or 2, tiles of rows of vectors
  kLine,       // line3x3.inl: 3x3, stride 1, a row of the tile is a cache line
  kMap,        // map3x3.inl: the same, the tile is a map of any shape, padded by 1, row after row
  kTinyMap,    // tiny3x3.inl: the same for a few pixels
  kWindow,     // taps.inl: any geometry, tiles hold the rows that the outputs read
  kPlanes,     // taps.inl: any geometry, tiles hold planes
  kScatter,    // scatter.inl: the same tiles, kernels add to the sums of their filters
  kDepthwise,  // depthwise.inl: filters of one channel, no tiles
  kDwDirect,   // dwdirect.inl: the same without padded rows, where loads can be masked
};

struct KernelInfo {
  const char* name;  // of the body, as in the ukernel's
  Body body;
  int stride;         // 0: any
  int rows, vectors;  // tile; with planes at most
  int block;          // kWindow, kPlanes: filters with the same kernels that run together; others: 0
  int band_rows;      // output rows that a tile stores at most; whole maps: pixels
  uint32_t taps;      // patterns must lie within
  int tile_floats;    // that a channel takes in the packed tile; windows: TileShape says; planes: a plane
  int carry_floats;   // that one filter leaves between two tiles, scatter: its sums in one tile
  TileFn compute;     // null: depthwise
  PackTileFn pack;    // null with planes, and depthwise

  bool whole_map() const { return body == Body::kMap || body == Body::kTinyMap; }
  bool pattern() const { return body == Body::kPattern || body == Body::kLine || whole_map(); }
  bool planes() const { return body == Body::kPlanes || body == Body::kScatter; }
  bool depthwise() const { return body == Body::kDepthwise || body == Body::kDwDirect; }
};

struct TensorOps;  // tensor_ops.h

// All ukernels of one ISA.
struct IsaTable {
  int lanes;
  // In multiply-add instructions: an input vector from L1, one from L2, what a kernel costs beside, starting a run.
  double load_cost_l1, load_cost_l2, kernel_cost, run_cost;
  double sharing_cost;  // of filters that share loads of planes, as a factor, beside that of patterns
  bool masks_loads;     // ukernels read planes whose last vector is not full
  const KernelInfo* kernels;
  int n_kernels;
  PackPlanesFn pack_planes;
  DepthwiseFn depthwise;
  DwDirectFn dwdirect;    // null: no such ukernel
  int dwdirect_stride_w;  // that it takes at most
  MaxPoolFn max_pool;
  PoolSquaresFn pool_squares;
  PeakFn peak;
  const TensorOps* ops;
};

}  // namespace pconv
#endif  // PCONV_KERNELS_UKERNEL_H_
