// Padded planes of a convolution's input: for a stride of sh x sw each plane is split into phases, of every sh-th row
// and sw-th column, so that the inputs of one tap for neighbouring outputs lie side by side. Either whole planes, or
// tile by tile, each with what its outputs need of its neighbours.
#include "common.h"

#ifndef BY_ROW  // 1: an item makes a row, as suits a CPU; 0: it makes one float, so that neighbours lie side by side
#define BY_ROW 0
#endif
#ifndef STRIDE_W
#define STRIDE_W 1
#endif

// A row of `pitch` floats: those of `from` [w], or zeros, of which `shift` is the first.
static inline void pack_row(__global const T* from, __global T* to, const int w, const int shift, const int pitch,
                            const int inside) {
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

// x [images * channels][h][w] -> y [images][tiles_h][tiles_w][channels][n_phases][rows][pitch], zeros outside; a tile
// begins `step_h` rows below the one before, and `step_w` columns beside it. `phases`: (row, column) of each. Global
// size (1 or pitch, images * channels, tiles_h * n_phases * rows).
__kernel void pack_planes(__global const T* x, __global T* y, __global const int* phases, const int h, const int w,
                          const int rows, const int n_phases, const int stride_h, const int pad_top,
                          const int pad_left, const int pitch, const int channels, const int n_planes,
                          const int tiles_h, const int tiles_w, const int step_h, const int step_w) {
  const int plane = get_global_id(1), line = get_global_id(2);
  const int plane_lines = rows * n_phases, tile = line / plane_lines;
  if (tile >= tiles_h || plane >= n_planes) return;
  const int of_plane = line - tile * plane_lines, phase = of_plane / rows;
  const int row = (tile * step_h + of_plane - phase * rows) * stride_h + phases[2 * phase] - pad_top;
  const int shift = phases[2 * phase + 1] - pad_left;  // input column of output column 0
  const int inside = row >= 0 && row < h;
  const int image = plane / channels, channel = plane - image * channels;
  __global const T* const from = x + ((size_t)plane * h + (inside ? row : 0)) * w;
  for (int column = 0; column < tiles_w; ++column) {
    const size_t to_plane = ((size_t)(image * tiles_h + tile) * tiles_w + column) * channels + channel;
    pack_row(from, y + (to_plane * plane_lines + of_plane) * pitch, w, shift + column * step_w * STRIDE_W, pitch,
             inside);
  }
}
