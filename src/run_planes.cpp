// Per group: writes the planes of the strip's tiles, unless they lie in the image, and runs the filters over them.
#include "run_planes.h"

#include <algorithm>

namespace pconv {
namespace {

constexpr int64_t kLineFloats = kTileAlign / static_cast<int64_t>(sizeof(float));

// Places in a thread's scratch, in bytes from its start; the planes come first.
struct PlanesScratch {
  CheckedSize sums, total;

  explicit PlanesScratch(const pconv_plan& p) {
    const CheckedSize bytes = checked(sizeof(float));
    const CheckedSize taps = checked(p.conv.kernel_h) * checked(p.conv.kernel_w);
    const CheckedSize planes = checked(p.conv.in_channels / p.conv.groups) * taps;
    sums = (planes * checked(p.flat.plane_floats) * bytes).round_up(kTileAlign);
    // Of a unit, which fills up a group at most.
    const CheckedSize filters = checked(p.conv.out_channels);
    total = (sums + filters * checked(p.ukernel->info->carry_floats) * bytes).round_up(kTileAlign);
  }
};

// Planes of a group for the outputs [begin, end), and where those of output `begin` lie.
struct PackedPlanes {
  const float* first;
  int64_t stride;  // floats from plane to plane
};

PackPlanesArgs pack_args(const pconv_plan& p) {
  PackPlanesArgs pack = {};
  pack.channel_stride = p.h * p.w;
  pack.row_stride = p.w;
  pack.h = static_cast<int32_t>(p.h), pack.w = static_cast<int32_t>(p.w);
  pack.stride_h = static_cast<int32_t>(p.conv.stride_h), pack.stride_w = static_cast<int32_t>(p.conv.stride_w);
  pack.dilation_h = static_cast<int32_t>(p.conv.dilation_h), pack.dilation_w = static_cast<int32_t>(p.conv.dilation_w);
  pack.pad_top = static_cast<int32_t>(p.conv.pad_top), pack.pad_left = static_cast<int32_t>(p.conv.pad_left);
  pack.out_w = static_cast<int32_t>(p.out_w);
  return pack;
}

// Whole rows are written, and output `begin`, a multiple of the lanes, comes to lie on a line.
PackedPlanes pack_group(const pconv_plan& p, PackPlanesArgs pack, int64_t begin, int64_t end, float* scratch) {
  const int64_t first_y = begin / p.out_w, before = begin - first_y * p.out_w;
  const int64_t at = div_up(before, kLineFloats) * kLineFloats;
  pack.first_row = static_cast<int32_t>(first_y);
  pack.n_rows = static_cast<int32_t>((end - 1) / p.out_w - first_y + 1);
  pack.plane_stride = p.flat.plane_floats;
  pack.out = scratch + at - before;
  p.isa->table->pack_planes(pack);
  return {scratch + at, p.flat.plane_floats};
}

// The chunk's filters of a group on the tiles [first, end), unit by unit, so that a unit's weights stay in L2.
// `planes` are those of the first tile, as are out and residual in `args`.
void run_tiles(const pconv_plan& p, const Chunk& chunk, int64_t group, const PackedPlanes& planes, int64_t first,
               int64_t end_tile, TileArgs args) {
  const int64_t unit = p.prepacked->unit, per_group = p.prepacked->group_filters;
  const int64_t begin = std::max(group * per_group, chunk.filter_begin);
  const int64_t end = std::min((group + 1) * per_group, chunk.filter_end);
  const bool scatter = p.ukernel->info->body == Body::kScatter;
  const int64_t step = scatter ? unit : end - begin;
  args.offset_bytes = planes.stride * static_cast<int64_t>(sizeof(float));
  float* const out = args.out;
  const float* const residual = args.residual;
  for (int64_t f = begin; f < end; f += step) {
    args.filters = p.prepacked->filters.data() + f;
    args.n_filters = static_cast<int32_t>(step);
    if (scatter) args.scatter = &p.prepacked->scatter[static_cast<size_t>(f / unit)];
    for (int64_t t = first; t < end_tile; ++t) {
      const int64_t at = p.flat.begin(t);
      args.tile = planes.first + at - p.flat.begin(first);
      args.lane_end = static_cast<int32_t>(p.flat.begin(t + 1) - at);
      args.out = out + at;
      args.residual = residual != nullptr ? residual + at : nullptr;
      p.ukernel->info->compute(args);
    }
  }
}

}  // namespace

CheckedSize planes_scratch_bytes(const pconv_plan& plan) { return PlanesScratch(plan).total; }

void run_planes(const pconv_plan& p, const pconv_run_args& run, const Chunk& chunk, int64_t image, int64_t strip,
                unsigned char* scratch) {
  const int64_t first = strip * p.flat.strip_tiles, end = std::min(first + p.flat.strip_tiles, p.flat.n_tiles);
  TileArgs args = {};
  args.rows = 1;
  args.carry = reinterpret_cast<float*>(scratch + PlanesScratch(p).sums.value());
  args.plane_stride = p.flat.outputs;
  args.clamp_min = run.clamp_min;
  args.clamp_max = run.clamp_max;
  const int64_t first_plane = image * p.conv.out_channels * args.plane_stride;
  args.out = run.y + first_plane;
  args.residual = run.residual != nullptr ? run.residual + first_plane : nullptr;

  PackPlanesArgs pack = pack_args(p);
  // A 1x1 layer's planes are the image's channels, except that nothing may be read behind the last of them.
  const bool ragged = end == p.flat.n_tiles && p.flat.outputs % p.flat.lanes != 0;
  const int64_t packed_from = !is_pointwise(p.conv) ? first : ragged ? end - 1 : end;
  const int64_t in_per_group = p.conv.in_channels / p.conv.groups;
  for (int64_t g = chunk.group_begin; g < chunk.group_end; ++g) {
    pack.image = run.x + (image * p.conv.in_channels + g * in_per_group) * pack.channel_stride;
    const int64_t plane_begin = p.prepacked->plane_begin[static_cast<size_t>(g)];
    pack.planes = p.prepacked->planes.data() + plane_begin;
    pack.n_planes = static_cast<int32_t>(p.prepacked->plane_begin[static_cast<size_t>(g) + 1] - plane_begin);
    if (first < packed_from) {
      const PackedPlanes channels = {pack.image + p.flat.begin(first), pack.channel_stride};
      run_tiles(p, chunk, g, channels, first, packed_from, args);
    }
    if (packed_from < end) {
      auto* planes = reinterpret_cast<float*>(scratch);
      const PackedPlanes packed = pack_group(p, pack, p.flat.begin(packed_from), p.flat.begin(end), planes);
      run_tiles(p, chunk, g, packed, packed_from, end, args);
    }
  }
}

}  // namespace pconv
