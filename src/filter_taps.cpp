#include "filter_taps.h"

#include <algorithm>

namespace pconv {

FilterTaps::FilterTaps(const PackedView& view) : view_(view) {
  const auto n_taps = static_cast<int32_t>(view.header.kernel_h * view.header.kernel_w);
  for (uint32_t p = 0; p < view.header.n_patterns; ++p) {
    const uint64_t* mask = view.masks + uint64_t{p} * static_cast<uint64_t>(view.mask_words);
    std::vector<int32_t> taps;
    for (int32_t t = 0; t < n_taps; ++t) {
      if ((mask[t / 64] >> (t % 64)) & 1) taps.push_back(t);
    }
    pattern_taps_.push_back(std::move(taps));
  }
  uint64_t weight = 0;
  for (int64_t unit = 0; unit < view.n_units(); ++unit) {
    unit_weights_.push_back(weight);
    for (uint32_t r = view.run_start[unit]; r < view.run_start[unit + 1]; ++r) {
      weight += uint64_t{view.runs[r].n_kernels} * pattern_taps_[view.runs[r].pattern].size() * view.header.block;
    }
  }
}

const std::vector<Tap>& FilterTaps::of(int64_t filter) {
  const uint64_t block = view_.header.block, unit = static_cast<uint64_t>(filter) / block;
  uint64_t weight = unit_weights_[unit], kernel = view_.kernel_start[unit];
  taps_.clear();
  for (uint32_t r = view_.run_start[unit]; r < view_.run_start[unit + 1]; ++r) {
    const std::vector<int32_t>& pattern = pattern_taps_[view_.runs[r].pattern];
    for (uint32_t k = 0; k < view_.runs[r].n_kernels; ++k, weight += pattern.size() * block) {
      uint64_t from = weight + pattern.size() * (static_cast<uint64_t>(filter) % block);
      const int32_t channel = view_.channels[kernel++];
      for (const int32_t tap : pattern) taps_.push_back({channel, tap, view_.weight(from++)});
    }
  }
  std::sort(taps_.begin(), taps_.end(),
            [](const Tap& a, const Tap& b) { return a.channel != b.channel ? a.channel < b.channel : a.tap < b.tap; });
  return taps_;
}

}  // namespace pconv
