// Walks a plan: per task (image, band of rows, chunk of filters) packs tile after tile from left to right and runs the
// ukernel over the chunk's filters. NHWC is staged band by band, so that packing and ukernels know one layout only.
#include "run.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <new>

#include "checked.h"
#include "pool.h"
#include "schedule.h"
#include "status.h"

namespace pconv {
namespace {

// Output rows of a plane that NHWC is staged in.
int64_t stage_rows(const pconv_plan& plan) { return std::min<int64_t>(plan.ukernel->info->band_rows, plan.out_h); }

// Places of the parts of a thread's scratch, in bytes from its start; all multiples of kTileAlign.
struct ScratchLayout {
  CheckedSize carry, stage_in, stage_out, total;  // the packed tile comes first

  explicit ScratchLayout(const pconv_plan& plan) {
    const KernelInfo& kernel = *plan.ukernel->info;
    const CheckedSize bytes = checked(sizeof(float));
    carry = checked(tile_bytes(plan, *plan.ukernel)).round_up(kTileAlign);
    stage_in = (carry + checked(plan.conv.out_channels) * checked(kernel.carry_floats) * bytes).round_up(kTileAlign);
    stage_out = total = stage_in;
    if (plan.layout == PCONV_NHWC) {
      stage_out = (stage_in + checked(plan.conv.in_channels) *
                                  checked(std::min<int64_t>(kernel.band_rows + 2, plan.h)) * checked(plan.w) * bytes)
                      .round_up(kTileAlign);
      total = (stage_out + checked(plan.conv.out_channels) * checked(stage_rows(plan)) * checked(plan.out_w) * bytes)
                  .round_up(kTileAlign);
    }
  }
};

// One growing block of memory a thread, kept between calls so that a warm call allocates nothing.
class Arena {
 public:
  // Aligned to kTileAlign; null when memory is out.
  unsigned char* at_least(size_t bytes) {
    if (bytes > size_) {
      block_.reset();
      size_ = 0;
      block_.reset(static_cast<unsigned char*>(::operator new (bytes, std::align_val_t{kTileAlign}, std::nothrow)));
      if (block_ == nullptr) return nullptr;
      size_ = bytes;
    }
    return block_.get();
  }

 private:
  struct Free {
    void operator()(unsigned char* p) const { ::operator delete (p, std::align_val_t{kTileAlign}); }
  };
  std::unique_ptr<unsigned char, Free> block_;
  size_t size_ = 0;
};
thread_local Arena t_arena;

struct RunContext {
  const pconv_plan& plan;
  const pconv_run_args& args;
  Schedule schedule;
  ScratchLayout scratch;
  std::atomic<bool> out_of_memory{false};
};

// One task's place in the tensors.
struct Band {
  int64_t image, y0;     // first output row
  int rows;              // output rows
  int64_t rows_to_next;  // from here to the band that this thread will probably take next
  Chunk chunk;
};

constexpr int64_t kStageBlock = 16;  // pixels or channels that are transposed together: a cache line

// Input rows [first, first + n_rows) of the chunk's channels, NHWC -> planes [channel][n_rows][w].
void stage_input(const RunContext& ctx, const Band& band, int64_t first, int64_t n_rows, float* stage) {
  const pconv_plan& p = ctx.plan;
  const int64_t channels = p.conv.in_channels, per_group = channels / p.conv.groups;
  const int64_t c_begin = band.chunk.group_begin * per_group, c_end = band.chunk.group_end * per_group;
  for (int64_t r = 0; r < n_rows; ++r) {
    const float* row = ctx.args.x + ((band.image * p.h + first + r) * p.w) * channels;
    for (int64_t c0 = c_begin; c0 < c_end; c0 += kStageBlock) {
      const int64_t c1 = std::min(c0 + kStageBlock, c_end);
      for (int64_t x = 0; x < p.w; ++x) {
        for (int64_t c = c0; c < c1; ++c) stage[(c * n_rows + r) * p.w + x] = row[x * channels + c];
      }
    }
  }
}

// Between planes [out_channel][stage_rows()][out_w] and NHWC rows, for the chunk's filters.
template <bool kToStage, typename Tensor>
void move_output(const RunContext& ctx, const Band& band, Tensor* tensor, float* stage) {
  const pconv_plan& p = ctx.plan;
  const int64_t channels = p.conv.out_channels, rows = stage_rows(p);
  for (int r = 0; r < band.rows; ++r) {
    Tensor* row = tensor + ((band.image * p.out_h + band.y0 + r) * p.out_w) * channels;
    for (int64_t x0 = 0; x0 < p.out_w; x0 += kStageBlock) {
      const int64_t x1 = std::min(x0 + kStageBlock, p.out_w);
      for (int64_t f = band.chunk.filter_begin; f < band.chunk.filter_end; ++f) {
        const int64_t c = p.prepacked->filters[f].out_channel;
        float* plane_row = stage + (c * rows + r) * p.out_w;
        for (int64_t x = x0; x < x1; ++x) {
          if constexpr (kToStage) {
            plane_row[x] = row[x * channels + c];
          } else {
            row[x * channels + c] = plane_row[x];
          }
        }
      }
    }
  }
}

// Which lanes of tile t are outputs that this tile can store.
void set_lanes(const pconv_plan& p, int64_t t, Conv3x3Args* args) {
  const int64_t width = int64_t{p.ukernel->info->vectors} * p.isa->table->lanes;
  const int64_t x0 = p.columns.begin + t * p.columns.step;
  const bool first = t == 0, last = t + 1 == p.columns.n_tiles;
  args->has_prev = p.columns.carry && !first;
  args->has_next = p.columns.carry && !last;
  int64_t begin = std::max<int64_t>(0, -x0), end = std::min(width, p.out_w - x0);
  if (!p.columns.carry) {  // lanes at a shared edge lack a neighbour; the next tile has it
    if (!first) begin = 1;
    if (!last) end = width - 1;
  }
  const bool before_first = p.ukernel->info->vectors == 1 && t == 1 && p.columns.begin < 0;
  args->prev_lane_begin = before_first ? 1 : 0;
  args->lane_begin = static_cast<int32_t>(begin);
  args->lane_end = static_cast<int32_t>(std::max<int64_t>(end, 0));
}

// What to prefetch while tile t runs: the input of the next tile, and from the last tile of a band the first tile of
// the band that this thread will probably take next, whose pages nobody has touched yet.
void set_prefetch(const pconv_plan& p, const Band& band, int64_t t, const PackTileArgs& pack, Conv3x3Args* args) {
  args->next_input = nullptr;
  args->next_out = nullptr;
  if (p.conv.groups > 1) return;
  if (t + 1 < p.columns.n_tiles) {
    args->next_input = pack.image + pack.y0 * pack.row_stride + pack.x0 + p.columns.step;
    return;
  }
  const int64_t down = band.rows_to_next, rows = p.ukernel->info->band_rows;
  if (p.layout != PCONV_NCHW || band.y0 + down + rows > p.out_h || pack.y0 + down + rows + 2 > p.h) return;
  args->next_input = pack.image + (pack.y0 + down) * pack.row_stride;
  args->next_out = args->out - (p.columns.begin + t * p.columns.step) + down * args->row_stride;
}

// All tiles of a band, left to right. `x` is the plane of input channel 0 and `pack` says where its rows lie;
// `out` in `args` is row y0, column 0 of output channel 0.
void run_tiles(const pconv_plan& p, const Band& band, const float* x, PackTileArgs pack, Conv3x3Args args) {
  const int64_t groups = p.conv.groups;
  const int64_t in_per_group = p.conv.in_channels / groups, out_per_group = p.conv.out_channels / groups;
  args.n_channels = pack.n_channels;
  args.next_channel_stride = pack.channel_stride;
  args.next_row_stride = pack.row_stride;
  args.prefetch_tile = tile_bytes(p, *p.ukernel) > kL1Bytes;
  float *const carry = args.carry, *const out = args.out;
  const float* const residual = args.residual;
  for (int64_t t = 0; t < p.columns.n_tiles; ++t) {
    const int64_t x0 = p.columns.begin + t * p.columns.step;
    pack.x0 = static_cast<int32_t>(x0 + 1 - p.conv.pad_left);
    set_lanes(p, t, &args);
    args.out = out + x0;
    args.residual = residual != nullptr ? residual + x0 : nullptr;
    for (int64_t g = band.chunk.group_begin; g < band.chunk.group_end; ++g) {
      const int64_t begin = std::max(g * out_per_group, band.chunk.filter_begin);
      const int64_t end = std::min((g + 1) * out_per_group, band.chunk.filter_end);
      pack.image = x + g * in_per_group * pack.channel_stride;
      p.ukernel->info->pack(pack);
      set_prefetch(p, band, t, pack, &args);
      args.filters = p.prepacked->filters.data() + begin;
      args.n_filters = static_cast<int32_t>(end - begin);
      args.carry = carry + (begin - band.chunk.filter_begin) * p.ukernel->info->carry_floats;
      p.ukernel->info->compute(args);
    }
  }
}

void run_nchw(const RunContext& ctx, const Band& band, PackTileArgs pack, Conv3x3Args args) {
  const pconv_plan& p = ctx.plan;
  pack.channel_stride = p.h * p.w;
  pack.row_stride = p.w;
  pack.h = static_cast<int32_t>(p.h);
  pack.y0 = static_cast<int32_t>(band.y0 - p.conv.pad_top);
  args.plane_stride = p.out_h * p.out_w;
  args.row_stride = p.out_w;
  const ptrdiff_t first = band.image * p.conv.out_channels * args.plane_stride + band.y0 * p.out_w;
  args.out = ctx.args.y + first;
  args.residual = ctx.args.residual != nullptr ? ctx.args.residual + first : nullptr;
  run_tiles(p, band, ctx.args.x + band.image * p.conv.in_channels * pack.channel_stride, pack, args);
}

void run_nhwc(const RunContext& ctx, const Band& band, unsigned char* scratch, PackTileArgs pack, Conv3x3Args args) {
  const pconv_plan& p = ctx.plan;
  auto* stage_in = reinterpret_cast<float*>(scratch + ctx.scratch.stage_in.value());
  auto* stage_out = reinterpret_cast<float*>(scratch + ctx.scratch.stage_out.value());
  const int64_t y_in = band.y0 - p.conv.pad_top, tile_rows = p.ukernel->info->band_rows + 2;
  const int64_t first = std::min(std::max<int64_t>(y_in, 0), p.h);
  const int64_t n_rows = std::max<int64_t>(std::min(y_in + tile_rows, p.h) - first, 0);
  stage_input(ctx, band, first, n_rows, stage_in);
  pack.channel_stride = n_rows * p.w;
  pack.row_stride = p.w;
  pack.h = static_cast<int32_t>(n_rows);
  pack.y0 = static_cast<int32_t>(y_in - first);
  args.plane_stride = stage_rows(p) * p.out_w;
  args.row_stride = p.out_w;
  args.out = stage_out;
  if (ctx.args.residual != nullptr) {
    move_output<true>(ctx, band, ctx.args.residual, stage_out);
    args.residual = stage_out;
  }
  run_tiles(p, band, stage_in, pack, args);
  move_output<false>(ctx, band, ctx.args.y, stage_out);
}

void run_task(void* context, int64_t index) noexcept {
  auto& ctx = *static_cast<RunContext*>(context);
  const pconv_plan& p = ctx.plan;
  const Chunk chunk = chunk_at(p, ctx.schedule, index % ctx.schedule.n_chunks);
  if (chunk.filter_begin == chunk.filter_end) return;  // one filter held more than a chunk's share of the work
  unsigned char* scratch = t_arena.at_least(ctx.scratch.total.value());
  if (scratch == nullptr) {
    ctx.out_of_memory.store(true, std::memory_order_relaxed);
    return;
  }
  const int64_t place = index / ctx.schedule.n_chunks;
  const int rows = p.ukernel->info->band_rows;
  Band band = {place / p.n_bands(), place % p.n_bands() * rows, rows, ctx.schedule.bands_ahead * rows, chunk};
  band.rows = static_cast<int>(std::min<int64_t>(rows, p.out_h - band.y0));

  PackTileArgs pack = {};
  pack.n_channels = static_cast<int32_t>(p.conv.in_channels / p.conv.groups);
  pack.w = static_cast<int32_t>(p.w);
  pack.tile = reinterpret_cast<float*>(scratch);
  Conv3x3Args args = {};
  args.tile = pack.tile;
  args.rows = band.rows;
  args.carry = reinterpret_cast<float*>(scratch + ctx.scratch.carry.value());
  args.clamp_min = ctx.args.clamp_min;
  args.clamp_max = ctx.args.clamp_max;
  if (p.layout == PCONV_NCHW) {
    run_nchw(ctx, band, pack, args);
  } else {
    run_nhwc(ctx, band, scratch, pack, args);
  }
}

}  // namespace

int64_t scratch_bytes(const pconv_plan& plan) {
  const CheckedSize total = ScratchLayout(plan).total;
  return total.at_most(std::numeric_limits<ptrdiff_t>::max()) ? static_cast<int64_t>(total.value()) : -1;
}

pconv_status run_plan(const pconv_plan& plan, const pconv_run_args& args) {
  if (plan.n == 0) return PCONV_OK;
  const int n_threads = args.n_threads > 0 ? args.n_threads : default_threads();
  RunContext ctx{plan, args, make_schedule(plan, n_threads), ScratchLayout(plan)};
  parallel_for(ctx.schedule.n_tasks, n_threads, run_task, &ctx);
  if (ctx.out_of_memory.load()) {
    return fail(PCONV_OUT_OF_MEMORY, "scratch: could not allocate %lld bytes for a thread",
                static_cast<long long>(ctx.scratch.total.value()));
  }
  return PCONV_OK;
}

}  // namespace pconv
