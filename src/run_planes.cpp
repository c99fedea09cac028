// Per group: writes the planes of the strip's tiles, unless they lie in the image, and runs the filters over them.
#include <algorithm>

#include "prepack_taps.h"
#include "runners.h"

namespace pconv {
namespace {

// Places in a thread's scratch, in bytes from its start; the tiles come first.
struct PlanesScratch {
  CheckedSize sums, rows, vectors, total;

  explicit PlanesScratch(const pconv_plan& p) {
    const KernelInfo& kernel = *p.ukernel->info;
    const CheckedSize bytes = checked(sizeof(float));
    sums = (checked(p.flat.strip_tiles) * checked(tile_bytes(p, *p.ukernel))).round_up(kTileAlign);
    const int64_t filters = kernel.body == Body::kScatter ? scatter_unit(p.conv, kernel) : 0;
    rows = (sums + checked(filters) * checked(kernel.carry_floats) * bytes).round_up(kTileAlign);
    const CheckedSize gathered = gather_floats(p.out_w, p.flat.strip_tiles, kernel.vectors, p.flat.lanes);
    vectors = (rows + gathered * bytes).round_up(kTileAlign);
    total = (vectors + checked(p.flat.strip_tiles) * checked(sizeof(int32_t))).round_up(kTileAlign);
  }
};

// Tiles of a group, and how far apart their planes and they lie, in floats.
struct PlaneTiles {
  const float* first;
  int64_t plane_stride, tile_stride;  // 0: tiles lie in the image, side by side

  bool in_place() const { return tile_stride == 0; }
};

// The planes of a 1x1 layer are the image's channels. They are read in place where whole vectors lie on lines; or, as
// loads over two lines take twice as long, where several multiply-adds share them, and nothing is read behind a
// channel.
bool reads_in_place(const pconv_plan& p) {
  if (!is_pointwise(p.conv)) return false;
  const int64_t floats = p.h * p.w;
  if (floats * static_cast<int64_t>(sizeof(float)) % kTileAlign == 0) return true;
  return p.ukernel->info->block > 1 && (floats % p.flat.lanes == 0 || p.isa->table->masks_loads);
}

PackPlanesArgs pack_args(const pconv_plan& p, const PlanesScratch& places, unsigned char* scratch) {
  PackPlanesArgs pack = {};
  pack.channel_stride = p.h * p.w;
  pack.row_stride = p.w;
  pack.h = static_cast<int32_t>(p.h), pack.w = static_cast<int32_t>(p.w);
  pack.stride_h = static_cast<int32_t>(p.conv.stride_h), pack.stride_w = static_cast<int32_t>(p.conv.stride_w);
  pack.dilation_h = static_cast<int32_t>(p.conv.dilation_h), pack.dilation_w = static_cast<int32_t>(p.conv.dilation_w);
  pack.pad_top = static_cast<int32_t>(p.conv.pad_top), pack.pad_left = static_cast<int32_t>(p.conv.pad_left);
  pack.out_w = static_cast<int32_t>(p.out_w);
  pack.plane_floats = p.ukernel->info->tile_floats;
  pack.tiles = reinterpret_cast<float*>(scratch);
  pack.rows = reinterpret_cast<float*>(scratch + places.rows.value());
  return pack;
}

// Which outputs `pack` is about: those of the tiles [first, end). vectors: [end - first].
void place_tiles(const pconv_plan& p, int64_t first, int64_t end, int32_t* vectors, PackPlanesArgs* pack) {
  constexpr int64_t kLineFloats = kTileAlign / static_cast<int64_t>(sizeof(float));
  for (int64_t t = first; t < end; ++t) {
    vectors[t - first] = static_cast<int32_t>(div_up(p.flat.begin(t + 1) - p.flat.begin(t), p.flat.lanes));
  }
  const int64_t begin = p.flat.begin(first), first_y = begin / p.out_w, before = begin - first_y * p.out_w;
  pack->first_row = static_cast<int32_t>(first_y);
  pack->n_rows = static_cast<int32_t>((p.flat.begin(end) - 1) / p.out_w - first_y + 1);
  pack->before = static_cast<int32_t>(before);
  pack->n_outputs = static_cast<int32_t>(p.flat.begin(end) - begin);
  pack->rows += div_up(before, kLineFloats) * kLineFloats;
  pack->tile_vectors = vectors;
  pack->n_tiles = static_cast<int32_t>(end - first);
}

// The chunk's filters of a group on the tiles [first, end), unit by unit, so that a unit's weights stay in L2.
// out and residual in `args` are of output 0.
void run_tiles(const pconv_plan& p, const Chunk& chunk, int64_t group, const PlaneTiles& tiles, int64_t first,
               int64_t end_tile, TileArgs args) {
  const int64_t unit = p.prepacked->unit, per_group = p.prepacked->group_filters;
  const int64_t begin = std::max(group * per_group, chunk.filter_begin);
  const int64_t end = std::min((group + 1) * per_group, chunk.filter_end);
  const bool scatter = p.ukernel->info->body == Body::kScatter;
  const int64_t step = scatter ? unit : end - begin;
  args.offset_bytes = tiles.plane_stride * static_cast<int64_t>(sizeof(float));
  float* const out = args.out;
  const float* const residual = args.residual;
  for (int64_t f = begin; f < end; f += step) {
    args.filters = p.prepacked->filters.data() + f;
    args.n_filters = static_cast<int32_t>(step);
    if (scatter) args.scatter = &p.prepacked->scatter[static_cast<size_t>(f / unit)];
    for (int64_t t = first; t < end_tile; ++t) {
      const int64_t at = p.flat.begin(t);
      args.tile = tiles.first + (tiles.in_place() ? at - p.flat.begin(first) : (t - first) * tiles.tile_stride);
      args.lane_end = static_cast<int32_t>(p.flat.begin(t + 1) - at);
      args.out = out + at;
      args.residual = residual != nullptr ? residual + at : nullptr;
      args.ragged_input = tiles.in_place() && t + 1 == p.flat.n_tiles && p.flat.outputs % p.flat.lanes != 0;
      const bool has_next = t + 1 < p.flat.n_tiles;
      args.next_out = has_next ? out + p.flat.begin(t + 1) : nullptr;
      args.next_input = has_next && tiles.in_place() ? args.tile + (p.flat.begin(t + 1) - at) : nullptr;
      p.ukernel->info->compute(args);
    }
  }
}

void run_strip(const Task& task) {
  const pconv_plan& p = task.plan;
  const PlanesScratch places(p);
  const int64_t first = task.strip * p.flat.strip_tiles, end = std::min(first + p.flat.strip_tiles, p.flat.n_tiles);
  TileArgs args = {};
  args.rows = 1;
  args.carry = reinterpret_cast<float*>(task.scratch + places.sums.value());
  args.plane_stride = p.flat.outputs;
  args.n_channels = static_cast<int32_t>(p.conv.in_channels / p.conv.groups);
  args.next_channel_stride = p.h * p.w;
  args.clamp_min = task.args.clamp_min;
  args.clamp_max = task.args.clamp_max;
  const int64_t first_plane = task.image * p.conv.out_channels * args.plane_stride;
  args.out = task.args.y + first_plane;
  args.residual = task.args.residual != nullptr ? task.args.residual + first_plane : nullptr;

  PackPlanesArgs pack = pack_args(p, places, task.scratch);
  place_tiles(p, first, end, reinterpret_cast<int32_t*>(task.scratch + places.vectors.value()), &pack);
  const bool in_place = reads_in_place(p);
  const int64_t in_per_group = p.conv.in_channels / p.conv.groups;
  for (int64_t g = task.chunk.group_begin; g < task.chunk.group_end; ++g) {
    pack.image = task.args.x + (task.image * p.conv.in_channels + g * in_per_group) * pack.channel_stride;
    const int64_t plane_begin = p.prepacked->plane_begin[static_cast<size_t>(g)];
    pack.planes = p.prepacked->planes.data() + plane_begin;
    pack.n_planes = static_cast<int32_t>(p.prepacked->plane_begin[static_cast<size_t>(g) + 1] - plane_begin);
    PlaneTiles tiles = {pack.image + p.flat.begin(first), pack.channel_stride, 0};
    if (!in_place) {
      p.isa->table->pack_planes(pack);
      tiles = {pack.tiles, pack.plane_floats, int64_t{pack.n_planes} * pack.plane_floats};
    }
    run_tiles(p, task.chunk, g, tiles, first, end, args);
  }
}

CheckedSize planes_scratch_bytes(const pconv_plan& plan) { return PlanesScratch(plan).total; }

}  // namespace

const Runner kPlanesRunner = {planes_scratch_bytes, run_strip};

}  // namespace pconv
