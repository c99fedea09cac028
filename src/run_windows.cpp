// Per task packs tile after tile from left to right and runs the ukernel over the chunk's filters. NHWC is staged strip
// by strip, so that packing and ukernels know one layout only, and so are outputs that will be pooled.
#include <algorithm>

#include "cpu.h"
#include "runners.h"
#include "tile_shape.h"

namespace pconv {
namespace {

// Output rows of a plane that NHWC and what will be pooled are staged in.
int64_t stage_rows(const pconv_plan& plan) { return std::min(plan.strip_rows(), plan.out_h); }

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
      stage_out =
          (stage_in + checked(plan.conv.in_channels) * checked(std::min(plan.input_rows(plan.strip_rows()), plan.h)) *
                          checked(plan.w) * bytes)
              .round_up(kTileAlign);
    }
    if (plan.layout == PCONV_NHWC || plan.pool > 1) {
      total = (stage_out + checked(plan.conv.out_channels) * checked(stage_rows(plan)) * checked(plan.out_w) * bytes)
                  .round_up(kTileAlign);
    }
  }
};

// One task's place in the tensors.
struct Strip {
  int64_t image, y0, rows;  // first output row and their number
  int64_t rows_to_next;     // from here to the strip that this thread will probably take next
  Chunk chunk;
};

constexpr int64_t kStageBlock = 16;  // pixels or channels that are transposed together: a cache line

// Input rows [first, first + n_rows) of the chunk's channels, NHWC -> planes [channel][n_rows][w].
void stage_input(const Task& task, const Strip& strip, int64_t first, int64_t n_rows, float* stage) {
  const pconv_plan& p = task.plan;
  const int64_t channels = p.conv.in_channels, per_group = channels / p.conv.groups;
  const int64_t c_begin = strip.chunk.group_begin * per_group, c_end = strip.chunk.group_end * per_group;
  for (int64_t r = 0; r < n_rows; ++r) {
    const float* row = task.args.x_at(strip.image, (first + r) * p.w * channels);
    for (int64_t c0 = c_begin; c0 < c_end; c0 += kStageBlock) {
      const int64_t c1 = std::min(c0 + kStageBlock, c_end);
      for (int64_t x = 0; x < p.w; ++x) {
        for (int64_t c = c0; c < c1; ++c) stage[(c * n_rows + r) * p.w + x] = row[x * channels + c];
      }
    }
  }
}

// Between planes [out_channel][stage_rows()][out_w] and the NHWC rows of an image, for the chunk's filters.
template <bool kToStage, typename Tensor>
void move_output(const Task& task, const Strip& strip, Tensor* image, float* stage) {
  const pconv_plan& p = task.plan;
  const int64_t channels = p.conv.out_channels, rows = stage_rows(p);
  for (int r = 0; r < strip.rows; ++r) {
    Tensor* row = image + (strip.y0 + r) * p.out_w * channels;
    for (int64_t x0 = 0; x0 < p.out_w; x0 += kStageBlock) {
      const int64_t x1 = std::min(x0 + kStageBlock, p.out_w);
      for (int64_t f = strip.chunk.filter_begin; f < strip.chunk.filter_end; ++f) {
        const int64_t c = p.prepacked->filters[f].out_channel;
        if (c < 0) continue;
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

constexpr int32_t kNoSeam = 1 << 20;  // behind every tile

// Where tile t of a strip begins: the band that its first lane belongs to, and the output column of that lane.
struct Place {
  int64_t band, x0;
};

Place place_of(const pconv_plan& p, int64_t t) {
  const int64_t lane = t * p.columns.step;
  const int64_t band = p.columns.strip_bands > 1 ? lane / p.columns.span() : 0;
  return {band, p.columns.begin + lane - band * p.columns.span()};
}

// Which lanes of tile t are outputs that this tile can store, for a strip of one band.
void set_lanes(const pconv_plan& p, int64_t t, int64_t x0, TileArgs* args) {
  const int64_t width = p.ukernel->width();
  const bool first = t == 0, last = t + 1 == p.columns.n_tiles(1);
  args->has_prev = p.columns.carry && !first;
  args->has_next = p.columns.carry && !last;
  int64_t begin = std::max<int64_t>(0, -x0), end = std::min(width, p.out_w - x0);
  if (p.columns.overlap > 0) {  // lanes at a shared edge lack a neighbour; the next tile has it
    if (!first) begin = 1;
    if (!last) end = width - 1;
  }
  const bool before_first = p.ukernel->info->vectors == 1 && t == 1 && p.columns.begin < 0;
  args->prev_lane_begin = before_first ? 1 : 0;
  args->lane_begin = static_cast<int32_t>(begin);
  args->lane_end = static_cast<int32_t>(std::max<int64_t>(end, 0));
}

// The same for bands side by side, where every lane is an output of one of them.
void set_lanes_of_bands(const pconv_plan& p, const Strip& strip, const Place& place, TileArgs* args) {
  const int64_t lanes = p.isa->table->lanes, width = p.ukernel->info->vectors * lanes, span = p.columns.span();
  const int64_t band_rows = p.ukernel->info->band_rows, bands = p.bands_in(strip.rows);
  const int64_t at = place.band * span + place.x0, to_seam = span - place.x0, to_end = bands * span - at;
  args->has_prev = place.x0 > 0;
  args->has_next = to_end > width && to_seam != width;
  args->lane_end = static_cast<int32_t>(std::min(width, to_end));
  const bool seam = to_seam < std::min(width, to_end);
  args->seam = seam ? static_cast<int32_t>(to_seam) : kNoSeam;
  args->rows = static_cast<int32_t>(std::min(band_rows, strip.rows - place.band * band_rows));
  args->seam_rows = seam ? static_cast<int32_t>(std::min(band_rows, strip.rows - (place.band + 1) * band_rows)) : 0;
  args->prev_seam = 0;
  if (place.band > 0 && place.x0 < lanes) args->prev_seam = static_cast<int32_t>((lanes - place.x0) % lanes);
  args->near_seam = seam || args->prev_seam > 0;
}

// Lane 0 of a pattern ukernel that shifts sums holds the input of its centre tap, otherwise that of its first tap.
int64_t first_column(const pconv_plan& p) {
  return p.ukernel->info->pattern() && p.ukernel->info->body != Body::kLine ? 1 : 0;
}

// What to prefetch while tile t of n_tiles runs: the input of the next tile, and from the last tile of a strip the
// first tile of the strip that this thread will probably take next, whose pages nobody has touched yet. `y_in` is the
// image row of the strip's first row, `out` its first output row.
void set_prefetch(const pconv_plan& p, const Strip& strip, int64_t t, int64_t n_tiles, const PackTileArgs& pack,
                  int64_t y_in, const float* out, TileArgs* args) {
  args->next_input = nullptr;
  args->next_out = nullptr;
  if (p.conv.groups > 1 || p.ukernel->info->stride != 1) return;
  const int64_t rows = p.ukernel->info->band_rows;
  if (t + 1 < n_tiles) {
    const Place next = place_of(p, t + 1);
    args->next_input =
        pack.image + (y_in + next.band * rows) * pack.row_stride + next.x0 + first_column(p) - p.conv.pad_left;
    return;
  }
  const int64_t down = strip.rows_to_next;
  if (p.layout != PCONV_NCHW || p.pool > 1 || strip.y0 + down + rows > p.out_h || y_in + down + rows + 2 > p.h) return;
  args->next_input = pack.image + (y_in + down) * pack.row_stride;
  args->next_out = out + down * args->row_stride;
}

// All tiles of a strip, left to right. `x` is the plane of input channel 0 and `pack` says where its rows lie;
// `out` in `args` is row y0, column 0 of output channel 0.
void run_tiles(const pconv_plan& p, const Strip& strip, const float* x, PackTileArgs pack, TileArgs args) {
  const int64_t groups = p.conv.groups, band_rows = p.ukernel->info->band_rows;
  const int64_t in_per_group = p.conv.in_channels / groups, out_per_group = p.prepacked->group_filters;
  args.n_channels = pack.n_channels;
  args.next_channel_stride = pack.channel_stride;
  args.next_row_stride = pack.row_stride;
  args.prefetch_tile = tile_bytes(p, *p.ukernel) > l1_bytes();
  args.rows = static_cast<int32_t>(std::min(strip.rows, band_rows));
  args.seam = kNoSeam;
  args.seam_step = band_rows * args.row_stride - p.columns.span();
  pack.rows_to_next_band = static_cast<int32_t>(band_rows);
  pack.columns_of_band = static_cast<int32_t>(p.columns.span());
  if (!p.ukernel->info->pattern()) {
    const TileShape shape(p.conv, *p.ukernel);
    args.row_step = shape.row_step;
    pack.tile_rows = static_cast<int32_t>(shape.rows);
    pack.phases = static_cast<int32_t>(shape.phases);
    pack.row_floats = static_cast<int32_t>(shape.row_floats);
  }
  float *const carry = args.carry, *const out = args.out;
  const float* const residual = args.residual;
  const int64_t y_in = pack.y0, n_tiles = p.columns.n_tiles(p.bands_in(strip.rows));
  for (int64_t t = 0; t < n_tiles; ++t) {
    const Place place = place_of(p, t);
    if (p.columns.strip_bands > 1) {
      set_lanes_of_bands(p, strip, place, &args);
    } else {
      set_lanes(p, t, place.x0, &args);
    }
    const int64_t down = place.band * band_rows, to_lane_0 = down * args.row_stride + place.x0;
    pack.x0 = static_cast<int32_t>(place.x0 * p.conv.stride_w + first_column(p) - p.conv.pad_left);
    pack.y0 = static_cast<int32_t>(y_in + down);
    pack.seam = args.seam;
    args.out = out + to_lane_0;
    args.residual = residual != nullptr ? residual + to_lane_0 : nullptr;
    for (int64_t g = strip.chunk.group_begin; g < strip.chunk.group_end; ++g) {
      const int64_t begin = std::max(g * out_per_group, strip.chunk.filter_begin);
      const int64_t end = std::min((g + 1) * out_per_group, strip.chunk.filter_end);
      pack.image = x + g * in_per_group * pack.channel_stride;
      p.ukernel->info->pack(pack);
      set_prefetch(p, strip, t, n_tiles, pack, y_in, out, &args);
      args.filters = p.prepacked->filters.data() + begin;
      args.n_filters = static_cast<int32_t>(end - begin);
      args.carry = carry + (begin - strip.chunk.filter_begin) * p.ukernel->info->carry_floats;
      p.ukernel->info->compute(args);
    }
  }
}

// The maxima of a strip's outputs, which lie in the stage, for the chunk's filters.
void pool_stage(const Task& task, const Strip& strip, const float* stage) {
  const pconv_plan& p = task.plan;
  const int64_t rows = stage_rows(p);
  for (int64_t f = strip.chunk.filter_begin; f < strip.chunk.filter_end; ++f) {
    const int64_t c = p.prepacked->filters[static_cast<size_t>(f)].out_channel;
    if (c < 0) continue;
    float* const out = task.args.y_at(strip.image, (c * p.y_h() + strip.y0 / p.pool) * p.y_w());
    p.isa->table->pool_squares({stage + c * rows * p.out_w, out, p.out_w, p.y_w(), strip.rows / p.pool, p.y_w()});
  }
}

void run_nchw(const Task& task, const Strip& strip, const ScratchLayout& scratch, PackTileArgs pack, TileArgs args) {
  const pconv_plan& p = task.plan;
  pack.channel_stride = p.h * p.w;
  pack.row_stride = p.w;
  pack.h = static_cast<int32_t>(p.h);
  pack.y0 = static_cast<int32_t>(strip.y0 * p.conv.stride_h - p.conv.pad_top);
  args.plane_stride = p.out_h * p.out_w;
  args.row_stride = p.out_w;
  args.out = task.args.y_at(strip.image, strip.y0 * p.out_w);
  args.residual = task.args.residual_at(strip.image, strip.y0 * p.out_w);
  if (p.pool == 1) return run_tiles(p, strip, task.args.x_at(strip.image, 0), pack, args);
  auto* const stage = reinterpret_cast<float*>(task.scratch + scratch.stage_out.value());
  args.plane_stride = stage_rows(p) * p.out_w;
  args.out = stage;
  run_tiles(p, strip, task.args.x_at(strip.image, 0), pack, args);
  pool_stage(task, strip, stage);
}

void run_nhwc(const Task& task, const Strip& strip, const ScratchLayout& scratch, PackTileArgs pack, TileArgs args) {
  const pconv_plan& p = task.plan;
  auto* stage_in = reinterpret_cast<float*>(task.scratch + scratch.stage_in.value());
  auto* stage_out = reinterpret_cast<float*>(task.scratch + scratch.stage_out.value());
  const int64_t y_in = strip.y0 * p.conv.stride_h - p.conv.pad_top;
  const int64_t first = std::min(std::max<int64_t>(y_in, 0), p.h);
  const int64_t n_rows = std::max<int64_t>(std::min(y_in + p.input_rows(strip.rows), p.h) - first, 0);
  stage_input(task, strip, first, n_rows, stage_in);
  pack.channel_stride = n_rows * p.w;
  pack.row_stride = p.w;
  pack.h = static_cast<int32_t>(n_rows);
  pack.y0 = static_cast<int32_t>(y_in - first);
  args.plane_stride = stage_rows(p) * p.out_w;
  args.row_stride = p.out_w;
  args.out = stage_out;
  if (task.args.residual != nullptr) {
    move_output<true>(task, strip, task.args.residual_at(strip.image, 0), stage_out);
    args.residual = stage_out;
  }
  run_tiles(p, strip, stage_in, pack, args);
  move_output<false>(task, strip, task.args.y_at(strip.image, 0), stage_out);
}

void run_strip(const Task& task) {
  const pconv_plan& p = task.plan;
  const ScratchLayout scratch(p);
  Strip strip = {task.image, task.strip * p.strip_rows(), p.strip_rows(), task.strips_ahead * p.strip_rows(),
                 task.chunk};
  strip.rows = std::min(strip.rows, p.out_h - strip.y0);

  PackTileArgs pack = {};
  pack.n_channels = static_cast<int32_t>(p.conv.in_channels / p.conv.groups);
  pack.w = static_cast<int32_t>(p.w);
  pack.tile = reinterpret_cast<float*>(task.scratch);
  TileArgs args = {};
  args.tile = pack.tile;
  args.carry = reinterpret_cast<float*>(task.scratch + scratch.carry.value());
  args.clamp_min = task.args.clamp_min;
  args.clamp_max = task.args.clamp_max;
  if (p.layout == PCONV_NCHW) {
    run_nchw(task, strip, scratch, pack, args);
  } else {
    run_nhwc(task, strip, scratch, pack, args);
  }
}

CheckedSize window_scratch_bytes(const pconv_plan& plan) { return ScratchLayout(plan).total; }

}  // namespace

const Runner kWindowRunner = {window_scratch_bytes, run_strip};

}  // namespace pconv
