// Padded planes of a convolution's input: for a stride of sh x sw each plane is split into phases, of every sh-th row
// and sw-th column, so that the inputs of one tap for neighbouring outputs lie side by side.
#include "common.h"

// x [planes][h][w] -> y [planes][n_phases][rows][pitch], zeros outside. `phases`: (row, column) of each. An item makes
// LANES columns of a row: global size (pitch / LANES, n_phases * rows, planes).
__kernel void pack_planes(__global const T* x, __global T* y, __global const int* phases, const int h, const int w,
                          const int rows, const int n_phases, const int stride_h, const int stride_w,
                          const int pad_top, const int pad_left, const int n_columns, const int n_planes) {
  const int column = get_global_id(0), line = get_global_id(1), plane = get_global_id(2);
  if (column >= n_columns || line >= rows * n_phases || plane >= n_planes) return;
  const int phase = line / rows, pitch = n_columns * LANES;
  const int row = (line - phase * rows) * stride_h + phases[2 * phase] - pad_top;
  const int first = column * LANES * stride_w + phases[2 * phase + 1] - pad_left;
  __global T* const to = y + ((size_t)plane * rows * n_phases + line) * pitch + column * LANES;
  const bool inside = row >= 0 && row < h;
  __global const T* const from = x + ((size_t)plane * h + (inside ? row : 0)) * w;
  if (inside && stride_w == 1 && first >= 0 && first + LANES <= w) {
    VWRITE(VREAD(from + first), to);
    return;
  }
  for (int i = 0; i < LANES; ++i) {
    const int at = first + i * stride_w;
    const float value = inside && at >= 0 && at < w ? READ(from, at) : 0.0f;
    WRITE(value, to, i);
  }
}
