// How depthwise layers that read the image in place (kernels/dwdirect.inl) cut a channel's outputs into tiles, and
// which lanes of their loads lie inside the image.
#ifndef PCONV_DIRECT_TILES_H_
#define PCONV_DIRECT_TILES_H_

#include <cstdint>
#include <vector>

#include "checked.h"
#include "kernels/ukernel.h"
#include "pconv/pconv.h"

namespace pconv {

struct DirectTiles {
  DirectForm form;
  std::vector<DwDirectTile> tiles;
  std::vector<ptrdiff_t> tap_offsets;  // of all taps, in floats
  std::vector<uint16_t> masks;         // shared by tiles that lie alike towards the image's edges
  ptrdiff_t in_step, out_step;         // from a vector of a tile to the next
  ptrdiff_t high_step;                 // kStrided: from a vector's first inputs to its second ones
  std::vector<int32_t> picked;         // kStrided: which lanes of both are read
  ptrdiff_t before, behind;            // kStrided: floats that whole vectors read before and behind a channel
  int64_t n_vectors;
  int64_t strip_tiles;

  int64_t n_strips() const { return div_up(static_cast<int64_t>(tiles.size()), strip_tiles); }
  int64_t bytes() const;
};

// Large maps and kernels with many taps are left to kDepthwise.
bool direct_takes(const pconv_conv_desc& conv, int64_t h, int64_t w, int64_t out_h, int64_t out_w);
// Tiles of at most `vectors` vectors.
DirectTiles cut_direct(const pconv_conv_desc& conv, int64_t h, int64_t w, int64_t out_h, int64_t out_w, int64_t lanes,
                       int64_t vectors);

}  // namespace pconv
#endif  // PCONV_DIRECT_TILES_H_
