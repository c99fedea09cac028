// Pooling: an item makes one output. All planes are [h][w], outputs [out_h][out_w].
#define LANES 1
#include "common.h"

__kernel void max_pool(__global const T* x, __global T* y, const int h, const int w, const int out_h, const int out_w,
                       const int kernel_h, const int kernel_w, const int stride_h, const int stride_w,
                       const int dilation_h, const int dilation_w, const int pad_h, const int pad_w, const int n) {
  const int i = get_global_id(0);
  if (i >= n) return;
  const int column = i % out_w, row = i / out_w % out_h, plane = i / out_w / out_h;
  __global const T* const from = x + (size_t)plane * h * w;
  float most = -INFINITY;
  for (int a = 0; a < kernel_h; ++a) {
    const int r = row * stride_h - pad_h + a * dilation_h;
    if (r < 0 || r >= h) continue;
    for (int b = 0; b < kernel_w; ++b) {
      const int c = column * stride_w - pad_w + b * dilation_w;
      if (c < 0 || c >= w) continue;
      const float value = READ(from, r * w + c);
      if (value > most || isnan(value)) most = value;
    }
  }
  WRITE(most, y, i);
}

// divisor 0: the number of inputs of the window, with count_pad of its places in the padded plane.
__kernel void avg_pool(__global const T* x, __global T* y, const int h, const int w, const int out_h, const int out_w,
                       const int kernel_h, const int kernel_w, const int stride_h, const int stride_w, const int pad_h,
                       const int pad_w, const int count_pad, const int divisor, const int n) {
  const int i = get_global_id(0);
  if (i >= n) return;
  const int column = i % out_w, row = i / out_w % out_h, plane = i / out_w / out_h;
  __global const T* const from = x + (size_t)plane * h * w;
  const int r0 = row * stride_h - pad_h, r1 = min(r0 + kernel_h, h + pad_h);
  const int c0 = column * stride_w - pad_w, c1 = min(c0 + kernel_w, w + pad_w);
  const int places = (r1 - r0) * (c1 - c0);
  const int top = max(r0, 0), bottom = min(r1, h), left = max(c0, 0), right = min(c1, w);
  float sum = 0.0f;
  for (int r = top; r < bottom; ++r) {
    for (int c = left; c < right; ++c) sum += READ(from, r * w + c);
  }
  const int inputs = max(bottom - top, 0) * max(right - left, 0);
  WRITE(sum / (float)(divisor != 0 ? divisor : count_pad ? places : inputs), y, i);
}

__kernel void adaptive_avg_pool(__global const T* x, __global T* y, const int h, const int w, const int out_h,
                                const int out_w, const int n) {
  const int i = get_global_id(0);
  if (i >= n) return;
  const int column = i % out_w, row = i / out_w % out_h, plane = i / out_w / out_h;
  __global const T* const from = x + (size_t)plane * h * w;
  const int top = (long)row * h / out_h, bottom = (((long)row + 1) * h + out_h - 1) / out_h;
  const int left = (long)column * w / out_w, right = (((long)column + 1) * w + out_w - 1) / out_w;
  float sum = 0.0f;
  for (int r = top; r < bottom; ++r) {
    float of_row = 0.0f;
    for (int c = left; c < right; ++c) of_row += READ(from, r * w + c);
    sum += of_row;
  }
  WRITE(sum / (float)((bottom - top) * (right - left)), y, i);
}
