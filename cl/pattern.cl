// Convolutions by patterns (PCONV, AAAI 2020, sections 4 and 5): the kernels of a group of filters are sorted by
// pattern, each run of them has code of its own, without a branch inside. Dense layers have one pattern: all taps.
#include "conv.h"

#ifndef TAPS  // weights of a kernel
#define TAPS 4
#endif
#ifndef RUNS  // RUN(TAP(t, j) ...) for each pattern: its tap t has the j-th weight; AT_t: where its inputs begin
#define AT_1 1
#define AT_3 (PITCH)
#define AT_4 (PITCH + 1)
#define AT_5 (PITCH + 2)
#define RUNS RUN(TAP(1, 0) TAP(3, 1) TAP(4, 2) TAP(5, 3))
#define N_RUNS 1
#endif

#define TAP(t, j) add_tap(x, p + AT_##t, (AT_##t) & 3, w + (j) * OCB, sums);
#define RUN(TAPS_OF_PATTERN)                                    \
  for (const uint end = *++start; k < end; ++k) {               \
    const Place p = from + (int)channels[k] * PLANE;            \
    __global const float* const w = weights + k * (TAPS * OCB); \
    TAPS_OF_PATTERN                                             \
  }

// x: packed planes. starts [N_GROUPS][N_RUNS + 1]: first kernel of each run. channels [kernels].
// weights [kernels][TAPS][OCB].
__kernel void conv_patterns(TENSOR x, __global const uint* starts, __global const uint* channels,
                            __global const float* weights, __global const int* filters, __global const float* bias,
                            __global const float* slopes, __global const T* residual, __global T* y,
                            const float alpha, const float beta, const int out_channels) {
  const Item item = this_item();
  if (!item.inside) return;
  const Place from = first_input(x, item);
  V sums[SUMS];
  set_to_zero(sums);
  __global const uint* start = starts + item.group * (N_RUNS + 1);
  uint k = *start;
  RUNS
  finish(item, sums, filters, bias, slopes, residual, y, alpha, beta, out_channels);
}
