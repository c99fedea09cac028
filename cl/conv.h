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
#ifndef PITCH  // floats from a row of the packed input to the next
#define PITCH 64
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

static inline Item this_item() {
  Item item;
  item.column = get_global_id(0), item.tile = get_global_id(1);
  const int z = get_global_id(2);
  item.image = z / N_GROUPS, item.group = z - item.image * N_GROUPS;
  item.inside = item.column < N_COLUMNS && item.tile < N_TILES && item.image < N_IMAGES;
  return item;
}

// Where the inputs of an item's first output begin, for a tap at the corner of the window.
static inline Place first_input(TENSOR x, const Item item) {
  return ORIGIN(x) + (size_t)item.image * IN_IMAGE + item.tile * (ROWS * PITCH) + item.column * (VECTORS * LANES);
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
      const V in = read_input(x, p + r * PITCH + v * LANES, shift);
#pragma unroll
      for (int o = 0; o < OCB; ++o) {
        const int i = (o * ROWS + r) * VECTORS + v;
        sums[i] = FMA((V)(w[o]), in, sums[i]);
      }
    }
  }
}

// filters, bias, slopes [N_GROUPS * OCB]: the output channel of each, -1 where a group is not full.
static inline void finish(const Item item, const V* sums, __global const int* filters, __global const float* bias,
                   __global const float* slopes, __global const T* residual, __global T* y, float alpha, float beta,
                   int out_channels) {
#pragma unroll
  for (int o = 0; o < OCB; ++o) {
    const int filter = item.group * OCB + o, channel = filters[filter];
    if (channel < 0) continue;
    const size_t plane = ((size_t)item.image * out_channels + channel) * OUT_COUNT;
#pragma unroll
    for (int i = 0; i < ROWS * VECTORS; ++i) {
      const int column = item.column * (VECTORS * LANES) + i % VECTORS * LANES;
      const int at = (item.tile * ROWS + i / VECTORS) * OUT_W + column;
      const int of_row = OUT_W - column, of_map = OUT_COUNT - at;
      const int n = of_row < of_map ? of_row : of_map;
      if (n <= 0) continue;
      V sum = sums[o * (ROWS * VECTORS) + i] + bias[filter];
#if HAS_RESIDUAL
      if (n >= LANES) {
        sum += VREAD(residual + plane + at);
      } else {
        float lanes[LANES];
        LANES_TO(sum, lanes);
        for (int j = 0; j < n; ++j) lanes[j] += READ(residual + plane + at, j);
        sum = PRIVATE_READ(lanes);
      }
#endif
#if ACTIVATION == 3
      sum = activated(sum, slopes[filter], beta);
#else
      sum = activated(sum, alpha, beta);
#endif
      write_lanes(sum, y + plane + at, n);
    }
  }
}
