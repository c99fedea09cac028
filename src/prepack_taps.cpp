#include "prepack_taps.h"

#include <algorithm>

#include "pack.h"
#include "tile_shape.h"

namespace pconv {
namespace {

// Work of a filter beside its steps, in steps.
constexpr int64_t kFilterCost = 8;
// Weights are read in fours.
constexpr size_t kReadBehind = 3;

// Builds the streams of one layer.
class TapStream {
 public:
  TapStream(const PackedView& view, const Ukernel& ukernel)
      : view_(view),
        conv_(desc_of(view.header)),
        shape_(conv_, ukernel),
        block_(ukernel.info->block),
        taps_(conv_.kernel_h * conv_.kernel_w),
        per_filter_(conv_.in_channels / conv_.groups * taps_),
        dense_(static_cast<size_t>(conv_.out_channels * per_filter_)) {
    unpack_weights(view, dense_.data(), nullptr);
  }

  std::shared_ptr<const Prepacked> build() {
    const int64_t per_group = conv_.out_channels / conv_.groups;
    for (int64_t first = 0; first < conv_.out_channels; first += per_group) {
      for (int64_t f = 0; f < per_group; f += block_) append_block(first + f, std::min(block_, per_group - f));
    }
    out_->group_filters = (per_group + block_ - 1) / block_ * block_;
    out_->weights.insert(out_->weights.end(), kReadBehind, 0.0f);
    for (size_t f = 0; f < out_->filters.size(); ++f) {
      const Begin& begin = begins_[f / static_cast<size_t>(block_)];
      out_->filters[f].weights = out_->weights.data() + begin.weights;
      out_->filters[f].tile_offsets = out_->offsets.data() + begin.offsets;
    }
    return out_;
  }

 private:
  struct Begin {
    size_t weights, offsets;
  };

  // Filters [first, first + n) in packed order, filled up to a block.
  void append_block(int64_t first, int64_t n) {
    begins_.push_back({out_->weights.size(), out_->offsets.size()});
    for (int64_t at = 0; at < per_filter_; ++at) append_step(first, n, at);
    const auto steps = static_cast<int32_t>(out_->offsets.size() - begins_.back().offsets);
    for (int64_t b = 0; b < block_; ++b) {
      FilterProgram filter = {nullptr, nullptr, nullptr, steps, -1, 0.0f};
      if (b < n) {
        filter.out_channel = static_cast<int32_t>(view_.filter_order[first + b]);
        if (view_.bias != nullptr) filter.bias = view_.bias[filter.out_channel];
      }
      out_->filters.push_back(filter);
      out_->cost_before.push_back(out_->cost_before.back() + steps + kFilterCost);
    }
    out_->n_taps += steps * n;
  }

  // Weight number `at` of the filters, where one of them kept it.
  void append_step(int64_t first, int64_t n, int64_t at) {
    const auto weight = [&](int64_t b) {
      return dense_[static_cast<size_t>(view_.filter_order[first + b] * per_filter_ + at)];
    };
    bool kept = false;
    for (int64_t b = 0; b < n; ++b) kept = kept || !(weight(b) == 0.0f);
    if (!kept) return;
    const int64_t channel = at / taps_, ky = at % taps_ / conv_.kernel_w, kx = at % conv_.kernel_w;
    const int64_t offset = channel * static_cast<int64_t>(shape_.floats().value()) + shape_.tap(conv_, ky, kx);
    out_->offsets.push_back(static_cast<int32_t>(offset * static_cast<int64_t>(sizeof(float))));
    for (int64_t b = 0; b < block_; ++b) out_->weights.push_back(b < n ? weight(b) : 0.0f);
  }

  const PackedView& view_;
  const pconv_conv_desc conv_;
  const TileShape shape_;
  const int64_t block_, taps_, per_filter_;
  std::vector<float> dense_;  // OIHW
  std::vector<Begin> begins_;
  std::shared_ptr<Prepacked> out_ = std::make_shared<Prepacked>();
};

}  // namespace

bool block_fits(const pconv_packed& packed, int64_t block) {
  const PackedView& v = packed.view;
  const pconv_conv_desc conv = desc_of(v.header);
  if (block == 1 || v.header.block % block == 0) return true;
  const int64_t all = v.n_units() * (conv.in_channels / conv.groups);
  return static_cast<int64_t>(v.header.n_kernels) == all;
}

std::shared_ptr<const Prepacked> prepack_taps(const pconv_packed& packed, const Ukernel& ukernel) {
  return TapStream(packed.view, ukernel).build();
}

}  // namespace pconv
