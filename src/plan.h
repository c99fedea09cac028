// Plan: a packed layer prepared for one input shape, layout and ukernel.
#ifndef PCONV_PLAN_H_
#define PCONV_PLAN_H_

#include <cstdint>
#include <memory>

#include "dispatch.h"
#include "layer.h"

namespace pconv {

// How output rows are cut into tiles. Bands of rows that follow each other may lie side by side in a strip, as if they
// were one wide band, so that rows which do not fill whole tiles share the last one of all but the last band.
struct Columns {
  int64_t begin;  // output column of the first tile's lane 0 (-1 when the left taps of column 0 lie inside the image)
  int64_t end;    // one behind the last column whose input any output needs
  int64_t step;   // lanes from tile to tile
  bool carry;     // tiles touch and pass sums on; otherwise they overlap by two columns
  int64_t strip_bands;  // in a strip; the last one may have fewer

  int64_t span() const { return end - begin; }
  int64_t n_tiles(int64_t bands) const {
    const int64_t lanes = bands * span() - (carry ? 0 : 2);
    return lanes <= step ? 1 : (lanes + step - 1) / step;
  }
};

}  // namespace pconv

struct pconv_plan {
  pconv_conv_desc conv;
  int64_t n, h, w, out_h, out_w;
  int64_t nnz;
  pconv_layout layout;
  const pconv::Isa* isa;
  const pconv::Ukernel* ukernel;
  pconv::Columns columns;
  std::shared_ptr<const pconv::Prepacked> prepacked;

  int64_t n_bands() const { return (out_h + ukernel->info->band_rows - 1) / ukernel->info->band_rows; }
  int64_t strip_rows() const { return columns.strip_bands * ukernel->info->band_rows; }  // output rows of a strip
  // Results that one filter computes for an image.
  int64_t n_lanes() const {
    const int64_t rest = n_bands() % columns.strip_bands;
    const int64_t n_tiles =
        n_bands() / columns.strip_bands * columns.n_tiles(columns.strip_bands) + (rest > 0 ? columns.n_tiles(rest) : 0);
    return n_tiles * ukernel->info->rows * ukernel->info->vectors * isa->table->lanes;
  }
  int64_t n_strips() const { return (n_bands() + columns.strip_bands - 1) / columns.strip_bands; }
};

namespace pconv {

// L1 where it was measured. A larger tile streams from L2 and is prefetched; a tile of four fifths of it stays in L1
// beside weights and outputs (37 KB ran 5 % faster than 40 KB: 64 channels at 224x224, tiles of 7 and of 8 rows).
constexpr int64_t kL1Bytes = 48 * 1024, kL1TileBytes = kL1Bytes * 4 / 5;

// Bytes of one packed input tile: at most kMaxGroupChannels planes, no overflow.
int64_t tile_bytes(const pconv_plan& plan, const Ukernel& ukernel);
pconv_status make_plan(const pconv_packed& packed, const pconv_plan_options& options,
                       std::unique_ptr<pconv_plan>* plan);

}  // namespace pconv
#endif  // PCONV_PLAN_H_
