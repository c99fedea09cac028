// upsample: an item makes one output from up to four inputs that tables of the host name.
#define LANES 1
#include "common.h"

// x [planes][h][w], y [planes][out_h][out_w]; above, below [out_h], left, right [out_w]: the inputs around an output;
// row_weights, column_weights: how far the output lies from the first towards the second.
__kernel void bilinear(__global const T* x, __global T* y, __global const int* above, __global const int* below,
                       __global const float* row_weights, __global const int* left, __global const int* right,
                       __global const float* column_weights, const int h, const int w, const int out_h,
                       const int out_w, const int n) {
  const int i = get_global_id(0);
  if (i >= n) return;
  const int column = i % out_w, row = i / out_w % out_h, plane = i / out_w / out_h;
  __global const T* const high = x + ((size_t)plane * h + above[row]) * w;
  __global const T* const low = x + ((size_t)plane * h + below[row]) * w;
  const int l = left[column], r = right[column];
  const float a = column_weights[column], b = row_weights[row];
  const float first = (1.0f - a) * READ(high, l) + a * READ(high, r);
  const float second = (1.0f - a) * READ(low, l) + a * READ(low, r);
  WRITE((1.0f - b) * first + b * second, y, i);
}

__kernel void nearest(__global const T* x, __global T* y, __global const int* rows, __global const int* columns,
                      const int h, const int w, const int out_h, const int out_w, const int n) {
  const int i = get_global_id(0);
  if (i >= n) return;
  const int column = i % out_w, row = i / out_w % out_h, plane = i / out_w / out_h;
  WRITE(READ(x, ((size_t)plane * h + rows[row]) * w + columns[column]), y, i);
}
