// Padded planes of a convolution's input: for a stride of sh x sw each plane is split into phases, of every sh-th row
// and sw-th column, so that the inputs of one tap for neighbouring outputs lie side by side.
#include "common.h"

#ifndef BY_ROW  // 1: an item makes a row, as suits a CPU; 0: it makes one float, so that neighbours lie side by side
#define BY_ROW 0
#endif
#ifndef STRIDE_W
#define STRIDE_W 1
#endif

// x [planes][h][w] -> y [planes][n_phases][rows][pitch], zeros outside. `phases`: (row, column) of each. Global size
// (1 or pitch, n_phases * rows, planes).
__kernel void pack_planes(__global const T* x, __global T* y, __global const int* phases, const int h, const int w,
                          const int rows, const int n_phases, const int stride_h, const int pad_top,
                          const int pad_left, const int pitch, const int n_planes) {
  const int line = get_global_id(1), plane = get_global_id(2);
  if (line >= rows * n_phases || plane >= n_planes) return;
  const int phase = line / rows;
  const int row = (line - phase * rows) * stride_h + phases[2 * phase] - pad_top;
  const int shift = phases[2 * phase + 1] - pad_left;  // input column of output column 0
  const int inside = row >= 0 && row < h;
  __global T* const to = y + ((size_t)plane * rows * n_phases + line) * pitch;
  __global const T* const from = x + ((size_t)plane * h + (inside ? row : 0)) * w;
#if BY_ROW
  if (get_global_id(0) > 0) return;
  // Columns [begin, end) have inputs.
  int begin = inside ? (-shift + STRIDE_W - 1) / STRIDE_W : pitch;
  begin = begin < 0 ? 0 : begin;
  int end = inside && w > shift ? (w - shift + STRIDE_W - 1) / STRIDE_W : begin;
  end = end > pitch ? pitch : end;
  begin = begin > end ? end : begin;
  int i = 0;
  for (; i < begin; ++i) WRITE(0.0f, to, i);
#if STRIDE_W == 1
  for (; i + LANES <= end; i += LANES) VWRITE(VREAD(from + shift + i), to + i);
#endif
  for (; i < end; ++i) WRITE(READ(from, shift + i * STRIDE_W), to, i);
  for (; i + LANES <= pitch; i += LANES) VWRITE((V)(0.0f), to + i);
  for (; i < pitch; ++i) WRITE(0.0f, to, i);
#else
  const int column = get_global_id(0);
  if (column >= pitch) return;
  const int at = shift + column * STRIDE_W;
  const float value = inside && at >= 0 && at < w ? READ(from, at) : 0.0f;
  WRITE(value, to, column);
#endif
}
