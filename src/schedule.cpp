// Cuts (images x strips of rows x filters) into tasks. Sums never depend on the cut: each output belongs to one filter.
#include "schedule.h"

#include <algorithm>

namespace pconv {
namespace {

// The most tasks per thread that are looked at, and the fewest filters that a task may get.
constexpr int64_t kTasksPerThread = 4, kMinFilters = 16;
// Cycles on AVX-512: to copy a vector into the tile, for a multiply-add, for a filter beside its multiply-adds.
constexpr double kPackCycles = 4.5, kMultiplyAddCycles = 0.5, kFilterCycles = 60;
// More tasks balance threads of unequal speed better: worth this share of the predicted time.
constexpr double kWorthBalancing = 0.02;

// Predicted cycles of the threads for one tile of every strip (with planes: for all), with the filters cut into
// `chunks`.
class Cost {
 public:
  Cost(const pconv_plan& plan, int64_t strips, int64_t n_threads) : strips_(strips), threads_(n_threads) {
    const KernelInfo& kernel = *plan.ukernel->info;
    groups_ = static_cast<double>(plan.conv.groups);
    const auto tiles = static_cast<double>(kernel.planes() ? plan.planes.flat.strip_tiles : 1);
    const auto sums = static_cast<double>(kernel.rows * kernel.vectors) * tiles;
    const double tile_floats = kernel.planes() ? plan.planes.packed_floats()
                                               : static_cast<double>(tile_bytes(plan, *plan.ukernel)) / sizeof(float);
    packing_ = groups_ * tile_floats * tiles / static_cast<double>(plan.isa->table->lanes) * kPackCycles;
    filters_ = static_cast<double>(plan.prepacked->n_taps) * sums * kMultiplyAddCycles +
               static_cast<double>(plan.conv.out_channels) * kFilterCycles * tiles;
  }
  double operator()(int64_t chunks) const {
    // A chunk packs the groups of its filters.
    const double packing = packing_ * std::max(1.0 / groups_, 1.0 / static_cast<double>(chunks));
    const int64_t turns = (strips_ * chunks + threads_ - 1) / threads_;
    return static_cast<double>(turns) * (packing + filters_ / static_cast<double>(chunks));
  }

 private:
  int64_t strips_, threads_;
  double groups_, packing_, filters_;
};

int64_t choose_chunks(const pconv_plan& plan, int64_t strips, int64_t n_threads) {
  const int64_t most =
      std::max<int64_t>(1, std::min(plan.conv.out_channels / std::max(kMinFilters, plan.prepacked->unit),
                                    (kTasksPerThread * n_threads + strips - 1) / strips));
  const Cost cost(plan, strips, n_threads);
  double lowest = cost(1);
  for (int64_t chunks = 2; chunks <= most; ++chunks) lowest = std::min(lowest, cost(chunks));
  int64_t chunks = most;
  while (cost(chunks) > lowest * (1 + kWorthBalancing)) --chunks;
  return chunks;
}

}  // namespace

Schedule make_schedule(const pconv_plan& plan, int n_threads) {
  const int64_t strips = plan.n * plan.n_strips();
  Schedule s = {1, strips, 1};
  if (n_threads > 1 && strips > 0) {
    s.n_chunks = choose_chunks(plan, strips, n_threads);
    s.n_tasks = strips * s.n_chunks;
    s.strips_ahead = std::max<int64_t>(1, n_threads / s.n_chunks);
  }
  return s;
}

Chunk chunk_at(const pconv_plan& plan, const Schedule& schedule, int64_t index) {
  const std::vector<int64_t>& cost = plan.prepacked->cost_before;
  const auto n_filters = static_cast<int64_t>(plan.prepacked->filters.size());
  const int64_t unit = plan.prepacked->unit;
  // First filter, or unit of them, at which at least i / n_chunks of the work is done.
  const auto boundary = [&](int64_t i) -> int64_t {
    if (i == schedule.n_chunks) return n_filters;
    const int64_t share = cost.back() / schedule.n_chunks * i;
    const int64_t filter = std::lower_bound(cost.begin(), cost.end(), share) - cost.begin();
    return std::min((filter + unit - 1) / unit * unit, n_filters);
  };
  const int64_t begin = boundary(index), end = boundary(index + 1);
  const int64_t per_group = plan.prepacked->group_filters;
  return {begin, end, begin / per_group, (end + per_group - 1) / per_group};
}

}  // namespace pconv
