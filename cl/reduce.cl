// mean and softmax: an item makes one mean, or one line of a softmax.
#include "common.h"

#define PIECE 256

// y [n]: means of `count` floats each.
__kernel void mean(__global const T* x, __global T* y, const int count, const int n) {
  const int i = get_global_id(0);
  if (i >= n) return;
  __global const T* const from = x + (size_t)i * count;
  float total = 0.0f, lost = 0.0f;
  for (int begin = 0; begin < count; begin += PIECE) {  // in pieces: one long sum would lose small terms
    const int end = count - begin < PIECE ? count : begin + PIECE;
    V sums = (V)(0.0f);
    int k = begin;
    for (; k + LANES <= end; k += LANES) sums += VREAD(from + k);
    float lanes[LANES], sum = 0.0f;
    LANES_TO(sums, lanes);
    for (int j = 0; j < LANES; ++j) sum += lanes[j];
    for (; k < end; ++k) sum += READ(from, k);
    const float more = sum - lost, larger = total + more;  // Kahan's sum
    lost = (larger - total) - more;
    total = larger;
  }
  WRITE(total / (float)count, y, i);
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
