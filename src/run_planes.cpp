// Per group: writes the planes of the strip's tiles, then for each unit of filters runs tile after tile, so that the
// weights of a unit stay in L2.
#include "run_planes.h"

#include <algorithm>
#include <vector>

namespace pconv {
namespace {

// Most pieces that a strip's planes are copied in: a vector's worth each, and one more where a row or a tile ends.
int64_t max_moves(const pconv_plan& p) {
  const int64_t outputs = p.flat.strip_tiles * p.ukernel->info->tile_floats;
  return outputs / p.flat.lanes + div_up(outputs, p.out_w) + 1 + p.flat.strip_tiles;
}

// Places in a thread's scratch, in bytes from its start; the tiles come first.
struct PlanesScratch {
  CheckedSize sums, phases, moves, begins, total;

  explicit PlanesScratch(const pconv_plan& p) {
    const CheckedSize bytes = checked(sizeof(float));
    const KernelInfo& kernel = *p.ukernel->info;
    sums =
        (checked(p.flat.strip_tiles) * checked(tile_bytes(p, *p.ukernel)) + checked(kTileAlign)).round_up(kTileAlign);
    // Of a unit; a group may be filled up to whole ones.
    phases = (sums + (checked(p.conv.out_channels) + checked(1)) * checked(kernel.carry_floats) * bytes)
                 .round_up(kTileAlign);
    const CheckedSize row = checked(p.conv.stride_w) * checked(p.flat.phase_floats);
    moves = (phases + (checked(p.flat.phase_rows) * row + checked(p.flat.lanes)) * bytes).round_up(kTileAlign);
    begins = (moves + checked(max_moves(p)) * checked(sizeof(PlaneMove))).round_up(kTileAlign);
    total = (begins + checked(p.flat.strip_tiles + 1) * checked(sizeof(int32_t))).round_up(kTileAlign);
  }
};

// How a strip's planes are packed, but for the group.
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
  pack.phase_floats = static_cast<int32_t>(p.flat.phase_floats);
  pack.phases = p.flat.phase_rows > 0 ? reinterpret_cast<float*>(scratch + places.phases.value()) : nullptr;
  pack.moves = reinterpret_cast<PlaneMove*>(scratch + places.moves.value());
  pack.max_moves = static_cast<int32_t>(max_moves(p));
  pack.tiles = reinterpret_cast<float*>(scratch);
  return pack;
}

// Tiles [first, first + n) of the strip.
void place_tiles(const pconv_plan& p, int64_t first, int64_t n, int32_t* begins, PackPlanesArgs* pack) {
  for (int64_t t = 0; t <= n; ++t) begins[t] = static_cast<int32_t>(p.flat.begin(first + t));
  pack->tile_begin = begins;
  pack->n_tiles = static_cast<int32_t>(n);
  const int64_t first_y = begins[0] / p.out_w, last_y = (begins[n] - 1) / p.out_w;
  pack->first_row = static_cast<int32_t>(first_y * p.conv.stride_h - p.conv.pad_top);
  pack->n_rows = static_cast<int32_t>(p.input_rows(last_y - first_y + 1));
}

// The chunk's filters of one group, whose planes are packed.
void run_group(const pconv_plan& p, const Chunk& chunk, int64_t group, const PackPlanesArgs& pack, TileArgs args) {
  const int64_t unit = p.prepacked->unit, per_group = p.prepacked->group_filters;
  const int64_t begin = std::max(group * per_group, chunk.filter_begin);
  const int64_t end = std::min((group + 1) * per_group, chunk.filter_end);
  const bool scatter = p.ukernel->info->body == Body::kScatter;
  const int64_t step = scatter ? unit : end - begin;
  float* const out = args.out;
  const float* const residual = args.residual;
  for (int64_t f = begin; f < end; f += step) {
    args.filters = p.prepacked->filters.data() + f;
    args.n_filters = static_cast<int32_t>(step);
    if (scatter) args.scatter = &p.prepacked->scatter[static_cast<size_t>(f / unit)];
    for (int32_t t = 0; t < pack.n_tiles; ++t) {
      args.tile = pack.tiles + int64_t{t} * pack.n_planes * pack.plane_floats;
      args.lane_end = pack.tile_begin[t + 1] - pack.tile_begin[t];
      args.out = out + pack.tile_begin[t];
      args.residual = residual != nullptr ? residual + pack.tile_begin[t] : nullptr;
      p.ukernel->info->compute(args);
    }
  }
}

}  // namespace

CheckedSize planes_scratch_bytes(const pconv_plan& plan) { return PlanesScratch(plan).total; }

void run_planes(const pconv_plan& p, const pconv_run_args& run, const Chunk& chunk, int64_t image, int64_t strip,
                unsigned char* scratch) {
  const PlanesScratch places(p);
  PackPlanesArgs pack = pack_args(p, places, scratch);
  const int64_t first = strip * p.flat.strip_tiles, n = std::min(p.flat.strip_tiles, p.flat.n_tiles - first);
  place_tiles(p, first, n, reinterpret_cast<int32_t*>(scratch + places.begins.value()), &pack);
  if (is_pointwise(p.conv)) pack.out_w = static_cast<int32_t>(p.flat.outputs);  // the image as one row

  TileArgs args = {};
  args.rows = 1;
  args.carry = reinterpret_cast<float*>(scratch + places.sums.value());
  args.plane_stride = p.flat.outputs;
  args.clamp_min = run.clamp_min;
  args.clamp_max = run.clamp_max;
  const int64_t first_plane = image * p.conv.out_channels * args.plane_stride;
  args.out = run.y + first_plane;
  args.residual = run.residual != nullptr ? run.residual + first_plane : nullptr;

  const int64_t in_per_group = p.conv.in_channels / p.conv.groups;
  for (int64_t g = chunk.group_begin; g < chunk.group_end; ++g) {
    pack.image = run.x + (image * p.conv.in_channels + g * in_per_group) * pack.channel_stride;
    pack.planes = p.prepacked->planes.data() + p.prepacked->plane_begin[static_cast<size_t>(g)];
    pack.n_planes = static_cast<int32_t>(p.prepacked->plane_begin[static_cast<size_t>(g) + 1] -
                                         p.prepacked->plane_begin[static_cast<size_t>(g)]);
    p.isa->table->pack_planes(pack);
    run_group(p, chunk, g, pack, args);
  }
}

}  // namespace pconv
