// How a general ukernel's packed tile lies in memory: per input channel the rows that its outputs read, each cut into
// phases so that the columns of one tap lie side by side whatever the stride.
#ifndef PCONV_TILE_SHAPE_H_
#define PCONV_TILE_SHAPE_H_

#include <cstdint>

#include "checked.h"
#include "dispatch.h"

namespace pconv {

struct TileShape {
  int64_t rows, phases, row_floats;  // floats of a phase of a row, whole vectors
  int64_t row_step;                  // floats from the inputs of an output row to those of the next

  TileShape(const pconv_conv_desc& c, const Ukernel& u) {
    const int64_t lanes = u.isa->table->lanes, shift = (c.kernel_w - 1) * c.dilation_w / c.stride_w;
    rows = (u.info->rows - 1) * c.stride_h + (c.kernel_h - 1) * c.dilation_h + 1;
    phases = c.stride_w;
    row_floats = (u.info->vectors * lanes + shift + lanes - 1) / lanes * lanes;
    row_step = c.stride_h * phases * row_floats;
  }
  // Floats of a channel.
  CheckedSize floats() const { return checked(rows) * checked(phases) * checked(row_floats); }
  // Floats from the channel's start to what tap (ky, kx) of output (0, 0) reads.
  int64_t tap(const pconv_conv_desc& c, int64_t ky, int64_t kx) const {
    const int64_t column = kx * c.dilation_w;
    return (ky * c.dilation_h * phases + column % phases) * row_floats + column / phases;
  }
};

}  // namespace pconv
#endif  // PCONV_TILE_SHAPE_H_
