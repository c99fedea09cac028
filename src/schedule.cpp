// Cuts (images x strips of rows x filters) into tasks. Sums never depend on the cut: each output belongs to one filter.
#include "schedule.h"

#include <algorithm>

namespace pconv {
namespace {

// Tasks per thread that keep dynamic scheduling balanced, and the fewest filters that a task may get.
constexpr int64_t kTasksPerThread = 4, kMinFilters = 16;
// Every chunk of filters packs the tiles anew: at most this share of a task's work, unless threads would have none.
constexpr double kMostPacking = 1.0 / 32;
// Cycles on AVX-512: to copy a vector into the tile, for a multiply-add, for a filter beside its multiply-adds.
constexpr double kPackCycles = 4.5, kMultiplyAddCycles = 0.5, kFilterCycles = 60;

// Filters whose work is 1 / kMostPacking times the packing of a tile.
int64_t filters_worth_packing(const pconv_plan& plan) {
  const KernelInfo& kernel = *plan.ukernel->info;
  const Prepacked& p = *plan.prepacked;
  const double vector_bytes = static_cast<double>(plan.isa->table->lanes) * sizeof(float);
  const double packing = static_cast<double>(tile_bytes(plan, *plan.ukernel)) / vector_bytes * kPackCycles;
  const double taps = static_cast<double>(p.n_taps) / static_cast<double>(plan.conv.out_channels);
  const double filter = taps * kernel.rows * kernel.vectors * kMultiplyAddCycles + kFilterCycles;
  return static_cast<int64_t>(packing / filter / kMostPacking) + 1;
}

int64_t choose_chunks(const pconv_plan& plan, int64_t strips, int64_t n_threads) {
  const int64_t filters = plan.conv.out_channels, enough = kTasksPerThread * n_threads;
  const int64_t wanted = std::min((enough + strips - 1) / strips, filters / filters_worth_packing(plan));
  int64_t chunks = std::max<int64_t>(1, std::min(wanted, filters / kMinFilters));
  // Few tasks must be a multiple of the threads.
  const auto even = [&] { return strips * chunks >= enough || strips * chunks % n_threads == 0; };
  while (chunks > 1 && !even()) --chunks;
  return even() ? chunks : std::max<int64_t>(1, std::min(n_threads, filters / kMinFilters));
}

}  // namespace

Schedule make_schedule(const pconv_plan& plan, int n_threads) {
  const int64_t strips = plan.n * plan.n_strips();
  Schedule s = {1, strips, n_threads};
  if (n_threads > 1 && strips > 0) {
    s.n_chunks = choose_chunks(plan, strips, n_threads);
    s.n_tasks = strips * s.n_chunks;
  }
  return s;
}

Chunk chunk_at(const pconv_plan& plan, const Schedule& schedule, int64_t index) {
  const std::vector<int64_t>& cost = plan.prepacked->cost_before;
  const auto n_filters = static_cast<int64_t>(plan.prepacked->filters.size());
  const int64_t block = std::max(plan.ukernel->info->block, 1);
  // First filter, or block of them, at which at least i / n_chunks of the work is done.
  const auto boundary = [&](int64_t i) -> int64_t {
    if (i == schedule.n_chunks) return n_filters;
    const int64_t share = cost.back() / schedule.n_chunks * i;
    const int64_t filter = std::lower_bound(cost.begin(), cost.end(), share) - cost.begin();
    return std::min((filter + block - 1) / block * block, n_filters);
  };
  const int64_t begin = boundary(index), end = boundary(index + 1);
  const int64_t per_group = plan.prepacked->group_filters;
  return {begin, end, begin / per_group, (end + per_group - 1) / per_group};
}

}  // namespace pconv
