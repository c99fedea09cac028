// mean and softmax: an item makes one mean, or one line of a softmax.
#include "common.h"

// y [n]: means of `count` floats each.
__kernel void mean(__global const T* x, __global T* y, const int count, const int n) {
  const int i = get_global_id(0);
  if (i >= n) return;
  __global const T* const from = x + (size_t)i * count;
  V sums = (V)(0.0f);
  int k = 0;
  for (; k + LANES <= count; k += LANES) sums += VREAD(from + k);
  float lanes[LANES], sum = 0.0f;
  LANES_TO(sums, lanes);
  for (int j = 0; j < LANES; ++j) sum += lanes[j];
  for (; k < count; ++k) sum += READ(from, k);
  WRITE(sum / (float)count, y, i);
}

// x, y [outer][count][inner]; n: outer * inner.
__kernel void softmax(__global const T* x, __global T* y, const int count, const int inner, const int as_log,
                      const int n) {
  const int i = get_global_id(0);
  if (i >= n) return;
  const size_t begin = (size_t)(i / inner) * count * inner + i % inner;
  float most = -INFINITY, sum = 0.0f;
  for (int k = 0; k < count; ++k) {
    const float value = READ(x + begin, k * inner);
    if (value > most || isnan(value)) most = value;
  }
  for (int k = 0; k < count; ++k) sum += exp(READ(x + begin, k * inner) - most);
  const float log_sum = log(sum);
  for (int k = 0; k < count; ++k) {
    const float value = READ(x + begin, k * inner) - most;
    WRITE(as_log ? value - log_sum : exp(value) / sum, y + begin, k * inner);
  }
}
