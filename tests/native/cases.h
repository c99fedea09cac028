// Deterministic generator of shape cases: seed and index give one layer, one input, one clamp and one residual.
#ifndef PCONV_TESTS_NATIVE_CASES_H_
#define PCONV_TESTS_NATIVE_CASES_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "reference.h"
#include "support.h"

namespace pconv_test {

constexpr int kCases = 1500;
constexpr int kCaseStep = 10;  // the default run takes every tenth

enum class Residual { kNone, kSeparate, kAliasesOutput };

struct Case {
  Layer layer;
  Target target;
  std::vector<float> x, residual;
  Residual residual_mode = Residual::kNone;
  float clamp_min = -kInf, clamp_max = kInf;
  bool no_kernels = false;  // 100 % connectivity pruning
  std::string text;
};

inline double multiply_adds(const Layer& layer, const Target& t, double kept) {
  const double weights = static_cast<double>(layer.conv.out_channels) * static_cast<double>(layer.group_in()) * 4.5;
  return weights * kept * static_cast<double>(std::max<int64_t>(t.n, 1) * (t.h + 2) * (t.w + 2));
}

// Sizes: boundaries of vectors and tiles, any size up to 40, maps of VGG and ResNet. Large maps get few channels.
inline void draw_shape(Rng& rng, double kept, bool depthwise, Layer& layer, Target& t) {
  constexpr int kChannels[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33};
  constexpr int kSizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33};
  constexpr int kMaps[] = {224, 112, 56, 28, 14, 7};
  constexpr double kMaxMultiplyAdds = 1.5e6;
  pconv_conv_desc& d = layer.conv;
  d = {};
  d.kernel_h = d.kernel_w = 3;
  d.stride_h = d.stride_w = d.dilation_h = d.dilation_w = d.groups = 1;
  d.out_channels = rng.chance(0.5) ? rng.pick(kChannels) : rng.between(1, 33);
  d.in_channels = rng.chance(0.5) ? rng.pick(kChannels) : rng.between(1, 33);
  t.n = rng.chance(0.04) ? 0 : rng.chance(0.2) ? rng.between(2, 3) : 1;
  t.layout = rng.chance(0.5) ? PCONV_NHWC : PCONV_NCHW;
  t.reorder = !rng.chance(0.2);
  const bool is_map = rng.chance(0.2);
  t.h = is_map ? rng.pick(kMaps) : rng.chance(0.5) ? rng.pick(kSizes) : rng.between(1, 40);
  t.w = is_map ? t.h : rng.chance(0.5) ? rng.pick(kSizes) : rng.between(1, 40);
  while (multiply_adds(layer, t, kept) > kMaxMultiplyAdds && (d.in_channels > 1 || d.out_channels > 1 || t.n > 1)) {
    if (t.n > 1) {
      --t.n;
    } else {
      int64_t& larger = d.in_channels > d.out_channels ? d.in_channels : d.out_channels;
      larger = (larger + 1) / 2;
    }
  }
  const int kind = depthwise ? 0 : static_cast<int>(rng.between(0, 9));
  if (depthwise && rng.chance(0.3)) {  // with several filters a channel
    d.groups = d.in_channels;
    d.out_channels = d.in_channels * 2;
  } else if (kind == 0) {  // depthwise
    d.out_channels = d.groups = d.in_channels;
  } else if (kind <= 2) {
    d.groups = 2;
    d.in_channels += d.in_channels % 2;
    d.out_channels += d.out_channels % 2;
  }
}

// 0, 1, 2 on all sides, or a pad of its own on each; the kernel always fits.
inline void draw_padding(Rng& rng, const Target& t, pconv_conv_desc& d) {
  const int64_t same = rng.between(0, 3);
  int64_t* const pads[] = {&d.pad_top, &d.pad_left, &d.pad_bottom, &d.pad_right};
  for (int64_t* pad : pads) *pad = same < 3 ? same : rng.between(0, 3);
  const int64_t window_h = d.dilation_h * (d.kernel_h - 1) + 1, window_w = d.dilation_w * (d.kernel_w - 1) + 1;
  d.pad_bottom += std::max<int64_t>(0, window_h - (t.h + d.pad_top + d.pad_bottom));
  d.pad_right += std::max<int64_t>(0, window_w - (t.w + d.pad_left + d.pad_right));
}

// A map that a whole-map ukernel takes.
inline void draw_whole_map(Rng& rng, const Way& way, pconv_conv_desc& d, Target& t) {
  d.pad_top = d.pad_left = d.pad_bottom = d.pad_right = 1;
  t.w = rng.between(1, std::min(way.lanes - 1, way.map_pixels));
  t.h = rng.between(1, way.map_pixels / t.w);
}

// 1..12 masks: the four SCPs first, four-tap ones, or any of one to nine taps.
inline std::vector<int> draw_patterns(Rng& rng) {
  constexpr int kScp[] = {0x03a, 0x09a, 0x0b8, 0x0b2};
  const int kind = static_cast<int>(rng.between(0, 2));
  std::vector<int> masks(static_cast<size_t>(rng.between(1, 12)));
  for (size_t i = 0; i < masks.size(); ++i) {
    do {
      masks[i] = static_cast<int>(rng.between(1, 511));
    } while (kind < 2 && __builtin_popcount(static_cast<unsigned>(masks[i])) != 4);
    if (kind == 0 && i < 4) masks[i] = kScp[i];
  }
  return masks;
}

// Integers of which no sum of k products, a bias and a residual reaches 2^24; or real numbers of mixed magnitude.
struct Numbers {
  bool exact;
  int64_t factor;  // largest weight or input
  float nonzero(Rng& rng) const {
    const float sign = rng.chance(0.5) ? 1.0f : -1.0f;
    if (exact) return sign * static_cast<float>(rng.between(1, factor));
    return sign * static_cast<float>((0.001 + rng.unit()) * (rng.chance(0.1) ? 64.0 : 1.0));
  }
  float any(Rng& rng) const { return rng.chance(0.05) ? 0.0f : nonzero(rng); }
  float sum(Rng& rng) const { return exact ? static_cast<float>(rng.between(-(1 << 20), 1 << 20)) : 4 * any(rng); }
};

// Kernel size, stride and dilation of a layer that no pattern ukernel takes.
inline void draw_geometry(Rng& rng, pconv_conv_desc& d) {
  int64_t* const kernel[] = {&d.kernel_h, &d.kernel_w};
  int64_t* const steps[] = {&d.stride_h, &d.stride_w, &d.dilation_h, &d.dilation_w};
  const int64_t square = rng.between(0, 9);  // 1x1 and 3x3 more often, 0: each side its own
  for (int64_t* k : kernel) *k = square == 0 ? rng.between(1, 7) : square < 4 ? 1 : square < 7 ? 3 : square - 2;
  const int64_t same = rng.between(0, 4);
  for (int64_t* s : steps) *s = same == 0 ? rng.between(1, 3) : 1;
  if (same == 1) d.stride_h = d.stride_w = rng.between(2, 3);
  if (same == 2) d.dilation_h = d.dilation_w = rng.between(2, 3);
}

// Any taps of a kernel, for general ukernels. Filters of a block keep the same taps.
inline int64_t draw_any_kernels(Rng& rng, double kept, int64_t block, Layer& layer) {
  const double tap_kept = rng.pick({1.0, 0.5, 0.2});
  layer.weights.assign(static_cast<size_t>(layer.conv.out_channels * layer.group_in() * layer.taps()), 0.0f);
  int64_t most = 0;
  for (int64_t o = 0; o < layer.conv.out_channels; ++o) {
    if (o % block > 0) {
      std::copy(layer.kernel(o - 1, 0), layer.kernel(o, 0), layer.kernel(o, 0));
      continue;
    }
    int64_t n_taps = 0;
    for (int64_t i = 0; i < layer.group_in(); ++i) {
      if (!rng.chance(kept)) continue;
      const int64_t at_least = rng.between(0, layer.taps() - 1);
      for (int64_t k = 0; k < layer.taps(); ++k) {
        const bool keep = k == at_least || rng.chance(tap_kept);
        layer.kernel(o, i)[k] = keep ? 1.0f : 0.0f;
        n_taps += keep;
      }
    }
    most = std::max(most, n_taps);
  }
  if (most == 0 && kept > 0) {
    for (int64_t o = 0; o < block; ++o) layer.kernel(o, 0)[0] = 1.0f;
    most = 1;
  }
  return most;
}

inline int64_t draw_kernels(Rng& rng, double kept, int taps, Layer& layer) {
  std::vector<int> masks = draw_patterns(rng);
  for (int& mask : masks) mask = (mask & taps) != 0 ? mask & taps : taps;
  layer.weights.assign(static_cast<size_t>(layer.conv.out_channels * layer.group_in() * 9), 0.0f);
  int64_t most = 0;
  for (int64_t o = 0; o < layer.conv.out_channels; ++o) {
    int64_t n_taps = 0;
    for (int64_t i = 0; i < layer.group_in(); ++i) {
      if (!rng.chance(kept)) continue;
      const int mask = masks[rng.next() % masks.size()];
      for (int k = 0; k < 9; ++k) layer.kernel(o, i)[k] = static_cast<float>(mask >> k & 1);
      n_taps += __builtin_popcount(static_cast<unsigned>(mask));
    }
    most = std::max(most, n_taps);
  }
  if (most == 0 && kept > 0) {
    layer.kernel(0, 0)[4] = 1.0f;
    most = 1;
  }
  return most;
}

// Output positions of an image.
inline int64_t out_size(const Layer& layer, const Target& t) {
  const pconv_conv_desc& d = layer.conv;
  const int64_t out_h = (t.h + d.pad_top + d.pad_bottom - d.dilation_h * (d.kernel_h - 1) - 1) / d.stride_h + 1;
  const int64_t out_w = (t.w + d.pad_left + d.pad_right - d.dilation_w * (d.kernel_w - 1) - 1) / d.stride_w + 1;
  return out_h * out_w;
}

inline void draw_numbers(Rng& rng, bool exact, int64_t most_taps, Case& c) {
  const double largest = std::sqrt(0x1p22 / static_cast<double>(std::max<int64_t>(most_taps, 1)));
  const Numbers numbers = {exact, std::min<int64_t>(2047, static_cast<int64_t>(largest))};
  for (float& w : c.layer.weights) w = w != 0.0f ? numbers.nonzero(rng) : 0.0f;
  const pconv_conv_desc& d = c.layer.conv;
  if (rng.chance(0.6)) c.layer.bias.resize(static_cast<size_t>(d.out_channels));
  for (float& b : c.layer.bias) b = numbers.sum(rng);
  c.x.resize(static_cast<size_t>(c.target.n * d.in_channels * c.target.h * c.target.w));
  for (float& v : c.x) v = numbers.any(rng);
  c.residual_mode = rng.pick({Residual::kNone, Residual::kNone, Residual::kSeparate, Residual::kAliasesOutput});
  if (c.residual_mode != Residual::kNone) {
    const int64_t positions = out_size(c.layer, c.target);
    c.residual.resize(static_cast<size_t>(c.target.n * d.out_channels * positions));
    for (float& v : c.residual) v = numbers.sum(rng);
  }
  const float scale = exact ? static_cast<float>(numbers.factor * numbers.factor) : 1.0f;
  constexpr float kLimits[][2] = {{-kInf, kInf}, {-kInf, kInf}, {0, kInf}, {0, 6}, {-1.5f, 2}, {-kInf, 1}};
  const float* limits = kLimits[rng.between(0, 5)];
  c.clamp_min = limits[0] * (limits[0] != 0 && exact ? 2 * scale : 1);
  c.clamp_max = limits[1] * (exact ? 2 * scale : 1);
}

inline std::string describe(const Case& c, int index, bool exact) {
  const pconv_conv_desc& d = c.layer.conv;
  return format(
      "case=%d mode=%s n=%lld ic=%lld oc=%lld groups=%lld kernel=%lldx%lld stride=%lld,%lld dilation=%lld,%lld "
      "h=%lld w=%lld pad=%lld,%lld,%lld,%lld layout=%s "
      "reorder=%d bias=%d residual=%d clamp=%g,%g",
      index, exact ? "exact" : "real", static_cast<long long>(c.target.n), static_cast<long long>(d.in_channels),
      static_cast<long long>(d.out_channels), static_cast<long long>(d.groups), static_cast<long long>(d.kernel_h),
      static_cast<long long>(d.kernel_w), static_cast<long long>(d.stride_h), static_cast<long long>(d.stride_w),
      static_cast<long long>(d.dilation_h), static_cast<long long>(d.dilation_w), static_cast<long long>(c.target.h),
      static_cast<long long>(c.target.w), static_cast<long long>(d.pad_top), static_cast<long long>(d.pad_left),
      static_cast<long long>(d.pad_bottom), static_cast<long long>(d.pad_right),
      c.target.layout == PCONV_NCHW ? "nchw" : "nhwc", c.target.reorder, !c.layer.bias.empty(),
      static_cast<int>(c.residual_mode), static_cast<double>(c.clamp_min), static_cast<double>(c.clamp_max));
}

// Of a layer and map that `way` takes.
inline Case make_case(int index, bool exact, const Way& way) {
  constexpr double kKept[] = {1.0, 0.9, 0.7, 0.5, 1 / 3.1, 1 / 6.98, 0.05, 0.0};
  Rng rng(options().seed * 1000003 + static_cast<uint64_t>(index) * 2 + (exact ? 1 : 0));
  Case c;
  const double drawn = index % 300 == 0 ? 0.0 : kKept[rng.between(0, 6)];
  // A block's filters keep the same kernels: of all blocks, or because every filter keeps every kernel.
  const int64_t block = way.block > 1 && rng.chance(0.6) ? way.block : 1;
  const double kept = way.block > 1 && block == 1 ? 1.0 : drawn;
  draw_shape(rng, kept, way.depthwise, c.layer, c.target);
  if (block > 1) {
    const int64_t step = block * c.layer.conv.groups;
    c.layer.conv.out_channels = (c.layer.conv.out_channels + step - 1) / step * step;
  }
  c.target.layout = way.layout(c.target.layout);
  const bool general = way.any_geometry() && (way.general || rng.chance(0.5));
  if (general) draw_geometry(rng, c.layer.conv);
  if (way.most_stride_w > 0) c.layer.conv.stride_w = std::min(c.layer.conv.stride_w, way.most_stride_w);
  if (way.stride > 0) c.layer.conv.stride_h = c.layer.conv.stride_w = way.stride;
  draw_padding(rng, c.target, c.layer.conv);
  if (way.map_pixels > 0) draw_whole_map(rng, way, c.layer.conv, c.target);
  const int64_t most_taps =
      general ? draw_any_kernels(rng, kept, block, c.layer) : draw_kernels(rng, kept, way.taps, c.layer);
  c.no_kernels = most_taps == 0;
  draw_numbers(rng, exact, most_taps, c);
  c.text = describe(c, index, exact);
  return c;
}

}  // namespace pconv_test
#endif  // PCONV_TESTS_NATIVE_CASES_H_
