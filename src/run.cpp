// Runs a plan: its tasks over the pool's threads, each with a thread's scratch, by the runner of its ukernel.
#include "run.h"

#include <atomic>
#include <cinttypes>
#include <limits>

#include "pool.h"
#include "runners.h"
#include "scratch.h"
#include "status.h"

namespace pconv {
namespace {

struct RunContext {
  const pconv_plan& plan;
  const RunArgs& args;
  const Runner& runner;
  Schedule schedule;
  std::atomic<bool> out_of_memory{false};
};

void run_task(void* context, int64_t index) noexcept {
  auto& ctx = *static_cast<RunContext*>(context);
  const pconv_plan& p = ctx.plan;
  const Chunk chunk = chunk_at(p, ctx.schedule, index % ctx.schedule.n_chunks);
  if (chunk.filter_begin == chunk.filter_end) return;  // one filter held more than a chunk's share of the work
  unsigned char* scratch = thread_scratch(static_cast<size_t>(p.scratch_bytes));
  if (scratch == nullptr) {
    ctx.out_of_memory.store(true, std::memory_order_relaxed);
    return;
  }
  const int64_t place = index / ctx.schedule.n_chunks;
  ctx.runner.run({p, ctx.args, chunk, place / p.n_strips(), place % p.n_strips(), ctx.schedule.strips_ahead, scratch});
}

}  // namespace

int64_t scratch_bytes(const pconv_plan& plan) {
  const CheckedSize total = runner_of(*plan.ukernel->info).scratch_bytes(plan);
  return total.at_most(std::numeric_limits<ptrdiff_t>::max()) ? static_cast<int64_t>(total.value()) : -1;
}

RunArgs contiguous(const pconv_plan& plan, const pconv_run_args& args) {
  const int64_t y_step = plan.conv.out_channels * plan.y_h() * plan.y_w();
  return {args, plan.conv.in_channels * plan.h * plan.w, y_step, y_step};
}

pconv_status run_plan(const pconv_plan& plan, const RunArgs& args) {
  if (plan.n == 0) return PCONV_OK;
  const int n_threads = args.n_threads > 0 ? args.n_threads : default_threads();
  RunContext ctx{plan, args, runner_of(*plan.ukernel->info), make_schedule(plan, n_threads)};
  parallel_for(ctx.schedule.n_tasks, n_threads, run_task, &ctx);
  if (ctx.out_of_memory.load()) {
    return fail(PCONV_OUT_OF_MEMORY, "scratch: could not allocate %" PRId64 " bytes for a thread", plan.scratch_bytes);
  }
  return PCONV_OK;
}

}  // namespace pconv
