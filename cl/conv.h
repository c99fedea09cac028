// What convolutions share: a tile of ROWS rows of VECTORS * LANES outputs for each of OCB filters that keep the same
// kernels, and its end: bias, residual, activation, store.
#include "common.h"

#ifndef OCB
#define OCB 1
#endif
#ifndef ROWS
#define ROWS 4
#endif
#ifndef VECTORS
#define VECTORS 1
#endif
#ifndef WIDTH  // outputs along a row; where it is no multiple of LANES, the last vector repeats some of the one before
#define WIDTH (VECTORS * LANES)
#endif
#ifndef PITCH  // floats from a row of the packed input to the next
#define PITCH 64
#endif
#ifndef ALONG  // floats from the inputs of an item to those of its neighbour along the row
#define ALONG WIDTH
#endif
#ifndef DOWN  // and along the column
#define DOWN (ROWS * PITCH)
#endif
#ifndef PLANE  // floats from a channel of the packed input to the next
#define PLANE 4096
#endif
#ifndef IN_IMAGE  // floats from an image of the packed input to the next
#define IN_IMAGE 262144
#endif
#ifndef OUT_W
#define OUT_W 56
#endif
#ifndef OUT_COUNT  // outputs of a filter for an image
#define OUT_COUNT 3136
#endif
#ifndef N_COLUMNS  // items along a row
#define N_COLUMNS 14
#endif
#ifndef N_TILES  // items along a column
#define N_TILES 14
#endif
#ifndef TILED  // 1: inputs are packed tile by tile, and a work-group of a CPU has many filters of one
#define TILED 0
#endif
#ifndef N_GROUPS  // of OCB filters
#define N_GROUPS 64
#endif
#ifndef N_IMAGES
#define N_IMAGES 1
#endif
#ifndef HAS_RESIDUAL
#define HAS_RESIDUAL 0
#endif

#ifndef IMAGE_READS  // 1: x is an image of four floats a texel, LANES is 4
#define IMAGE_READS 0
#endif

// TENSOR: a packed input as a kernel's argument. Place: where in it something begins.
#if IMAGE_READS
#define TENSOR __read_only image1d_buffer_t
typedef int Place;
#define ORIGIN(x) 0
#else
#define TENSOR __global const T*
typedef __global const T* Place;
#define ORIGIN(x) (x)
#endif

// Where an item works. `inside` 0: it was added to fill a work-group.
typedef struct Item {
  int column, tile, group, image, inside;
} Item;

#define SUMS (OCB * ROWS * VECTORS)
#define COLUMN_OF(v) ((v) * LANES < WIDTH - LANES ? (v) * LANES : WIDTH - LANES)

static inline Item this_item() {
  Item item;
  const int z = get_global_id(2);
#if TILED
  const int at = get_global_id(1);
  item.tile = at / N_COLUMNS, item.column = at - item.tile * N_COLUMNS;
#else
  item.column = get_global_id(0), item.tile = get_global_id(1);
#endif
  item.image = z / N_GROUPS, item.group = z - item.image * N_GROUPS;
  item.inside = item.column < N_COLUMNS && item.tile < N_TILES && item.image < N_IMAGES;
  return item;
}

// Where the inputs of an item's first output begin, for a tap at the corner of the window.
static inline Place first_input(TENSOR x, const Item item) {
  return ORIGIN(x) + (size_t)item.image * IN_IMAGE + item.tile * DOWN + item.column * ALONG;
}

static inline void set_to_zero(V* sums) {
#pragma unroll
  for (int i = 0; i < SUMS; ++i) sums[i] = (V)(0.0f);
}

// The vector at p, of which `shift` floats lie behind a multiple of four.
static inline V read_input(TENSOR x, Place p, const int shift) {
#if IMAGE_READS  // whole texels alone can be read: two of them, once for all taps that share them
  const V a = read_imagef(x, p >> 2);
  if (shift == 0) return a;
  const V b = read_imagef(x, (p >> 2) + 1);
  return shift == 1 ? (V)(a.yzw, b.x) : shift == 2 ? (V)(a.zw, b.xy) : (V)(a.w, b.xyz);
#else
  return VREAD(p);
#endif
}

// Adds one tap of a kernel: its inputs for the first row begin at p, for shift see read_input; w [OCB].
static inline void add_tap(TENSOR x, Place p, const int shift, __global const float* w, V* sums) {
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
      const V in = read_input(x, p + r * PITCH + COLUMN_OF(v), shift);
#pragma unroll
      for (int o = 0; o < OCB; ++o) {
        const int i = (o * ROWS + r) * VECTORS + v;
        sums[i] = FMA((V)(w[o]), in, sums[i]);
      }
    }
  }
}

// Of the vector of outputs at a column: how many lie in the map. row: where its row begins.
static inline int lanes_inside(const int row, const int column) {
  const int of_row = OUT_W - column, of_map = OUT_COUNT - row - column;
  return of_row < of_map ? of_row : of_map;
}

// filters, bias, slopes [N_GROUPS * OCB]: the output channel of each, -1 where a group is not full.
static inline void finish(const Item item, V* sums, __global const int* filters, __global const float* bias,
                   __global const float* slopes, __global const T* residual, __global T* y, float alpha, float beta,
                   int out_channels) {
#pragma unroll
  for (int o = 0; o < OCB; ++o) {
    const int filter = item.group * OCB + o, channel = filters[filter];
    if (channel < 0) continue;
    const size_t plane = ((size_t)item.image * out_channels + channel) * OUT_COUNT;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const int row = (item.tile * ROWS + r) * OUT_W, column = item.column * WIDTH;
      V* const of_row = sums + (o * ROWS + r) * VECTORS;
#pragma unroll
      for (int v = 0; v < VECTORS; ++v) {  // residuals come before stores: y may be their memory
        const int n = lanes_inside(row, column + COLUMN_OF(v));
        if (n <= 0) continue;
        of_row[v] += bias[filter];
#if HAS_RESIDUAL
        of_row[v] += read_lanes(residual + plane + row + column + COLUMN_OF(v), n);
#endif
      }
#pragma unroll
      for (int v = 0; v < VECTORS; ++v) {
        const int n = lanes_inside(row, column + COLUMN_OF(v));
        if (n <= 0) continue;
#if ACTIVATION == 3
        const V out = activated(of_row[v], slopes[filter], beta);
#else
        const V out = activated(of_row[v], alpha, beta);
#endif
        write_lanes(out, y + plane + row + column + COLUMN_OF(v), n);
      }
    }
  }
}
