// OIHW weights -> packed bytes: layerwise information extraction (which patterns, how often, which connections) and
// filter kernel reorder (kernels of a filter by pattern, filters with equal runs side by side).
// PCONV (AAAI 2020, section 5) and PatDNN (ASPLOS 2020) describe both; docs/FORMAT.md is the result.
#include "pack.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "validate.h"
#include "write_packed.h"

namespace pconv {
namespace {

// Kept kernels of the layer with their patterns, before any reordering.
struct Extraction {
  int words = 0;                  // 64-bit words a mask
  std::vector<uint64_t> masks;    // [n_patterns][words], most frequent first
  std::vector<uint32_t> pattern;  // [filters][channels]; kEmpty for a kernel without weights
  uint32_t n_patterns = 0;
};
constexpr uint32_t kEmpty = UINT32_MAX;

// Mask of every kernel, [n_kernels][words]; zero words where nothing is kept.
std::vector<uint64_t> kernel_masks(const float* weights, size_t n_kernels, int taps, int words) {
  std::vector<uint64_t> masks(n_kernels * words, 0);
  for (size_t k = 0; k < n_kernels; ++k) {
    for (int t = 0; t < taps; ++t) {
      if (weights[k * taps + t] != 0.0f) masks[k * words + t / 64] |= uint64_t{1} << (t % 64);
    }
  }
  return masks;
}

// Numbers the distinct masks by falling frequency, equal ones by rising mask.
Extraction extract(const float* weights, size_t n_kernels, int taps) {
  Extraction e;
  e.words = (taps + 63) / 64;
  const std::vector<uint64_t> masks = kernel_masks(weights, n_kernels, taps, e.words);
  const auto mask = [&](size_t k) { return masks.data() + k * e.words; };
  const auto less = [&](size_t a, size_t b) {
    return std::lexicographical_compare(mask(a), mask(a) + e.words, mask(b), mask(b) + e.words);
  };
  std::vector<size_t> kept;
  for (size_t k = 0; k < n_kernels; ++k) {
    if (std::any_of(mask(k), mask(k) + e.words, [](uint64_t word) { return word != 0; })) kept.push_back(k);
  }
  std::sort(kept.begin(), kept.end(), [&](size_t a, size_t b) { return less(a, b) || (!less(b, a) && a < b); });

  struct Group {
    size_t begin, end;  // of `kept`: kernels with the same mask
  };
  std::vector<Group> groups;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (i == 0 || less(kept[i - 1], kept[i])) groups.push_back({i, i});
    groups.back().end = i + 1;
  }
  std::stable_sort(groups.begin(), groups.end(),
                   [](const Group& a, const Group& b) { return a.end - a.begin > b.end - b.begin; });
  e.pattern.assign(n_kernels, kEmpty);
  for (const Group& g : groups) {
    for (size_t i = g.begin; i < g.end; ++i) e.pattern[kept[i]] = e.n_patterns;
    e.masks.insert(e.masks.end(), mask(kept[g.begin]), mask(kept[g.begin]) + e.words);
    ++e.n_patterns;
  }
  return e;
}

// Largest number of filters, side by side, that always keep the same kernels with the same patterns, as block-punched
// pruning leaves them (Gong et al., TODAES 2022) and as dense layers have them; 1 when single filters differ.
uint32_t common_block(const Extraction& e, uint32_t out_channels, uint32_t groups, uint32_t channels) {
  const auto row = [&](uint32_t filter) { return e.pattern.data() + size_t{filter} * channels; };
  for (const uint32_t block : {8, 4, 2}) {
    if (out_channels / groups % block != 0) continue;
    bool same = true;
    for (uint32_t f = 0; f < out_channels && same; ++f) {
      same = std::equal(row(f), row(f) + channels, row(f / block * block));
    }
    if (same) return block;
  }
  return 1;
}

// A unit (`block` filters with the same kernels) after reordering its kernels.
struct Filter {
  uint32_t original;                   // its first filter
  std::vector<pconv_packed_run> runs;  // by rising pattern
  std::vector<uint16_t> channels;      // run by run, rising inside a run
};

std::vector<Filter> reorder(const Extraction& e, uint32_t block, uint32_t out_channels, uint32_t groups,
                            uint32_t channels) {
  std::vector<Filter> filters(out_channels / block);
  std::vector<uint16_t> order;
  for (uint32_t f = 0; f < out_channels / block; ++f) {
    const uint32_t* pattern = e.pattern.data() + size_t{f} * block * channels;
    order.clear();
    for (uint32_t c = 0; c < channels; ++c) {
      if (pattern[c] != kEmpty) order.push_back(static_cast<uint16_t>(c));
    }
    std::stable_sort(order.begin(), order.end(), [&](uint16_t a, uint16_t b) { return pattern[a] < pattern[b]; });
    Filter& filter = filters[f];
    filter.original = f * block;
    filter.channels = order;
    for (uint16_t c : order) {
      if (filter.runs.empty() || filter.runs.back().pattern != pattern[c]) filter.runs.push_back({pattern[c], 0});
      ++filter.runs.back().n_kernels;
    }
  }
  // Long filters first, equal lengths together, and among those equal runs: the run exits of neighbours then come at
  // the same counts and branch prediction learns them.
  const auto before = [](const Filter& a, const Filter& b) {
    if (a.channels.size() != b.channels.size()) return a.channels.size() > b.channels.size();
    const auto key = [](const pconv_packed_run& r) { return std::make_pair(r.pattern, ~r.n_kernels); };
    return std::lexicographical_compare(
        a.runs.begin(), a.runs.end(), b.runs.begin(), b.runs.end(),
        [&](const pconv_packed_run& x, const pconv_packed_run& y) { return key(x) < key(y); });
  };
  const uint32_t per_group = out_channels / groups / block;
  for (uint32_t g = 0; g < groups; ++g) {
    std::stable_sort(filters.begin() + g * per_group, filters.begin() + (g + 1) * per_group, before);
  }
  return filters;
}

// Kept weights of a unit: kernel by kernel, filter by filter, in tap order.
void append_weights(const Filter& filter, uint32_t block, const Extraction& e, const float* weights, int taps,
                    uint32_t channels, std::vector<float>* out) {
  size_t next = 0;
  for (const pconv_packed_run& run : filter.runs) {
    const uint64_t* mask = e.masks.data() + size_t{run.pattern} * e.words;
    for (uint32_t k = 0; k < run.n_kernels; ++k) {
      const size_t channel = filter.channels[next++];
      for (uint32_t b = 0; b < block; ++b) {
        const float* kernel = weights + ((size_t{filter.original} + b) * channels + channel) * taps;
        for (int t = 0; t < taps; ++t) {
          if ((mask[t / 64] >> (t % 64)) & 1) out->push_back(kernel[t]);
        }
      }
    }
  }
}

pconv_packed_header header_of(const pconv_conv_desc& c, uint32_t block) {
  pconv_packed_header h = {};
  const auto u32 = [](int64_t v) { return static_cast<uint32_t>(v); };
  h.out_channels = u32(c.out_channels), h.in_channels = u32(c.in_channels), h.groups = u32(c.groups);
  h.kernel_h = u32(c.kernel_h), h.kernel_w = u32(c.kernel_w);
  h.stride_h = u32(c.stride_h), h.stride_w = u32(c.stride_w);
  h.dilation_h = u32(c.dilation_h), h.dilation_w = u32(c.dilation_w);
  h.pad_top = u32(c.pad_top), h.pad_left = u32(c.pad_left);
  h.pad_bottom = u32(c.pad_bottom), h.pad_right = u32(c.pad_right);
  h.block = block;
  h.weight_type = PCONV_PACKED_FP32;
  return h;
}

}  // namespace

pconv_status pack_weights(const pconv_conv_desc& conv, const float* weights, const float* bias,
                          std::unique_ptr<pconv_packed>* packed) {
  const auto filters_n = static_cast<uint32_t>(conv.out_channels);
  const auto channels = static_cast<uint32_t>(conv.in_channels / conv.groups);
  const int taps = static_cast<int>(conv.kernel_h * conv.kernel_w);
  const Extraction e = extract(weights, size_t{filters_n} * channels, taps);
  const auto groups = static_cast<uint32_t>(conv.groups);
  const uint32_t block = common_block(e, filters_n, groups, channels);
  const std::vector<Filter> filters = reorder(e, block, filters_n, groups, channels);

  std::vector<uint32_t> filter_order, kernel_start{0}, run_start{0};
  std::vector<pconv_packed_run> runs;
  std::vector<uint16_t> kernel_channels;
  std::vector<float> kept;
  for (const Filter& f : filters) {
    for (uint32_t b = 0; b < block; ++b) filter_order.push_back(f.original + b);
    runs.insert(runs.end(), f.runs.begin(), f.runs.end());
    kernel_channels.insert(kernel_channels.end(), f.channels.begin(), f.channels.end());
    append_weights(f, block, e, weights, taps, channels, &kept);
    kernel_start.push_back(static_cast<uint32_t>(kernel_channels.size()));
    run_start.push_back(static_cast<uint32_t>(runs.size()));
  }
  PackedView view = {};
  view.header = header_of(conv, block);
  view.header.n_patterns = e.n_patterns;
  view.header.n_kernels = kernel_channels.size();
  view.header.n_runs = runs.size();
  view.header.n_weights = kept.size();
  view.mask_words = e.words;
  view.masks = e.masks.data();
  view.filter_order = filter_order.data();
  view.kernel_start = kernel_start.data();
  view.run_start = run_start.data();
  view.runs = runs.data();
  view.channels = kernel_channels.data();
  view.bias = bias;
  const std::vector<unsigned char> bytes = write_packed(view, kept.data());
  return read_packed(bytes.data(), bytes.size(), packed);
}

pconv_status read_packed(const void* bytes, size_t n_bytes, std::unique_ptr<pconv_packed>* packed) {
  auto p = std::make_unique<pconv_packed>();
  p->storage.reset(new uint64_t[n_bytes / 8 + 1]);
  p->n_bytes = n_bytes;
  std::memcpy(p->storage.get(), bytes, n_bytes);
  if (const pconv_status s = validate_packed(p->storage.get(), n_bytes, &p->view)) return s;
  *packed = std::move(p);
  return PCONV_OK;
}

void unpack_weights(const PackedView& v, float* weights, float* bias) {
  const pconv_packed_header& h = v.header;
  const uint64_t taps = uint64_t{h.kernel_h} * h.kernel_w, channels = h.in_channels / h.groups;
  std::fill(weights, weights + h.out_channels * channels * taps, 0.0f);
  uint64_t weight = 0;
  for (int64_t unit = 0; unit < v.n_units(); ++unit) {
    uint64_t kernel = v.kernel_start[unit];
    for (uint64_t r = v.run_start[unit]; r < v.run_start[unit + 1]; ++r) {
      const uint64_t* mask = v.masks + uint64_t{v.runs[r].pattern} * v.mask_words;
      for (uint32_t k = 0; k < v.runs[r].n_kernels; ++k, ++kernel) {
        for (uint32_t b = 0; b < h.block; ++b) {
          const uint64_t filter = v.filter_order[static_cast<uint64_t>(unit) * h.block + b];
          float* out = weights + (filter * channels + v.channels[kernel]) * taps;
          for (uint64_t t = 0; t < taps; ++t) {
            if ((mask[t / 64] >> (t % 64)) & 1) out[t] = v.weight(weight++);
          }
        }
      }
    }
  }
  if (bias != nullptr && v.bias != nullptr) std::copy(v.bias, v.bias + h.out_channels, bias);
}

}  // namespace pconv
