// Per group: writes the planes of the strip's tiles, unless they lie in the image, and runs the filters over them.
#include <algorithm>

#include "cpu.h"
#include "prepack_taps.h"
#include "runners.h"

namespace pconv {
namespace {

constexpr int64_t kLineFloats = kTileAlign / static_cast<int64_t>(sizeof(float));

// Places in a thread's scratch, in bytes from its start; the planes come first.
struct PlanesScratch {
  CheckedSize sums, total;

  explicit PlanesScratch(const pconv_plan& p) {
    const KernelInfo& kernel = *p.ukernel->info;
    const CheckedSize bytes = checked(sizeof(float));
    sums = (checked(p.planes.total) * bytes).round_up(kTileAlign);
    const int64_t filters = kernel.body == Body::kScatter ? scatter_unit(p.conv, kernel) : 0;
    total = (sums + checked(filters) * checked(kernel.carry_floats) * bytes + checked(1)).round_up(kTileAlign);
  }
};

// What does not depend on group and tiles.
PackPlanesArgs pack_args(const pconv_plan& p) {
  PackPlanesArgs pack = {};
  pack.channel_stride = p.h * p.w;
  pack.h = static_cast<int32_t>(p.h), pack.w = static_cast<int32_t>(p.w), pack.out_w = static_cast<int32_t>(p.out_w);
  // A channel of a 1x1 layer is one row.
  if (is_pointwise(p.conv)) pack.h = 1, pack.w = pack.out_w = static_cast<int32_t>(p.planes.flat.outputs);
  pack.row_stride = pack.w;
  pack.stride_h = static_cast<int32_t>(p.conv.stride_h), pack.stride_w = static_cast<int32_t>(p.conv.stride_w);
  pack.dilation_w = static_cast<int32_t>(p.conv.dilation_w), pack.pad_left = static_cast<int32_t>(p.conv.pad_left);
  pack.share_rows = p.planes.share_rows;
  pack.plane_floats = p.planes.plane;
  pack.row_floats = p.planes.row;
  return pack;
}

// Which outputs `pack` is about: those of the tiles [first, end).
void place_outputs(const pconv_plan& p, int64_t first, int64_t end, PackPlanesArgs* pack) {
  const int64_t begin = p.planes.flat.begin(first), last = p.planes.flat.begin(end) - 1,
                first_row = begin / pack->out_w;
  pack->first_row = static_cast<int32_t>(first_row);
  pack->n_rows = static_cast<int32_t>(last / pack->out_w - first_row + 1);
  pack->before = static_cast<int32_t>(begin - first_row * pack->out_w);
  pack->n_outputs = static_cast<int32_t>(last + 1 - begin);
}

// A group's planes: where output 0 of the strip reads the first one, and what they are apart, in floats.
struct GroupPlanes {
  const float* first;
  int64_t plane_floats, row_floats;
  int64_t tile_floats;  // 0: tiles lie side by side in the planes
  bool in_place;
};

// Writes the planes of the tiles [first, end).
GroupPlanes write_planes(const pconv_plan& p, PackPlanesArgs group, int64_t first, int64_t end, float* scratch) {
  const PlanesLayout& layout = p.planes;
  if (layout.share_rows) {
    place_outputs(p, first, end, &group);
    group.planes_out = scratch + div_up(group.before, kLineFloats) * kLineFloats - group.before;
    p.isa->table->pack_planes(group);
    return {group.planes_out + group.before, layout.plane, layout.row, 0, false};
  }
  for (int64_t t = first; t < end; ++t) {
    place_outputs(p, t, t + 1, &group);
    group.planes_out = scratch + (t - first) * layout.tile;
    p.isa->table->pack_planes(group);
  }
  return {scratch, layout.plane, layout.row, layout.tile, false};
}

// TileArgs::inner_lanes of the outputs [begin, end).
void mark_inner_lanes(const pconv_plan& p, int64_t begin, int64_t end, uint16_t* lanes) {
  std::fill(lanes, lanes + kMostScatterVectors, uint16_t{0xffff});
  for (int64_t j = div_up(begin, p.out_w) * p.out_w - begin; j < end - begin; j += p.out_w) {
    uint16_t& vector = lanes[j / p.planes.flat.lanes];
    vector = static_cast<uint16_t>(vector & ~(1u << j % p.planes.flat.lanes));
  }
}

// The chunk's filters of a group on the tiles [first, end), unit by unit, so that a unit's weights stay in L2.
// out and residual in `args` are of output 0.
void run_tiles(const pconv_plan& p, const Chunk& chunk, int64_t group, const GroupPlanes& planes, int64_t first,
               int64_t end_tile, TileArgs args) {
  const int64_t unit = p.prepacked->unit, per_group = p.prepacked->group_filters;
  const int64_t begin = std::max(group * per_group, chunk.filter_begin);
  const int64_t end = std::min((group + 1) * per_group, chunk.filter_end);
  const bool scatter = p.ukernel->info->body == Body::kScatter;
  const int64_t step = scatter ? unit : end - begin;
  args.prefetch_tile = p.planes.tile_bytes > l1_bytes();
  args.plane_bytes = planes.plane_floats * static_cast<int64_t>(sizeof(float));
  args.plane_row_bytes = planes.row_floats * static_cast<int64_t>(sizeof(float));
  uint16_t inner_lanes[kMostScatterVectors];
  args.inner_lanes = p.planes.shift_columns ? inner_lanes : nullptr;
  float* const out = args.out;
  const float* const residual = args.residual;
  for (int64_t f = begin; f < end; f += step) {
    args.filters = (scatter ? p.prepacked->filters : p.placed->filters).data() + f;
    args.n_filters = static_cast<int32_t>(step);
    if (scatter) args.scatter = &p.prepacked->scatter[static_cast<size_t>(f / unit)];
    for (int64_t t = first; t < end_tile; ++t) {
      const int64_t at = p.planes.flat.begin(t);
      args.tile =
          planes.first + (planes.tile_floats > 0 ? (t - first) * planes.tile_floats : at - p.planes.flat.begin(first));
      args.lane_end = static_cast<int32_t>(p.planes.flat.begin(t + 1) - at);
      args.out = out + at;
      args.residual = residual != nullptr ? residual + at : nullptr;
      if (p.planes.shift_columns) mark_inner_lanes(p, at, p.planes.flat.begin(t + 1), inner_lanes);
      args.ragged_input =
          planes.in_place && t + 1 == p.planes.flat.n_tiles && p.planes.flat.outputs % p.planes.flat.lanes != 0;
      p.ukernel->info->compute(args);
    }
  }
}

void run_strip(const Task& task) {
  const pconv_plan& p = task.plan;
  const int64_t first = task.strip * p.planes.flat.strip_tiles,
                end = std::min(first + p.planes.flat.strip_tiles, p.planes.flat.n_tiles);
  TileArgs args = {};
  args.rows = 1;
  args.carry = reinterpret_cast<float*>(task.scratch + PlanesScratch(p).sums.value());
  args.plane_stride = p.planes.flat.outputs;
  args.clamp_min = task.args.clamp_min;
  args.clamp_max = task.args.clamp_max;
  args.out = task.args.y_at(task.image, 0);
  args.residual = task.args.residual_at(task.image, 0);

  PackPlanesArgs pack = pack_args(p);
  const int64_t in_per_group = p.conv.in_channels / p.conv.groups;
  for (int64_t g = task.chunk.group_begin; g < task.chunk.group_end; ++g) {
    pack.image = task.args.x_at(task.image, g * in_per_group * pack.channel_stride);
    const int64_t plane_begin = p.prepacked->plane_begin[static_cast<size_t>(g)];
    pack.planes = p.prepacked->planes.data() + plane_begin;
    pack.n_planes = static_cast<int32_t>(p.prepacked->plane_begin[static_cast<size_t>(g) + 1] - plane_begin);
    const GroupPlanes in_image = {pack.image + p.planes.flat.begin(first), pack.channel_stride, 0, 0, true};
    const GroupPlanes planes =
        p.planes.in_place ? in_image : write_planes(p, pack, first, end, reinterpret_cast<float*>(task.scratch));
    run_tiles(p, task.chunk, g, planes, first, end, args);
  }
}

CheckedSize planes_scratch_bytes(const pconv_plan& plan) { return PlanesScratch(plan).total; }

}  // namespace

const Runner kPlanesRunner = {planes_scratch_bytes, run_strip};

}  // namespace pconv
