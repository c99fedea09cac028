// The contract of every ukernel: argument structs, function types and the table row.
//
// Flow: plan.cpp chooses a KernelInfo row, run.cpp packs one input tile and lets the row's function run a list of
// filters over it. A ukernel is noexcept, allocates nothing, starts no thread, reads no global and touches no memory
// outside the extents stated here. Pointers to tiles are aligned to kTileAlign bytes, all others to a float.
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

// What one filter does to a tile, in the order in which it is summed. General ukernels run `block` neighbours of the
// list together: the first holds the steps of all.
struct FilterProgram {
  const float* weights;         // per kernel weight_pitch(taps) floats in tap order, kernels of all runs in a row
  const int32_t* tile_offsets;  // per kernel: bytes from the tile's start to the plane of its input channel; readable
                                // for kKernelsAhead kernels more
  const Run* runs;              // general ukernels: null
  int32_t n_runs;               // general ukernels: steps, each an offset and a weight for every filter of the block
  int32_t out_channel;          // -1: fills up a block, nothing is stored
  float bias;
};

// One tile of rows x (vectors * lanes) outputs, for a list of filters. The pattern ukernels, 3x3 with stride 1:
// Lane j of the tile is output column x0 + j and holds the input column of its centre tap. The sums of the taps in the
// left (right) column are shifted by one lane up (down) at the end; what crosses the tile's edge goes through `carry`.
// A tile may reach over a seam (strips: docs/ARCHITECTURE.md): lanes from `seam` on belong to the band below, where
// lane j is output column x0 + j again once `out` has moved by seam_step. No sum crosses a seam. `rows` counts for the
// band of lane 0.
// A whole-map ukernel (KernelInfo::whole_map) has one tile, a map of `rows` x `lane_end` outputs whose rows lie without
// gaps (row_stride == lane_end): no carry, no prefetch.
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
  ptrdiff_t row_step;     // general ukernels: floats in the tile from the inputs of an output row to those of the next
};

// Copies the input window of a tile: rows y0 .. y0+tile_rows-1, columns x0 .. x0+vectors*lanes-1 of every channel,
// zeros outside the image.
// Columns from x0 + seam on are taken from rows_to_next_band rows further down and columns_of_band columns to the left.
// Whole-map ukernels take the image as it is: row_stride == w, y0 and x0 unused, no seam.
// General ukernels: tile_rows rows of `phases` times row_floats floats, float j of phase p being column
// x0 + p + j * phases; no seam.
struct PackTileArgs {
  const float* image;                    // [n_channels][h][w] with the strides below
  ptrdiff_t channel_stride, row_stride;  // in floats
  int32_t n_channels, h, w;
  int32_t y0, x0;  // may be negative
  int32_t seam, rows_to_next_band, columns_of_band;
  int32_t tile_rows, phases, row_floats;
  float* tile;  // [n_channels][rows + 2][vectors * lanes]
};

using TileFn = void (*)(const TileArgs&) noexcept;
using PackTileFn = void (*)(const PackTileArgs&) noexcept;
// Runs `iterations` rounds of independent multiply-adds on kPeakValues floats and returns the number of floating-point
// operations. The values must differ, or the compiler merges the sums, and be below 1, or they grow; one is written
// back.
constexpr int kPeakValues = 32;
using PeakFn = double (*)(int64_t iterations, float* values) noexcept;

constexpr uint32_t kAllTaps = 0x1ff, kCrossTaps = 0x0ba;  // as masks of patterns.def

struct KernelInfo {
  const char* body;   // file of kernels/ that it comes from
  bool whole_map;     // the tile is a map of any shape, padded by 1, row after row; otherwise rows of vectors
  int stride;         // 0: any
  int rows, vectors;  // tile
  int block;          // general ukernels: filters with the same kernels that run together; pattern ukernels: 0
  int band_rows;      // output rows that a tile stores at most
  uint32_t taps;      // patterns must lie within
  int tile_floats;    // that a channel takes in the packed tile; general ukernels: TileShape says
  int carry_floats;   // that one filter leaves between two tiles; map3x3: none
  TileFn compute;
  PackTileFn pack;
};

// All ukernels of one ISA.
struct IsaTable {
  int lanes;
  // In multiply-add instructions: an input vector from L1, one from L2, what a kernel costs beside, starting a run.
  double load_cost_l1, load_cost_l2, kernel_cost, run_cost;
  const KernelInfo* kernels;
  int n_kernels;
  PeakFn peak;
};

}  // namespace pconv
#endif  // PCONV_KERNELS_UKERNEL_H_
