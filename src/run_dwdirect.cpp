// A strip's tiles of the chunk's filters in one call, filter after filter, so that images are read and written in
// order.
#include <algorithm>

#include "runners.h"

namespace pconv {
namespace {

void run_strip(const Task& task) {
  const pconv_plan& p = task.plan;
  const DirectTiles& direct = p.direct;
  const int64_t first = task.strip * direct.strip_tiles;
  const int64_t end = std::min(first + direct.strip_tiles, static_cast<int64_t>(direct.tiles.size()));
  DwDirectArgs args = {};
  args.channel_stride = p.h * p.w;
  args.image = task.args.x_at(task.image, 0);
  args.filters = p.prepacked->depthwise.data() + task.chunk.filter_begin;
  args.n_filters = static_cast<int32_t>(task.chunk.filter_end - task.chunk.filter_begin);
  args.tiles = direct.tiles.data() + first;
  args.n_tiles = static_cast<int32_t>(end - first);
  args.form = direct.form;
  args.n_taps = static_cast<int32_t>(direct.tap_offsets.size());
  args.tap_offsets = direct.tap_offsets.data();
  args.masks = direct.masks.data();
  args.in_step = direct.in_step, args.out_step = direct.out_step;
  args.high_step = direct.high_step;
  args.picked = direct.picked.data();
  args.tile_floats = args.channel_stride / static_cast<int64_t>(direct.tiles.size());
  const int64_t image_floats = p.conv.in_channels * args.channel_stride;
  const bool gaps = task.args.x_step != image_floats;  // between images: nobody said that these can be read
  const float* const readable = gaps ? args.image : task.args.x;
  args.whole_begin = readable + direct.before;
  args.whole_end = readable + (gaps ? 1 : p.n) * image_floats - args.channel_stride - direct.behind + 1;
  args.plane_stride = p.out_h * p.out_w;
  args.out = task.args.y_at(task.image, 0);
  args.residual = task.args.residual_at(task.image, 0);
  args.clamp_min = task.args.clamp_min;
  args.clamp_max = task.args.clamp_max;
  p.isa->table->dwdirect(args);
}

// None is used, but a thread's block of memory must not be null.
CheckedSize dwdirect_scratch_bytes(const pconv_plan&) { return checked(kTileAlign); }

}  // namespace

const Runner kDwDirectRunner = {dwdirect_scratch_bytes, run_strip};

}  // namespace pconv
