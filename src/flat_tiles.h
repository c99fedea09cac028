// How ukernels that read planes cut an image: its outputs, numbered row by row, into tiles of whole vectors, and what a
// strip of tiles needs from the image (kernels/pack_planes.inl).
#ifndef PCONV_FLAT_TILES_H_
#define PCONV_FLAT_TILES_H_

#include <cstdint>

#include "checked.h"
#include "pconv/pconv.h"

namespace pconv {

struct FlatTiles {
  int64_t outputs, lanes;
  int64_t n_tiles;      // as even as whole vectors go
  int64_t strip_tiles;  // packed together, so that they share the padded rows
  // Padded rows of a channel that a strip reads, at most, and floats of one phase of them; 0: planes are copied from
  // the image itself.
  int64_t phase_rows, phase_floats;

  int64_t n_vectors() const { return (outputs + lanes - 1) / lanes; }
  int64_t n_strips() const { return (n_tiles + strip_tiles - 1) / strip_tiles; }
  int64_t begin(int64_t tile) const {
    const int64_t at = tile * n_vectors() / n_tiles * lanes;
    return at < outputs ? at : outputs;
  }
};

// Bytes of the padded rows that `outputs` outputs in a row read of a channel.
CheckedSize phase_bytes(const pconv_conv_desc& conv, int64_t out_w, int64_t outputs, int64_t lanes);
// Floats of one phase of a padded row.
CheckedSize phase_row_floats(const pconv_conv_desc& conv, int64_t out_w, int64_t lanes);
// Tiles of at most `vectors` vectors, of tile_bytes.
FlatTiles cut_flat(const pconv_conv_desc& conv, int64_t out_h, int64_t out_w, int64_t lanes, int64_t vectors,
                   int64_t tile_bytes);
// A layer whose planes are its input's channels.
bool is_pointwise(const pconv_conv_desc& conv);

}  // namespace pconv
#endif  // PCONV_FLAT_TILES_H_
