// Per group: writes the planes of the strip's tiles, unless they lie in the image, and runs the filters over them.
#include <algorithm>

#include "prepack_taps.h"
#include "runners.h"

namespace pconv {
namespace {

constexpr int64_t kLineFloats = kTileAlign / static_cast<int64_t>(sizeof(float));

// The planes of a 1x1 layer are the image's channels. They are read in place where whole vectors lie on lines; or, as
// loads over two lines take twice as long, where several multiply-adds share them, and nothing is read behind a
// channel.
bool reads_in_place(const pconv_plan& p) {
  if (!is_pointwise(p.conv)) return false;
  const int64_t floats = p.h * p.w;
  if (floats % kLineFloats == 0) return true;
  return p.ukernel->info->block > 1 && (floats % p.flat.lanes == 0 || p.isa->table->masks_loads);
}

// How planes lie in a thread's scratch, in floats. Taps of one kernel column share the rows of a plane, unless they
// need aligned loads (as above) or the tiles of a strip are but a part of a wide row.
struct PlanesLayout {
  bool share_rows;
  CheckedSize row, plane, total;

  explicit PlanesLayout(const pconv_plan& p) {
    const int64_t outputs = p.flat.strip_tiles * p.ukernel->info->vectors * p.flat.lanes, lanes = p.flat.lanes;
    const int64_t rows = p.channel_planes.most_rows;
    const bool alone = p.ukernel->info->block == 1 && p.isa->table->masks_loads;
    share_rows = !alone && outputs >= 2 * p.out_w;
    // A strip begins and ends anywhere in a row; a vector is written behind the last output.
    const CheckedSize strip_rows = checked(div_up(outputs, p.out_w) + 1);
    row = share_rows ? checked(p.out_w) : (checked(outputs) + checked(lanes)).round_up(kLineFloats);
    plane = share_rows ? (strip_rows + checked(rows - 1)) * row + checked(lanes) : checked(rows) * row;
    // An odd number of lines: planes would meet in few cache sets.
    plane = plane.round_up(2 * kLineFloats) + checked(kLineFloats);
    const CheckedSize n_planes = checked(p.conv.in_channels / p.conv.groups) * checked(p.channel_planes.n);
    total = n_planes * plane + checked(kLineFloats);  // the first output begins a line
    if (reads_in_place(p)) total = checked(0);
  }
};

// Places in a thread's scratch, in bytes from its start; the planes come first.
struct PlanesScratch {
  CheckedSize sums, total;

  PlanesScratch(const pconv_plan& p, const PlanesLayout& layout) {
    const KernelInfo& kernel = *p.ukernel->info;
    const CheckedSize bytes = checked(sizeof(float));
    sums = (layout.total * bytes).round_up(kTileAlign);
    const int64_t filters = kernel.body == Body::kScatter ? scatter_unit(p.conv, kernel) : 0;
    total = (sums + checked(filters) * checked(kernel.carry_floats) * bytes + checked(1)).round_up(kTileAlign);
  }
};

// What does not depend on the group.
PackPlanesArgs pack_args(const pconv_plan& p, const PlanesLayout& layout, int64_t first, int64_t end, float* scratch) {
  PackPlanesArgs pack = {};
  pack.channel_stride = p.h * p.w;
  pack.row_stride = p.w;
  pack.h = static_cast<int32_t>(p.h), pack.w = static_cast<int32_t>(p.w);
  pack.stride_h = static_cast<int32_t>(p.conv.stride_h), pack.stride_w = static_cast<int32_t>(p.conv.stride_w);
  pack.dilation_w = static_cast<int32_t>(p.conv.dilation_w), pack.pad_left = static_cast<int32_t>(p.conv.pad_left);
  const int64_t begin = p.flat.begin(first), first_row = begin / p.out_w, before = begin - first_row * p.out_w;
  pack.out_w = static_cast<int32_t>(p.out_w);
  pack.first_row = static_cast<int32_t>(first_row);
  pack.n_rows = static_cast<int32_t>((p.flat.begin(end) - 1) / p.out_w - first_row + 1);
  pack.before = static_cast<int32_t>(before);
  pack.n_outputs = static_cast<int32_t>(p.flat.begin(end) - begin);
  pack.share_rows = layout.share_rows;
  pack.plane_floats = static_cast<ptrdiff_t>(layout.plane.value());
  pack.row_floats = static_cast<ptrdiff_t>(layout.row.value());
  pack.planes_out = scratch + (layout.share_rows ? div_up(before, kLineFloats) * kLineFloats - before : 0);
  return pack;
}

// A group's planes: output 0 of the strip in the first one, and what they are apart, in floats.
struct GroupPlanes {
  const float* first;
  int64_t plane_floats, row_floats;
  bool in_place;
};

// The chunk's filters of a group on the tiles [first, end), unit by unit, so that a unit's weights stay in L2.
// out and residual in `args` are of output 0.
void run_tiles(const pconv_plan& p, const Chunk& chunk, int64_t group, const GroupPlanes& planes, int64_t first,
               int64_t end_tile, TileArgs args) {
  const int64_t unit = p.prepacked->unit, per_group = p.prepacked->group_filters;
  const int64_t begin = std::max(group * per_group, chunk.filter_begin);
  const int64_t end = std::min((group + 1) * per_group, chunk.filter_end);
  const bool scatter = p.ukernel->info->body == Body::kScatter;
  const int64_t step = scatter ? unit : end - begin;
  args.plane_bytes = planes.plane_floats * static_cast<int64_t>(sizeof(float));
  args.plane_row_bytes = planes.row_floats * static_cast<int64_t>(sizeof(float));
  float* const out = args.out;
  const float* const residual = args.residual;
  for (int64_t f = begin; f < end; f += step) {
    args.filters = p.prepacked->filters.data() + f;
    args.n_filters = static_cast<int32_t>(step);
    if (scatter) args.scatter = &p.prepacked->scatter[static_cast<size_t>(f / unit)];
    for (int64_t t = first; t < end_tile; ++t) {
      const int64_t at = p.flat.begin(t);
      args.tile = planes.first + (at - p.flat.begin(first));
      args.lane_end = static_cast<int32_t>(p.flat.begin(t + 1) - at);
      args.out = out + at;
      args.residual = residual != nullptr ? residual + at : nullptr;
      args.ragged_input = planes.in_place && t + 1 == p.flat.n_tiles && p.flat.outputs % p.flat.lanes != 0;
      const bool has_next = t + 1 < p.flat.n_tiles;
      args.next_out = has_next ? out + p.flat.begin(t + 1) : nullptr;
      p.ukernel->info->compute(args);
    }
  }
}

void run_strip(const Task& task) {
  const pconv_plan& p = task.plan;
  const PlanesLayout layout(p);
  const int64_t first = task.strip * p.flat.strip_tiles, end = std::min(first + p.flat.strip_tiles, p.flat.n_tiles);
  TileArgs args = {};
  args.rows = 1;
  args.carry = reinterpret_cast<float*>(task.scratch + PlanesScratch(p, layout).sums.value());
  args.plane_stride = p.flat.outputs;
  args.clamp_min = task.args.clamp_min;
  args.clamp_max = task.args.clamp_max;
  const int64_t first_plane = task.image * p.conv.out_channels * args.plane_stride;
  args.out = task.args.y + first_plane;
  args.residual = task.args.residual != nullptr ? task.args.residual + first_plane : nullptr;

  PackPlanesArgs pack = pack_args(p, layout, first, end, reinterpret_cast<float*>(task.scratch));
  const bool in_place = reads_in_place(p);
  const int64_t in_per_group = p.conv.in_channels / p.conv.groups;
  for (int64_t g = task.chunk.group_begin; g < task.chunk.group_end; ++g) {
    pack.image = task.args.x + (task.image * p.conv.in_channels + g * in_per_group) * pack.channel_stride;
    const int64_t plane_begin = p.prepacked->plane_begin[static_cast<size_t>(g)];
    pack.planes = p.prepacked->planes.data() + plane_begin;
    pack.n_planes = static_cast<int32_t>(p.prepacked->plane_begin[static_cast<size_t>(g) + 1] - plane_begin);
    GroupPlanes planes = {pack.image + p.flat.begin(first), pack.channel_stride, 0, true};
    if (!in_place) {
      p.isa->table->pack_planes(pack);
      planes = {pack.planes_out + (layout.share_rows ? pack.before : 0), pack.plane_floats, pack.row_floats, false};
    }
    run_tiles(p, task.chunk, g, planes, first, end, args);
  }
}

CheckedSize planes_scratch_bytes(const pconv_plan& plan) { return PlanesScratch(plan, PlanesLayout(plan)).total; }

}  // namespace

const Runner kPlanesRunner = {planes_scratch_bytes, run_strip};

}  // namespace pconv
