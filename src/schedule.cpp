// Cuts (images x strips of rows x filters) into tasks. Sums never depend on the cut: each output belongs to one filter.
#include "schedule.h"

#include <algorithm>

namespace pconv {
namespace {

// Tasks per thread that keep dynamic scheduling balanced, and the fewest filters that pay for packing a tile again.
constexpr int64_t kTasksPerThread = 4, kMinFilters = 16;

}  // namespace

Schedule make_schedule(const pconv_plan& plan, int n_threads) {
  const int64_t strips = plan.n * plan.n_strips();
  Schedule s = {1, strips, n_threads};
  if (n_threads > 1 && strips > 0) {
    const int64_t wanted = (kTasksPerThread * n_threads + strips - 1) / strips;
    s.n_chunks = std::max<int64_t>(1, std::min(wanted, plan.conv.out_channels / kMinFilters));
    s.n_tasks = strips * s.n_chunks;
  }
  return s;
}

Chunk chunk_at(const pconv_plan& plan, const Schedule& schedule, int64_t index) {
  const std::vector<int64_t>& cost = plan.prepacked->cost_before;
  // First filter at which at least i / n_chunks of the work is done.
  const auto boundary = [&](int64_t i) -> int64_t {
    if (i == schedule.n_chunks) return plan.conv.out_channels;
    const int64_t share = cost.back() / schedule.n_chunks * i;
    return std::lower_bound(cost.begin(), cost.end(), share) - cost.begin();
  };
  const int64_t begin = boundary(index), end = boundary(index + 1);
  const int64_t per_group = plan.conv.out_channels / plan.conv.groups;
  return {begin, end, begin / per_group, (end + per_group - 1) / per_group};
}

}  // namespace pconv
