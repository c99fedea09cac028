#include "prepack_taps.h"

#include <algorithm>
#include <tuple>

#include "cache_sizes.h"
#include "filter_taps.h"
#include "flat_tiles.h"
#include "tile_shape.h"

namespace pconv {
namespace {

// Work of a filter beside its taps, in taps.
constexpr int64_t kFilterCostInTaps = 8;
// The sums of a scatter program's filters share L1 with the planes and the weights that pass through.
constexpr int64_t kSumsBytes = kL1Bytes * 7 / 8;
constexpr int64_t kMostFilters = 256;

// A tap of a channel of its group, by what it reads.
struct Reads {
  int32_t channel, phase, kx, row;  // `row` of the image for output row 0
  bool shifted = false;             // it reads so for the output before; not a part of where

  auto key() const { return std::tie(channel, phase, kx, row); }
  bool same_plane(const Reads& o) const { return std::tie(channel, phase, kx) == std::tie(o.channel, o.phase, o.kx); }
};

Reads reads_at(const pconv_conv_desc& conv, int32_t channel, int64_t row, int64_t kx) {
  const int64_t n = conv.stride_h, phase = taps_share_planes(conv) ? ((row % n) + n) % n : row;
  return {channel, static_cast<int32_t>(phase), static_cast<int32_t>(kx), static_cast<int32_t>(row)};
}

// The kernel column that reads for an output what column kx reads for the next one of the row, where kx reads padding
// for the first one and for no other: then that column reads none for the first one, and is not shifted itself. Else
// -1.
int64_t column_before(const pconv_conv_desc& c, int64_t kx) {
  const int64_t first = kx * c.dilation_w - c.pad_left;
  if (first >= 0 || first + c.stride_w < 0 || c.stride_w % c.dilation_w != 0) return -1;
  const int64_t before = kx + c.stride_w / c.dilation_w;
  return before < c.kernel_w ? before : -1;
}

Reads reads_of(const pconv_conv_desc& conv, bool shift_columns, int32_t channel, int64_t tap) {
  const int64_t row = tap / conv.kernel_w * conv.dilation_h - conv.pad_top, kx = tap % conv.kernel_w;
  const int64_t before = shift_columns ? column_before(conv, kx) : -1;
  Reads reads = reads_at(conv, channel, row, before >= 0 ? before : kx);
  reads.shifted = before >= 0;
  return reads;
}

// Planes that the filters of each group read, with channels of the group. Of a 1x1 layer all: they lie in the image.
class PlaneList {
 public:
  PlaneList(const PackedView& view, const pconv_conv_desc& conv, bool shift_columns, FilterTaps* taps, Prepacked* out)
      : conv_(conv), out_(*out) {
    const int64_t per_group = conv.out_channels / conv.groups;
    out_.plane_begin.push_back(0);
    for (int64_t g = 0; g < conv.groups; ++g) {
      used_.clear();
      for (int32_t c = 0; is_pointwise(conv) && c < conv.in_channels / conv.groups; ++c) {
        used_.push_back(reads_of(conv, false, c, 0));
      }
      for (int64_t f = g * per_group; f < (g + 1) * per_group; f += view.header.block) {
        for (const Tap& tap : taps->of(f)) used_.push_back(reads_of(conv, shift_columns, tap.channel, tap.tap));
        if (used_.size() <= limit_) continue;
        sort_used();
        limit_ = std::max(limit_, 2 * used_.size());  // so that sorting costs little more than listing
      }
      sort_used();
      append_planes();
    }
  }

 private:
  void sort_used() {
    std::sort(used_.begin(), used_.end(), [](const Reads& a, const Reads& b) { return a.key() < b.key(); });
    used_.erase(
        std::unique(used_.begin(), used_.end(), [](const Reads& a, const Reads& b) { return a.key() == b.key(); }),
        used_.end());
  }

  void append_planes() {
    for (size_t i = 0; i < used_.size(); ++i) {
      const Reads& r = used_[i];
      if (i == 0 || !r.same_plane(used_[i - 1])) out_.planes.push_back({r.channel, r.kx, r.row, 1});
      Plane& plane = out_.planes.back();
      plane.n_rows = (r.row - plane.row) / static_cast<int32_t>(conv_.stride_h) + 1;
    }
    out_.plane_begin.push_back(static_cast<int64_t>(out_.planes.size()));
  }

  const pconv_conv_desc& conv_;
  Prepacked& out_;
  std::vector<Reads> used_;
  size_t limit_ = size_t{1} << 20;
};

// Common part of the two forms: filters in packed order, cut into units that stay together, each group filled up.
class TapForm {
 public:
  TapForm(const PackedView& view, const Ukernel& ukernel, bool shift_columns)
      : view_(view),
        conv_(desc_of(view.header)),
        info_(*ukernel.info),
        shape_(conv_, ukernel),
        window_floats_(info_.body == Body::kWindow ? static_cast<int64_t>(shape_.floats().value()) : 0),
        shift_columns_(shift_columns),
        taps_(view) {
    if (info_.planes()) PlaneList(view, conv_, shift_columns_, &taps_, out_.get());
  }

 protected:
  // Calls append(group, first filter, real filters) for each unit of out_->unit filters.
  template <class Append>
  void for_each_unit(int64_t unit, Append append) {
    const int64_t per_group = conv_.out_channels / conv_.groups;
    out_->unit = unit;
    out_->group_filters = (per_group + unit - 1) / unit * unit;
    for (int64_t g = 0; g < conv_.groups; ++g) {
      for (int64_t f = 0; f < per_group; f += unit) append(g, g * per_group + f, std::min(unit, per_group - f));
    }
  }

  // The filters of a unit; `costs` are those of the real ones.
  void append_filters(int64_t first, const std::vector<int64_t>& costs, int32_t steps) {
    for (int64_t b = 0; b < out_->unit; ++b) {
      const auto real = b < static_cast<int64_t>(costs.size());
      FilterProgram filter = {nullptr, nullptr, nullptr, nullptr, steps, -1, 0.0f};
      if (real) {
        filter.out_channel = static_cast<int32_t>(view_.filter_order[first + b]);
        if (view_.bias != nullptr) filter.bias = view_.bias[filter.out_channel];
      }
      out_->filters.push_back(filter);
      out_->cost_before.push_back(out_->cost_before.back() + (real ? costs[static_cast<size_t>(b)] : 0));
    }
  }

  // Where a tap reads: a plane_place() among the group's planes, or bytes from the start of the window's tile.
  int32_t offset(int64_t group, int32_t channel, int32_t tap) const {
    if (info_.planes()) return place(group, reads(channel, tap));
    const auto kernel_w = static_cast<int32_t>(conv_.kernel_w);
    const int64_t floats = channel * window_floats_ + shape_.tap(conv_, tap / kernel_w, tap % kernel_w);
    return static_cast<int32_t>(floats * static_cast<int64_t>(sizeof(float)));
  }

  Reads reads(int32_t channel, int32_t tap) const { return reads_of(conv_, shift_columns_, channel, tap); }

  // Planes are in the order of what they are read for.
  int32_t place(int64_t group, const Reads& reads) const {
    const auto begin = out_->planes.begin() + out_->plane_begin[static_cast<size_t>(group)];
    const auto end = out_->planes.begin() + out_->plane_begin[static_cast<size_t>(group) + 1];
    const auto behind = std::upper_bound(begin, end, reads, [&](const Reads& r, const Plane& p) {
      return r.key() < reads_at(conv_, p.channel, p.row, p.kx).key();
    });
    const Plane& plane = *(behind - 1);
    return plane_place(behind - 1 - begin, (reads.row - plane.row) / conv_.stride_h);
  }

  const PackedView& view_;
  const pconv_conv_desc conv_;
  const KernelInfo& info_;
  const TileShape shape_;
  const int64_t window_floats_;  // of a channel
  const bool shift_columns_;
  FilterTaps taps_;
  std::shared_ptr<Prepacked> out_ = std::make_shared<Prepacked>();
};

// Per block of filters an offset and the block's weights for every tap that one of them keeps.
class TapStream : TapForm {
 public:
  using TapForm::TapForm;

  std::shared_ptr<const Prepacked> build() {
    for_each_unit(info_.block, [&](int64_t group, int64_t first, int64_t n) { append_block(group, first, n); });
    out_->weights.insert(out_->weights.end(), kWeightsBehind, 0.0f);
    for (size_t f = 0; f < out_->filters.size(); ++f) {
      const Begin& begin = begins_[f / static_cast<size_t>(info_.block)];
      out_->filters[f].weights = out_->weights.data() + begin.weights;
      out_->filters[f].tile_offsets = out_->offsets.data() + begin.offsets;
    }
    return out_;
  }

 private:
  struct Begin {
    size_t weights, offsets;
  };
  struct Kept {
    Tap tap;
    int64_t place;  // in the block
  };

  void append_block(int64_t group, int64_t first, int64_t n) {
    begins_.push_back({out_->weights.size(), out_->offsets.size()});
    kept_.clear();
    for (int64_t b = 0; b < n; ++b) {
      for (const Tap& tap : taps_.of(first + b)) kept_.push_back({tap, b});
    }
    std::sort(kept_.begin(), kept_.end(), [](const Kept& a, const Kept& b) {
      return std::tie(a.tap.channel, a.tap.tap, a.place) < std::tie(b.tap.channel, b.tap.tap, b.place);
    });
    const Tap* last = nullptr;
    for (const Kept& k : kept_) {
      if (last == nullptr || k.tap.channel != last->channel || k.tap.tap != last->tap) {
        out_->offsets.push_back(offset(group, k.tap.channel, k.tap.tap));
        out_->weights.resize(out_->weights.size() + static_cast<size_t>(info_.block), 0.0f);
      }
      out_->weights[out_->weights.size() - static_cast<size_t>(info_.block - k.place)] = k.tap.weight;
      last = &k.tap;
    }
    const auto steps = static_cast<int64_t>(out_->offsets.size() - begins_.back().offsets);
    // A block costs the same however many of its filters are real.
    std::vector<int64_t> costs(static_cast<size_t>(n), 0);
    costs[0] = (steps + kFilterCostInTaps) * info_.block;
    append_filters(first, costs, static_cast<int32_t>(steps));
    out_->n_taps += steps * n;
  }

  std::vector<Begin> begins_;
  std::vector<Kept> kept_;
};

// Per unit of filters the kernels of all of them by channel and taps, in parts of at most kScatterTaps.
class ScatterForm : TapForm {
 public:
  using TapForm::TapForm;

  std::shared_ptr<const Prepacked> build() {
    for_each_unit(scatter_unit(conv_, info_),
                  [&](int64_t group, int64_t first, int64_t n) { append_unit(group, first, n); });
    for (size_t u = 0; u < begins_.size(); ++u) {
      const Begin& b = begins_[u];
      const size_t end = u + 1 < begins_.size() ? begins_[u + 1].runs : out_->scatter_runs.size();
      out_->scatter.push_back({out_->scatter_runs.data() + b.runs, static_cast<int32_t>(end - b.runs),
                               out_->weights.data() + b.weights, out_->offsets.data() + b.sums});
    }
    return out_;
  }

 private:
  struct Begin {
    size_t runs, weights, sums;
  };
  // A kernel, or a part of one.
  struct Part {
    int32_t channel, n_taps;
    int32_t taps[kScatterTaps];
    int32_t filter;  // in the unit
    float weights[kScatterTaps];

    auto key() const { return std::tie(channel, n_taps, taps[0], taps[1], taps[2], taps[3]); }
  };
  static_assert(kScatterTaps == 4, "key() lists the taps");

  void append_unit(int64_t group, int64_t first, int64_t n) {
    begins_.push_back({out_->scatter_runs.size(), out_->weights.size(), out_->offsets.size()});
    parts_.clear();
    std::vector<int64_t> costs;
    for (int64_t f = 0; f < n; ++f) {
      const std::vector<Tap>& taps = taps_.of(first + f);
      for (size_t begin = 0, end = 0; begin < taps.size(); begin = end) {
        while (end < taps.size() && taps[end].channel == taps[begin].channel) ++end;
        append_kernel(&taps[begin], end - begin, static_cast<int32_t>(f));
      }
      costs.push_back(static_cast<int64_t>(taps.size()) + kFilterCostInTaps);
      out_->n_taps += static_cast<int64_t>(taps.size());
    }
    std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) {
      return a.key() != b.key() ? a.key() < b.key() : a.filter < b.filter;
    });
    for (size_t i = 0; i < parts_.size(); ++i) append_part(group, parts_[i], i > 0 ? &parts_[i - 1] : nullptr);
    append_filters(first, costs, 0);
  }

  // Parts of nearly the same size.
  void append_kernel(const Tap* taps, size_t n, int32_t filter) {
    const size_t n_parts = (n + kScatterTaps - 1) / kScatterTaps;
    for (size_t p = 0; p < n_parts; ++p) {
      Part part = {taps->channel, 0, {}, filter, {}};
      for (size_t t = n * p / n_parts; t < n * (p + 1) / n_parts; ++t) {
        part.taps[part.n_taps] = taps[t].tap;
        part.weights[part.n_taps++] = taps[t].weight;
      }
      parts_.push_back(part);
    }
  }

  void append_part(int64_t group, const Part& part, const Part* before) {
    if (before == nullptr || part.key() != before->key()) {
      ScatterRun run = {};
      run.n_taps = part.n_taps;
      for (int t = 0; t < part.n_taps; ++t) {
        const Reads r = reads(part.channel, part.taps[t]);
        run.places[t] = place(group, r);
        run.shifted |= uint32_t{r.shifted} << t;
      }
      out_->scatter_runs.push_back(run);
    }
    ++out_->scatter_runs.back().n_kernels;
    out_->weights.insert(out_->weights.end(), part.weights, part.weights + kScatterTaps);
    out_->offsets.push_back(part.filter * info_.carry_floats);
  }

  std::vector<Begin> begins_;
  std::vector<Part> parts_;
};

// Filters of one channel each.
class DepthwiseForm : TapForm {
 public:
  using TapForm::TapForm;

  std::shared_ptr<const Prepacked> build() {
    std::vector<size_t> begins;
    for_each_unit(1, [&](int64_t group, int64_t first, int64_t) {
      begins.push_back(out_->depthwise_taps.size());
      for (const Tap& tap : taps_.of(first)) append_tap(tap);
      const auto n = static_cast<int64_t>(out_->depthwise_taps.size() - begins.back());
      append_filters(first, {n + kFilterCostInTaps}, 0);
      out_->n_taps += n;
      const FilterProgram& filter = out_->filters.back();
      out_->depthwise.push_back(
          {nullptr, static_cast<int32_t>(n), static_cast<int32_t>(group), filter.out_channel, filter.bias});
    });
    for (size_t f = 0; f < begins.size(); ++f) out_->depthwise[f].taps = out_->depthwise_taps.data() + begins[f];
    return out_;
  }

 private:
  void append_tap(const Tap& tap) {
    if (info_.body == Body::kDwDirect) return out_->depthwise_taps.push_back({tap.tap, 0, tap.weight});
    const int64_t ky = tap.tap / conv_.kernel_w, column = tap.tap % conv_.kernel_w * conv_.dilation_w;
    out_->depthwise_taps.push_back(
        {static_cast<int32_t>(ky * conv_.dilation_h * conv_.stride_w + column % conv_.stride_w),
         static_cast<int32_t>(column / conv_.stride_w), tap.weight});
  }
};

}  // namespace

ChannelPlanes channel_planes(const pconv_packed& packed, bool shift_columns) {
  const PackedView& v = packed.view;
  const pconv_conv_desc conv = desc_of(v.header);
  std::vector<Reads> reads;
  for (int64_t tap = 0; tap < conv.kernel_h * conv.kernel_w; ++tap) {
    const auto keeps = [&](uint32_t mask) {
      return (v.masks[static_cast<int64_t>(mask) * v.mask_words + tap / 64] >> (tap % 64)) & 1;
    };
    for (uint32_t m = 0; m < v.header.n_patterns; ++m) {
      if (!keeps(m)) continue;
      reads.push_back(reads_of(conv, shift_columns, 0, tap));
      break;
    }
  }
  std::sort(reads.begin(), reads.end(), [](const Reads& a, const Reads& b) { return a.key() < b.key(); });
  ChannelPlanes planes = {0, 1};
  for (size_t i = 0, first = 0; i < reads.size(); ++i) {
    if (i == 0 || !reads[i].same_plane(reads[i - 1])) {
      ++planes.n;
      first = i;
    }
    planes.most_rows = std::max(planes.most_rows, (reads[i].row - reads[first].row) / conv.stride_h + 1);
  }
  planes.n = std::max<int64_t>(planes.n, 1);
  return planes;
}

int64_t scatter_unit(const pconv_conv_desc& conv, const KernelInfo& kernel) {
  const int64_t per_group = conv.out_channels / conv.groups;
  const int64_t most = std::min(kMostFilters, kSumsBytes / (kernel.carry_floats * static_cast<int64_t>(sizeof(float))));
  const int64_t units = (per_group + most - 1) / most;
  return (per_group + units - 1) / units;
}

bool block_fits(const pconv_packed& packed, int64_t block) {
  const PackedView& v = packed.view;
  const pconv_conv_desc conv = desc_of(v.header);
  if (block == 1 || v.header.block % block == 0) return true;
  const int64_t all = v.n_units() * (conv.in_channels / conv.groups);
  return static_cast<int64_t>(v.header.n_kernels) == all;
}

std::shared_ptr<const Prepacked> prepack_taps(const pconv_packed& packed, const Ukernel& ukernel, bool shift_columns) {
  if (ukernel.info->body == Body::kScatter) return ScatterForm(packed.view, ukernel, shift_columns).build();
  if (ukernel.info->depthwise()) return DepthwiseForm(packed.view, ukernel, false).build();
  return TapStream(packed.view, ukernel, false).build();
}

}  // namespace pconv
