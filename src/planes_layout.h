// Where ukernels that read planes find them: in the image itself, or in a thread's scratch, with rows that taps share
// or with a copy of its outputs for each row. Part of the plan.
#ifndef PCONV_PLANES_LAYOUT_H_
#define PCONV_PLANES_LAYOUT_H_

#include <cstdint>

#include "dispatch.h"
#include "flat_tiles.h"
#include "layer.h"

struct pconv_plan;

namespace pconv {

struct PlanesLayout {
  FlatTiles flat;
  bool in_place;       // a 1x1 layer's planes are the image's channels
  bool share_rows;     // the taps of a column share the rows of a strip's plane; else every tile has its own planes
  bool shift_columns;  // some taps read shifted planes (prepack_taps.h)
  ChannelPlanes of_channel;  // planes of a channel, at most
  int64_t tile_bytes;        // that a tile's outputs read from all planes
  // Scratch of a strip in floats: a row of a plane, a plane, a tile's planes (0 where rows are shared), all;
  // INT64_MAX and 0 for the others where that is more than can be.
  int64_t row, plane, tile, total;

  // From a plane to the next; image: floats of a channel.
  int64_t plane_floats(int64_t image) const { return in_place ? image : plane; }

  // Floats that are packed for a tile, as costs count them: what is read in place too, so they were fitted.
  double packed_floats() const {
    if (in_place) return static_cast<double>(tile_bytes) / sizeof(float);
    return static_cast<double>(total) / static_cast<double>(flat.strip_tiles);
  }
};

// Of a ukernel that reads planes, for the plan's layer and map.
PlanesLayout lay_out_planes(const pconv_plan& plan, const Ukernel& ukernel);

}  // namespace pconv
#endif  // PCONV_PLANES_LAYOUT_H_
