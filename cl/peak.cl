// The device's peak of fused multiply-adds, for comparison: independent sums in registers, nothing from memory.
#include "common.h"

#ifndef SUMS
#define SUMS 12
#endif

// Each item does rounds * SUMS * LANES multiply-adds.
__kernel void peak(__global float* y, const float a, const float b, const int rounds) {
  V sums[SUMS];
#pragma unroll
  for (int i = 0; i < SUMS; ++i) sums[i] = (V)((float)(i + get_global_id(0)));
  for (int k = 0; k < rounds; ++k) {
#pragma unroll
    for (int i = 0; i < SUMS; ++i) sums[i] = FMA(sums[i], (V)(a), (V)(b));
  }
  V sum = sums[0];
#pragma unroll
  for (int i = 1; i < SUMS; ++i) sum += sums[i];
  float lanes[LANES], total = 0.0f;
  LANES_TO(sum, lanes);
  for (int i = 0; i < LANES; ++i) total += lanes[i];
  y[get_global_id(0)] = total;
}
