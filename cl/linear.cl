// y = activation(x weight^T + bias): an item makes LANES outputs of a row.
#include "common.h"

// x [rows][n_in]; weight [n_out / BLOCK][n_in][BLOCK], n_out filled up with zeros to BLOCKs; y [rows][n_out].
// slopes: by index of dim 1, which changes every `inner` outputs. Global size (n_out / LANES rounded up, rows).
__kernel void linear(__global const T* x, __global const float* weight, __global const float* bias,
                     __global const float* slopes, __global T* y, const float alpha, const float beta, const int n_in,
                     const int n_out, const int block, const int rows, const int inner, const int n_slopes) {
  const int o = get_global_id(0) * LANES, row = get_global_id(1);
  if (o >= n_out || row >= rows) return;
  __global const float* const w = weight + (size_t)(o / block) * n_in * block + o % block;
  __global const T* const in = x + (size_t)row * n_in;
  V sum = (V)(0.0f);
  for (int i = 0; i < n_in; ++i) sum = FMA((V)(READ(in, i)), FREAD(w + (size_t)i * block), sum);
  sum += FREAD(bias + o);
  __global T* const to = y + (size_t)row * n_out + o;
#if ACTIVATION == 3
  float lanes[LANES];
  LANES_TO(sum, lanes);
  for (int i = 0; i < LANES; ++i) {
    const int at = row * n_out + o + i;
    if (lanes[i] <= 0.0f) lanes[i] *= slopes[n_slopes == 1 ? 0 : at / inner % n_slopes];
  }
  write_lanes(PRIVATE_READ(lanes), to, n_out - o);
#else
  write_lanes(activated(sum, alpha, beta), to, n_out - o);
#endif
}
