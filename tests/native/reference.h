// The definition of the operator in float64 with plain loops over the dense weights: independent of packing, of tiles
// and of the order of sums. Magnitudes and tap counts serve the error bound of the real-number tests.
#ifndef PCONV_TESTS_NATIVE_REFERENCE_H_
#define PCONV_TESTS_NATIVE_REFERENCE_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "support.h"

namespace pconv_test {

struct Reference {
  int64_t out_h = 0, out_w = 0;
  std::vector<double> y;          // conv + bias + residual, before the clamp, in the layout of the target
  std::vector<double> magnitude;  // sum |w||x| + |bias| + |residual|
  std::vector<int> taps;          // kept taps of the output that lie inside the image
};

struct Tap {
  int64_t channel, ky, kx;
  double weight;
};

// The non-zero weights of filter `o`, with absolute input channels.
inline std::vector<Tap> taps_of_filter(const Layer& layer, int64_t o) {
  const pconv_conv_desc& d = layer.conv;
  const int64_t first_channel = o / (d.out_channels / d.groups) * layer.group_in();
  std::vector<Tap> taps;
  for (int64_t i = 0; i < layer.group_in(); ++i) {
    for (int64_t k = 0; k < layer.taps(); ++k) {
      const float weight = layer.kernel(o, i)[k];
      if (weight != 0.0f) taps.push_back({first_channel + i, k / d.kernel_w, k % d.kernel_w, weight});
    }
  }
  return taps;
}

// x and residual (or nullptr) in target.layout.
inline Reference reference_conv(const Layer& layer, const Target& target, const float* x, const float* residual) {
  const pconv_conv_desc& d = layer.conv;
  Reference r;
  r.out_h = (target.h + d.pad_top + d.pad_bottom - d.dilation_h * (d.kernel_h - 1) - 1) / d.stride_h + 1;
  r.out_w = (target.w + d.pad_left + d.pad_right - d.dilation_w * (d.kernel_w - 1) - 1) / d.stride_w + 1;
  const size_t size = static_cast<size_t>(target.n * d.out_channels * r.out_h * r.out_w);
  r.y.assign(size, 0.0);
  r.magnitude.assign(size, 0.0);
  r.taps.assign(size, 0);
  for (int64_t o = 0; o < d.out_channels; ++o) {
    const std::vector<Tap> taps = taps_of_filter(layer, o);
    const double bias = layer.bias.empty() ? 0.0 : layer.bias[static_cast<size_t>(o)];
    for (int64_t n = 0; n < target.n; ++n) {
      for (int64_t oy = 0; oy < r.out_h; ++oy) {
        for (int64_t ox = 0; ox < r.out_w; ++ox) {
          const size_t out = at(target.layout, d.out_channels, r.out_h, r.out_w, n, o, oy, ox);
          double sum = bias, magnitude = std::fabs(bias);
          for (const Tap& t : taps) {
            const int64_t iy = oy * d.stride_h - d.pad_top + t.ky * d.dilation_h;
            const int64_t ix = ox * d.stride_w - d.pad_left + t.kx * d.dilation_w;
            if (iy < 0 || iy >= target.h || ix < 0 || ix >= target.w) continue;
            const double term =
                t.weight * x[at(target.layout, d.in_channels, target.h, target.w, n, t.channel, iy, ix)];
            sum += term;
            magnitude += std::fabs(term);
            ++r.taps[out];
          }
          if (residual) {
            sum += residual[out];
            magnitude += std::fabs(residual[out]);
          }
          r.y[out] = sum;
          r.magnitude[out] = magnitude;
        }
      }
    }
  }
  return r;
}

// torch.clamp: NaN stays NaN.
template <typename T>
inline T clamp(T value, float lo, float hi) {
  if (value < static_cast<T>(lo)) value = static_cast<T>(lo);
  if (value > static_cast<T>(hi)) value = static_cast<T>(hi);
  return value;
}

// Largest |y - y64| any order of fp32 sums may give: (K+2) 2^-24 magnitude + K 2^-149. A residual is one term more.
inline double error_bound(const Reference& r, size_t i, bool has_residual) {
  const double terms = r.taps[i] + (has_residual ? 1 : 0);
  return (terms + 2) * 0x1p-24 * r.magnitude[i] + terms * 0x1p-149;
}

}  // namespace pconv_test
#endif  // PCONV_TESTS_NATIVE_REFERENCE_H_
