// Any other convolution: a stream of (place, weights) for each group of filters, one item for each kept tap.
#include "conv.h"

// x: packed planes, or the image itself where nothing is padded. starts [N_GROUPS + 1]; places [taps]: floats from the
// first input of the first tap, with IMAGE_READS multiples of four. weights [taps][OCB].
__kernel void conv_taps(TENSOR x, __global const uint* starts, __global const int* places,
                        __global const float* weights, __global const int* filters, __global const float* bias,
                        __global const float* slopes, __global const T* residual, __global T* y, const float alpha,
                        const float beta, const int out_channels) {
  const Item item = this_item();
  if (!item.inside) return;
  const Place from = first_input(x, item);
  V sums[SUMS];
  set_to_zero(sums);
  const uint end = starts[item.group + 1];
  for (uint k = starts[item.group]; k < end; ++k) add_tap(x, from + places[k], 0, weights + k * OCB, sums);
  finish(item, sums, filters, bias, slopes, residual, y, alpha, beta, out_channels);
}
