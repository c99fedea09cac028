// Operators that only move values: parts of concatenations, slices, permutations, pixel shuffles, pads; conversion of
// what comes from the host or goes there.
#define LANES 1
#include "common.h"

// dims [18], from the outermost: sizes, steps in x, steps in y.
__kernel void move(__global const T* x, __global T* y, __global const int* dims, const int x_at, const int y_at,
                   const int n) {
  const int i = get_global_id(0);
  if (i >= n) return;
  int rest = i, from = x_at, to = y_at;
  for (int d = 5; d >= 0; --d) {
    const int size = dims[d], place = rest % size;
    from += place * dims[6 + d], to += place * dims[12 + d];
    rest /= size;
  }
  WRITE(READ(x, from), y, to);
}

__kernel void fill(__global T* y, const float value, const int n) {
  const int i = get_global_id(0);
  if (i < n) WRITE(value, y, i);
}

__kernel void from_float(__global const float* x, __global T* y, const int n) {
  const int i = get_global_id(0);
  if (i < n) WRITE(x[i], y, i);
}

__kernel void to_float(__global const T* x, __global float* y, const int n) {
  const int i = get_global_id(0);
  if (i < n) y[i] = READ(x, i);
}
