// Packed bytes -> what a 3x3 ukernel walks: byte offsets of channels in its tile, weights padded to whole registers,
// masks replaced by manifest patterns (a mask that has none is covered by the smallest that contains it).
#include "prepack.h"

#include <algorithm>
#include <mutex>

namespace pconv {
namespace {

struct ManifestRow {
  uint32_t mask;
  int taps;
};

constexpr int count_bits(uint32_t mask) {
  int n = 0;
  for (; mask != 0; mask &= mask - 1) ++n;
  return n;
}

constexpr ManifestRow kManifest[] = {
#define PCONV_PATTERN(id, name, mask) {mask, count_bits(mask)},
#include "pconv/patterns.def"
#undef PCONV_PATTERN
};
constexpr uint32_t kManifestSize = sizeof(kManifest) / sizeof(kManifest[0]);

constexpr bool is_row(uint32_t mask) {
  for (const ManifestRow& row : kManifest) {
    if (row.mask == mask) return true;
  }
  return false;
}
static_assert(is_row(kAllTaps) && is_row(kCrossTaps), "what covers every mask within a ukernel's taps must be a row");

// For each mask of the layer the manifest row within `taps` that runs it: itself, or the smallest that contains it, and
// among those rather one that the layer uses anyway, so that runs stay long.
std::vector<uint32_t> cover_masks(const PackedView& v, uint32_t taps) {
  std::vector<bool> in_use(kManifestSize, false);
  for (uint32_t p = 0; p < v.header.n_patterns; ++p) {
    for (uint32_t m = 0; m < kManifestSize; ++m) {
      if (kManifest[m].mask == v.masks[p]) in_use[m] = true;
    }
  }
  std::vector<uint32_t> covers(v.header.n_patterns);
  for (uint32_t p = 0; p < v.header.n_patterns; ++p) {
    const auto mask = static_cast<uint32_t>(v.masks[p]);
    uint32_t best = kManifestSize;
    for (uint32_t m = 0; m < kManifestSize; ++m) {
      if ((kManifest[m].mask & mask) != mask || (kManifest[m].mask & ~taps) != 0) continue;
      if (best == kManifestSize || kManifest[m].taps < kManifest[best].taps ||
          (kManifest[m].taps == kManifest[best].taps && in_use[m] && !in_use[best])) {
        best = m;
      }
    }
    covers[p] = best;  // the cross and the full kernel contain every mask within kCrossTaps and kAllTaps
  }
  return covers;
}

// A kernel of the filter being built.
struct Kernel {
  uint32_t pattern;  // manifest id
  uint16_t channel;
  float weights[9];  // in the order of the covering pattern's taps
};

// Kernels of filter `f`, in packed order but with equal manifest patterns together.
void filter_kernels(const PackedView& v, const std::vector<uint32_t>& covers, int64_t unit, uint32_t place_in_block,
                    uint64_t* weight, std::vector<Kernel>* kernels) {
  kernels->clear();
  uint64_t kernel = v.kernel_start[unit];
  for (uint64_t r = v.run_start[unit]; r < v.run_start[unit + 1]; ++r) {
    const auto mask = static_cast<uint32_t>(v.masks[v.runs[r].pattern]);
    const ManifestRow& cover = kManifest[covers[v.runs[r].pattern]];
    const int taps = count_bits(mask);
    for (uint32_t k = 0; k < v.runs[r].n_kernels; ++k, *weight += static_cast<uint64_t>(taps) * v.header.block) {
      Kernel out = {covers[v.runs[r].pattern], v.channels[kernel++], {}};
      uint64_t from = *weight + static_cast<uint64_t>(taps) * place_in_block;
      int place = 0;
      for (int t = 0; t < 9; ++t) {
        if (!((cover.mask >> t) & 1)) continue;
        out.weights[place++] = ((mask >> t) & 1) ? v.weight(from++) : 0.0f;
      }
      kernels->push_back(out);
    }
  }
  std::vector<uint32_t> first_seen;
  const auto rank = [&](uint32_t pattern) {
    return std::find(first_seen.begin(), first_seen.end(), pattern) - first_seen.begin();
  };
  for (const Kernel& k : *kernels) {
    if (rank(k.pattern) == static_cast<ptrdiff_t>(first_seen.size())) first_seen.push_back(k.pattern);
  }
  std::stable_sort(kernels->begin(), kernels->end(),
                   [&](const Kernel& a, const Kernel& b) { return rank(a.pattern) < rank(b.pattern); });
}

// Where a filter's parts begin in the arrays, until these have their final addresses.
struct Begin {
  size_t weights, offsets, runs;
};

void append_filter(const std::vector<Kernel>& kernels, int32_t tile_plane_bytes, Prepacked* out) {
  const size_t first_run = out->runs.size();
  for (const Kernel& k : kernels) {
    if (out->runs.size() == first_run || out->runs.back().pattern != k.pattern) out->runs.push_back({k.pattern, 0});
    ++out->runs.back().n_kernels;
    out->offsets.push_back(static_cast<int32_t>(k.channel) * tile_plane_bytes);
    out->weights.insert(out->weights.end(), k.weights, k.weights + kManifest[k.pattern].taps);
    out->weights.resize(out->weights.size() + weight_pitch(kManifest[k.pattern].taps) - kManifest[k.pattern].taps,
                        0.0f);
  }
}

std::shared_ptr<const Prepacked> build(const PackedView& v, const KernelInfo& kernel) {
  const auto tile_plane_bytes = static_cast<int32_t>(kernel.tile_floats * sizeof(float));
  auto out = std::make_shared<Prepacked>();
  const std::vector<uint32_t> covers = cover_masks(v, kernel.taps);
  std::vector<Kernel> kernels;
  std::vector<Begin> begins;
  out->cost_before.push_back(0);
  uint64_t unit_weight = 0;
  for (int64_t unit = 0; unit < v.n_units(); ++unit) {
    uint64_t weight = 0;
    for (uint32_t b = 0; b < v.header.block; ++b) {
      weight = unit_weight;
      filter_kernels(v, covers, unit, b, &weight, &kernels);
      begins.push_back({out->weights.size(), out->offsets.size(), out->runs.size()});
      append_filter(kernels, tile_plane_bytes, out.get());
      out->cost_before.push_back(out->cost_before.back() + static_cast<int64_t>(kernels.size()) + kFilterCost);
    }
    unit_weight = weight;
  }
  out->offsets.insert(out->offsets.end(), kKernelsAhead, 0);  // read, and prefetched, behind the last kernel
  for (size_t f = 0; f < begins.size(); ++f) {
    const uint32_t original = v.filter_order[f];
    const size_t runs_end = f + 1 < begins.size() ? begins[f + 1].runs : out->runs.size();
    out->filters.push_back({out->weights.data() + begins[f].weights, out->offsets.data() + begins[f].offsets,
                            out->runs.data() + begins[f].runs, static_cast<int32_t>(runs_end - begins[f].runs),
                            static_cast<int32_t>(original), v.bias != nullptr ? v.bias[original] : 0.0f});
  }
  return out;
}

}  // namespace

bool taps_cover(const pconv_packed& packed, uint32_t taps) {
  const PackedView& v = packed.view;
  return std::all_of(v.masks, v.masks + v.header.n_patterns,
                     [&](uint64_t mask) { return (mask & ~uint64_t{taps}) == 0; });
}

std::shared_ptr<const Prepacked> prepack(const pconv_packed& packed, const KernelInfo& kernel) {
  std::unique_lock<std::mutex> lock(packed.cache_lock, std::try_to_lock);
  if (!lock.owns_lock()) return build(packed.view, kernel);
  for (const auto& entry : packed.cache) {
    if (entry.kernel == &kernel) return entry.prepacked;
  }
  std::shared_ptr<const Prepacked> fresh = build(packed.view, kernel);
  packed.cache.push_back({&kernel, fresh});
  return fresh;
}

}  // namespace pconv
