// How ukernels that read planes cut an image: its outputs, numbered row by row, into tiles of whole vectors, and strips
// of tiles whose planes are written together.
#ifndef PCONV_FLAT_TILES_H_
#define PCONV_FLAT_TILES_H_

#include <cstdint>

#include "checked.h"
#include "pconv/pconv.h"

namespace pconv {

struct FlatTiles {
  int64_t outputs, lanes;
  int64_t n_tiles;      // as even as whole vectors go
  int64_t strip_tiles;  // of a strip

  int64_t n_vectors() const { return div_up(outputs, lanes); }
  int64_t n_strips() const { return div_up(n_tiles, strip_tiles); }
  int64_t begin(int64_t tile) const {
    const int64_t at = tile * n_vectors() / n_tiles * lanes;
    return at < outputs ? at : outputs;
  }
};

// Tiles of at most `vectors` vectors and tile_bytes.
FlatTiles cut_flat(int64_t outputs, int64_t lanes, int64_t vectors, int64_t tile_bytes);
// Do taps that read the same columns of a phase of rows share a plane? Not where rows lie between theirs (dilation),
// nor where plane_place() has no room.
bool taps_share_planes(const pconv_conv_desc& conv);
// A layer whose planes are its input's channels.
bool is_pointwise(const pconv_conv_desc& conv);

}  // namespace pconv
#endif  // PCONV_FLAT_TILES_H_
