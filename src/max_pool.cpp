#include "max_pool.h"

#include <algorithm>
#include <atomic>

#include "pool.h"
#include "scratch.h"
#include "status.h"

namespace pconv {
namespace {

// The lines of some output rows stay in L1 beside the input rows that stream by.
constexpr int64_t kLinesBytes = 16 << 10;
struct Pooling {
  MaxPoolArgs all;  // all planes; no scratch yet
  MaxPoolFn run;
  int64_t n_tasks;
  std::atomic<bool> out_of_memory{false};

  size_t scratch_bytes() const { return static_cast<size_t>(all.line_rows * all.line_floats) * sizeof(float); }
};

void run_task(void* context, int64_t index) noexcept {
  auto& pooling = *static_cast<Pooling*>(context);
  MaxPoolArgs args = pooling.all;
  args.lines = reinterpret_cast<float*>(thread_scratch(pooling.scratch_bytes()));
  if (args.lines == nullptr) {
    pooling.out_of_memory.store(true, std::memory_order_relaxed);
    return;
  }
  const int64_t begin = args.planes * index / pooling.n_tasks, end = args.planes * (index + 1) / pooling.n_tasks;
  args.in += begin * args.h * args.w;
  args.out += begin * args.out_h * args.out_w;
  args.planes = end - begin;
  pooling.run(args);
}

}  // namespace

pconv_status max_pool(const pconv_max_pool_args& a, const IsaTable& table) {
  if (a.planes == 0) return PCONV_OK;
  const int n_threads = a.n_threads > 0 ? a.n_threads : default_threads();
  Pooling pooling = {{a.x, a.y, a.planes, a.h, a.w, a.out_h, a.out_w, a.kernel_h, a.kernel_w, a.stride_h, a.stride_w,
                      a.dilation_h, a.dilation_w, a.pad_top, a.pad_left, nullptr, 0, 0},
                     table.max_pool,
                     1};
  const int64_t span = (a.out_w - 1) * a.stride_w + (a.kernel_w - 1) * a.dilation_w + 1, lanes = table.lanes;
  pooling.all.line_floats = (span + lanes - 1) / lanes * lanes + kMaxPoolBehind * lanes;
  const int64_t rows = kLinesBytes / static_cast<int64_t>(sizeof(float)) / pooling.all.line_floats;
  pooling.all.line_rows = std::min(std::max<int64_t>(rows, 1), a.out_h);
  if (n_threads > 1) {
    const int64_t most = std::min(a.planes, n_threads * kTasksPerThread);
    pooling.n_tasks = std::min(std::max<int64_t>(a.planes * a.h * a.w / kTaskFloats, 1), most);
  }
  parallel_for(pooling.n_tasks, n_threads, run_task, &pooling);
  if (!pooling.out_of_memory.load()) return PCONV_OK;
  return fail(PCONV_OUT_OF_MEMORY, "scratch: could not allocate %zu bytes for a thread", pooling.scratch_bytes());
}

}  // namespace pconv
