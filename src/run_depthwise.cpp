// A strip's rows of the chunk's filters in one call: depthwise ukernels go from channel to channel themselves.
#include <algorithm>

#include "phases.h"
#include "runners.h"

namespace pconv {
namespace {

CheckedSize depthwise_scratch_bytes(const pconv_plan& p) {
  const int64_t lanes = p.isa->table->lanes;
  // The last vectors of a row read on behind it.
  const CheckedSize behind = checked(lanes * p.ukernel->info->vectors) * checked(sizeof(float));
  return (phase_bytes(p.conv, p.out_w, p.strip_rows(), lanes) + behind).round_up(kTileAlign);
}

void run_strip(const Task& task) {
  const pconv_plan& p = task.plan;
  const RunArgs& run = task.args;
  const int64_t y0 = task.strip * p.strip_rows(), rows = std::min(p.strip_rows(), p.out_h - y0);
  DepthwiseArgs args = {};
  args.image = run.x_at(task.image, 0);
  args.channel_stride = p.h * p.w;
  args.h = static_cast<int32_t>(p.h), args.w = static_cast<int32_t>(p.w);
  args.stride_h = static_cast<int32_t>(p.conv.stride_h), args.stride_w = static_cast<int32_t>(p.conv.stride_w);
  args.pad_left = static_cast<int32_t>(p.conv.pad_left);
  args.filters = p.prepacked->depthwise.data() + task.chunk.filter_begin;
  args.n_filters = static_cast<int32_t>(task.chunk.filter_end - task.chunk.filter_begin);
  args.phases = reinterpret_cast<float*>(task.scratch);
  args.phase_floats = static_cast<int32_t>(phase_floats(p.conv, p.out_w, p.isa->table->lanes).value());
  args.n_rows = static_cast<int32_t>(p.input_rows(rows));
  args.first_row = static_cast<int32_t>(y0 * p.conv.stride_h - p.conv.pad_top);
  args.rows = static_cast<int32_t>(rows);
  args.out_w = static_cast<int32_t>(p.out_w);
  args.plane_stride = p.out_h * p.out_w;
  args.out = run.y_at(task.image, y0 * p.out_w);
  args.residual = run.residual_at(task.image, y0 * p.out_w);
  args.clamp_min = run.clamp_min;
  args.clamp_max = run.clamp_max;
  p.isa->table->depthwise(args);
}

}  // namespace

const Runner kDepthwiseRunner = {depthwise_scratch_bytes, run_strip};

}  // namespace pconv
