// Packed bytes -> what a 3x3 ukernel walks: byte offsets of channels in its tile, weights padded to whole registers,
// masks replaced by manifest patterns (a mask that has none is covered by the smallest that contains it), short runs
// merged.
#include "prepack.h"

#include <algorithm>
#include <mutex>
#include <numeric>

#include "merge_runs.h"
#include "prepack_taps.h"

namespace pconv {
namespace {

// What each mask of the layer runs as within `taps`: rather a row that the layer uses anyway, so that runs stay long.
std::vector<uint32_t> cover_masks(const PackedView& v, uint32_t taps) {
  const uint64_t* const end = v.masks + v.header.n_patterns;
  std::vector<bool> in_use(kManifestSize);
  for (uint32_t m = 0; m < kManifestSize; ++m) in_use[m] = std::find(v.masks, end, kManifest[m].mask) != end;
  std::vector<uint32_t> covers;
  for (const uint64_t* mask = v.masks; mask != end; ++mask) {
    covers.push_back(cover_mask(static_cast<uint32_t>(*mask), taps, in_use));
  }
  return covers;
}

// A kernel of the filter being built.
struct Kernel {
  uint32_t pattern;  // manifest id
  uint16_t channel;
  float weights[9];  // in the order of the covering pattern's taps

  // To a row that contains the taps of this one.
  void widen_to(uint32_t row) {
    if (row == pattern) return;
    float wide[9] = {};
    for (int t = 0, from = 0, to = 0; t < 9; ++t) {
      const bool here = (kManifest[pattern].mask >> t) & 1;
      if ((kManifest[row].mask >> t) & 1) wide[to++] = here ? weights[from] : 0.0f;
      from += here;
    }
    std::copy(wide, wide + 9, weights);
    pattern = row;
  }
};

// Kernels of filter number `place_in_block` of a unit, in packed order.
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
}

// Equal patterns together, in the order in which they come, after short runs have been merged.
void reorder_kernels(RunMerger* merger, std::vector<Kernel>* kernels) {
  std::vector<uint32_t> counts(kManifestSize, 0);
  for (const Kernel& k : *kernels) ++counts[k.pattern];
  const std::vector<uint32_t>& merged = merger->merge(counts);
  for (Kernel& k : *kernels) k.widen_to(merged[k.pattern]);
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

// As pruning left them: by channel, every change of the pattern begins a run. For measuring what reordering gains.
void natural_order(std::vector<Kernel>* kernels) {
  std::stable_sort(kernels->begin(), kernels->end(),
                   [](const Kernel& a, const Kernel& b) { return a.channel < b.channel; });
}

// Where a filter's parts begin in the arrays, until these have their final addresses.
struct Begin {
  size_t weights, kernels, runs;
};

// Appends and returns the work, in kernels.
int64_t append_filter(const std::vector<Kernel>& kernels, const KernelInfo& ukernel, Prepacked* out) {
  const auto tile_plane_bytes = static_cast<int32_t>(ukernel.tile_floats * sizeof(float));
  const size_t first_run = out->runs.size();
  for (const Kernel& k : kernels) {
    if (out->runs.size() == first_run || out->runs.back().pattern != k.pattern) out->runs.push_back({k.pattern, 0});
    ++out->runs.back().n_kernels;
    if (ukernel.whole_map()) {
      out->channels.push_back(k.channel);
    } else {
      out->offsets.push_back(static_cast<int32_t>(k.channel) * tile_plane_bytes);
    }
    out->weights.insert(out->weights.end(), k.weights, k.weights + kManifest[k.pattern].taps);
    out->weights.resize(out->weights.size() + weight_pitch(kManifest[k.pattern].taps) - kManifest[k.pattern].taps,
                        0.0f);
    out->n_taps += kManifest[k.pattern].taps;
  }
  return static_cast<int64_t>(kernels.size()) + kFilterCostInKernels;
}

std::shared_ptr<const Prepacked> build(const PackedView& v, const Ukernel& ukernel, bool reorder) {
  const KernelInfo& kernel = *ukernel.info;
  auto out = std::make_shared<Prepacked>();
  const std::vector<uint32_t> covers = cover_masks(v, kernel.taps);
  RunMerger merger(covers, kernel.taps, ukernel.isa->table->run_cost, double(kernel.rows * kernel.vectors));
  std::vector<Kernel> kernels;
  std::vector<Begin> begins;
  std::vector<int64_t> costs;
  uint64_t unit_weight = 0;
  for (int64_t unit = 0; unit < v.n_units(); ++unit) {
    uint64_t weight = 0;
    for (uint32_t b = 0; b < v.header.block; ++b) {
      weight = unit_weight;
      filter_kernels(v, covers, unit, b, &weight, &kernels);
      reorder ? reorder_kernels(&merger, &kernels) : natural_order(&kernels);
      begins.push_back({out->weights.size(), out->offsets.size() + out->channels.size(), out->runs.size()});
      costs.push_back(append_filter(kernels, kernel, out.get()));
    }
    unit_weight = weight;
  }
  out->offsets.insert(out->offsets.end(), kKernelsAhead, 0);  // read, and prefetched, behind the last kernel
  out->group_filters = v.header.out_channels / v.header.groups;
  std::vector<size_t> order(begins.size());  // of the filters: as packed, or as the layer had them
  std::iota(order.begin(), order.end(), size_t{0});
  if (!reorder) {
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return v.filter_order[a] < v.filter_order[b]; });
  }
  for (const size_t f : order) {
    const uint32_t original = v.filter_order[f];
    const size_t runs_end = f + 1 < begins.size() ? begins[f + 1].runs : out->runs.size();
    const bool map = kernel.whole_map();
    out->filters.push_back({out->weights.data() + begins[f].weights,
                            map ? nullptr : out->offsets.data() + begins[f].kernels,
                            map ? out->channels.data() + begins[f].kernels : nullptr, out->runs.data() + begins[f].runs,
                            static_cast<int32_t>(runs_end - begins[f].runs), static_cast<int32_t>(original),
                            v.bias != nullptr ? v.bias[original] : 0.0f});
    out->cost_before.push_back(out->cost_before.back() + costs[f]);
  }
  return out;
}

}  // namespace

bool taps_cover(const pconv_packed& packed, uint32_t taps) {
  const PackedView& v = packed.view;
  return std::all_of(v.masks, v.masks + v.header.n_patterns,
                     [&](uint64_t mask) { return (mask & ~uint64_t{taps}) == 0; });
}

std::shared_ptr<const Prepacked> prepack(const pconv_packed& packed, const Ukernel& ukernel, PrepackOptions options) {
  options.reorder = options.reorder || !ukernel.info->pattern();  // nothing else reorders
  std::unique_lock<std::mutex> lock(packed.cache_lock, std::try_to_lock);
  const auto build_any = [&] {
    return ukernel.info->pattern() ? build(packed.view, ukernel, options.reorder)
                                   : prepack_taps(packed, ukernel, options.shift_columns);
  };
  if (!lock.owns_lock()) return build_any();
  for (const auto& entry : packed.cache) {
    if (entry.ukernel == &ukernel && entry.options == options) return entry.prepacked;
  }
  std::shared_ptr<const Prepacked> fresh = build_any();
  packed.cache.push_back({&ukernel, options, fresh});
  return fresh;
}

}  // namespace pconv
