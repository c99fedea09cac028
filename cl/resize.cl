// upsample: an item makes one output from up to four inputs that tables of the host name.
#define LANES 1
#include "common.h"

// x [planes][h][w], y [planes][out_h][out_w]; rows [out_h], columns [out_w]: the input above or left of an output;
// row_weights, column_weights: how far the output lies from it towards the next.
__kernel void bilinear(__global const T* x, __global T* y, __global const int* rows, __global const int* columns,
                       __global const float* row_weights, __global const float* column_weights, const int h,
                       const int w, const int out_h, const int out_w, const int n) {
  const int i = get_global_id(0);
  if (i >= n) return;
  const int column = i % out_w, row = i / out_w % out_h, plane = i / out_w / out_h;
  const int r = rows[row], c = columns[column], right = min(c + 1, w - 1);
  __global const T* const above = x + ((size_t)plane * h + r) * w;
  __global const T* const below = x + ((size_t)plane * h + min(r + 1, h - 1)) * w;
  const float a = column_weights[column], b = row_weights[row];
  const float high = (1.0f - a) * READ(above, c) + a * READ(above, right);
  const float low = (1.0f - a) * READ(below, c) + a * READ(below, right);
  WRITE((1.0f - b) * high + b * low, y, i);
}

__kernel void nearest(__global const T* x, __global T* y, __global const int* rows, __global const int* columns,
                      const int h, const int w, const int out_h, const int out_w, const int n) {
  const int i = get_global_id(0);
  if (i >= n) return;
  const int column = i % out_w, row = i / out_w % out_h, plane = i / out_w / out_h;
  WRITE(READ(x, ((size_t)plane * h + rows[row]) * w + columns[column]), y, i);
}
