#include "planes_layout.h"

#include <algorithm>
#include <limits>

#include "checked.h"
#include "plan.h"

namespace pconv {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
constexpr int64_t kLineFloats = kTileAlign / static_cast<int64_t>(sizeof(float));

// Few filters share a pack of a 1x1 layer, and loads over two lines take twice as long, which several multiply-adds
// hide: planes are read in place where whole vectors lie on lines, and of other maps where that costs less than
// packing. Nothing is read behind a channel.
constexpr int64_t kInPlaceFilters = 160;
bool reads_in_place(const pconv_plan& p, const Ukernel& u) {
  if (!is_pointwise(p.conv)) return false;
  const int64_t floats = p.h * p.w;
  const CheckedSize bytes = checked(p.conv.in_channels / p.conv.groups) * checked(floats) * checked(sizeof(float));
  if (!bytes.at_most(std::numeric_limits<int32_t>::max())) return false;  // as offsets are
  if (floats % kLineFloats == 0) return true;
  if (u.info->block <= 1) return false;
  // Short vectors split few lines: packing never pays there.
  if (!u.isa->table->masks_loads) return floats % u.isa->table->lanes == 0;
  return p.conv.out_channels / p.conv.groups <= kInPlaceFilters;
}

int64_t or_none(CheckedSize size) { return size.at_most(kNone) ? static_cast<int64_t>(size.value()) : kNone; }

// Taps share rows, or not. All but the scratch.
PlanesLayout cut(const pconv_plan& p, const Ukernel& u, bool share_rows) {
  PlanesLayout l = {};
  l.share_rows = share_rows;
  l.shift_columns = share_rows && u.info->body == Body::kScatter && u.isa->table->masks_loads;
  l.in_place = reads_in_place(p, u);
  l.of_channel = l.shift_columns ? p.shifted_planes : p.own_planes;
  const CheckedSize planes = checked(p.conv.in_channels / p.conv.groups) * checked(l.of_channel.n);
  const int64_t rows = share_rows ? 1 : l.of_channel.most_rows;
  l.tile_bytes = or_none(planes * checked(rows) * checked(u.info->tile_floats) * checked(sizeof(float)));
  l.flat = cut_flat(p.out_h * p.out_w, u.isa->table->lanes, u.info->vectors, l.tile_bytes);
  return l;
}

void add_scratch(const pconv_plan& p, const Ukernel& u, PlanesLayout* l) {
  const int64_t lanes = u.isa->table->lanes, tile_outputs = u.info->vectors * lanes;
  const int64_t outputs = l->flat.strip_tiles * tile_outputs, rows = l->of_channel.most_rows;
  const CheckedSize n_planes = checked(p.conv.in_channels / p.conv.groups) * checked(l->of_channel.n);
  CheckedSize row, plane, tile = checked(0), total;
  if (l->share_rows) {
    // A strip begins and ends anywhere in a row; a vector is written behind the last output.
    row = checked(p.out_w);
    plane = (checked(div_up(outputs, p.out_w) + rows)) * row + checked(lanes);
    // An odd number of lines: planes would meet in few cache sets.
    plane = plane.round_up(2 * kLineFloats) + checked(kLineFloats);
    total = n_planes * plane + checked(kLineFloats);  // the first output begins a line
  } else {
    row = checked(tile_outputs).round_up(kLineFloats);
    plane = checked(rows) * row;
    tile = n_planes * plane + checked(kLineFloats);  // what is written behind a row is the next one's begin
    total = checked(l->flat.strip_tiles) * tile;
  }
  if (l->in_place) total = checked(0);
  l->total = or_none(total);
  if (l->total == kNone) return;
  l->row = or_none(row), l->plane = or_none(plane), l->tile = or_none(tile);
}

PlanesLayout lay_out(const pconv_plan& p, const Ukernel& u, bool share_rows) {
  PlanesLayout l = cut(p, u, share_rows);
  add_scratch(p, u, &l);
  return l;
}

// Sharing does not pay where single filters need aligned loads (unaligned ones are dear where loads can be masked), nor
// where a strip is but a part of a wide row or has few.
bool may_share(const pconv_plan& p, const Ukernel& u) {
  return !is_pointwise(p.conv) && !(u.info->block == 1 && u.isa->table->masks_loads);
}
bool pays(const pconv_plan& p, const Ukernel& u, const PlanesLayout& shared) {
  const int64_t rows = shared.flat.strip_tiles * u.info->vectors * u.isa->table->lanes / p.out_w;
  return shared.flat.n_strips() == 1 || rows >= std::max(int64_t{2}, shared.of_channel.most_rows);
}

}  // namespace

PlanesLayout lay_out_planes(const pconv_plan& plan, const Ukernel& ukernel) {
  if (may_share(plan, ukernel)) {
    const PlanesLayout shared = lay_out(plan, ukernel, true);
    if (pays(plan, ukernel, shared)) return shared;
  }
  return lay_out(plan, ukernel, false);
}

}  // namespace pconv
