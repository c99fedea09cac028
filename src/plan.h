// Plan: a packed layer prepared for one input shape, layout and ukernel.
#ifndef PCONV_PLAN_H_
#define PCONV_PLAN_H_

#include <cstdint>
#include <memory>

#include "checked.h"
#include "direct_tiles.h"
#include "dispatch.h"
#include "layer.h"
#include "placed_taps.h"
#include "planes_layout.h"

namespace pconv {

// How output rows are cut into tiles. Bands of rows that follow each other may lie side by side in a strip, as if they
// were one wide band, so that rows which do not fill whole tiles share the last one of all but the last band.
struct Columns {
  int64_t begin;    // output column of the first tile's lane 0 (-1 when the left taps of column 0 lie inside the image)
  int64_t end;      // one behind the last column whose input any output needs
  int64_t step;     // lanes from tile to tile
  int64_t overlap;  // columns that neighbouring tiles share
  bool carry;       // tiles touch and pass sums on
  int64_t strip_bands;  // in a strip; the last one may have fewer

  int64_t span() const { return end - begin; }
  int64_t n_tiles(int64_t bands) const {
    const int64_t lanes = bands * span() - overlap;
    return lanes <= step ? 1 : div_up(lanes, step);
  }
  // The same for an image of so many bands.
  int64_t n_tiles_of_image(int64_t bands) const {
    const int64_t rest = bands % strip_bands;
    return bands / strip_bands * n_tiles(strip_bands) + (rest > 0 ? n_tiles(rest) : 0);
  }
};

}  // namespace pconv

struct pconv_plan {
  pconv_conv_desc conv;
  int64_t n, h, w, out_h, out_w;  // of the convolution
  int64_t pool;                   // side of the windows of outputs whose maxima are stored; 1: every output is
  int64_t nnz;
  pconv_layout layout;
  const pconv::Isa* isa;
  const pconv::Ukernel* ukernel;
  pconv::Columns columns;      // of ukernels that read windows
  pconv::PlanesLayout planes;  // of those that read planes
  pconv::DirectTiles direct;   // of kDwDirect
  // Planes of a channel where every tap column has its own, and where some are shifted.
  pconv::ChannelPlanes own_planes, shifted_planes;
  std::shared_ptr<const pconv::Prepacked> prepacked;
  std::shared_ptr<const pconv::PlacedTaps> placed;  // of Body::kPlanes
  int64_t scratch_bytes;                            // of one thread

  // Memory that the plan holds beside the prepacked form.
  int64_t own_bytes() const { return direct.bytes() + (placed != nullptr ? placed->bytes() : 0); }
  int64_t y_h() const { return out_h / pool; }
  int64_t y_w() const { return out_w / pool; }
  int64_t bands_in(int64_t rows) const { return pconv::div_up(rows, ukernel->info->band_rows); }
  int64_t strip_rows() const { return columns.strip_bands * ukernel->info->band_rows; }  // output rows of a strip
  int64_t n_strips() const {
    if (ukernel->info->body == pconv::Body::kDwDirect) return direct.n_strips();
    return ukernel->info->planes() ? planes.flat.n_strips() : pconv::div_up(bands_in(out_h), columns.strip_bands);
  }
  // Input rows that `rows` output rows read.
  int64_t input_rows(int64_t rows) const {
    return (rows - 1) * conv.stride_h + (conv.kernel_h - 1) * conv.dilation_h + 1;
  }
  // Results that one filter computes for an image.
  int64_t n_lanes() const {
    if (ukernel->info->planes()) return planes.flat.n_vectors() * planes.flat.lanes;
    const int64_t lanes = isa->table->lanes;
    if (ukernel->info->body == pconv::Body::kDwDirect) return direct.n_vectors * lanes;
    if (ukernel->info->body == pconv::Body::kDepthwise) return out_h * pconv::div_up(out_w, lanes) * lanes;
    return columns.n_tiles_of_image(bands_in(out_h)) * ukernel->info->rows * ukernel->info->vectors * isa->table->lanes;
  }
};

namespace pconv {

// Of a packed tile, so that offsets are 32 bits and a thread's scratch stays within reason.
constexpr int64_t kMaxTileBytes = int64_t{1} << 28;

// Bytes of one packed input tile, with planes at most; INT64_MAX when they do not fit.
int64_t tile_bytes(const pconv_plan& plan, const Ukernel& ukernel);
pconv_status make_plan(const pconv_packed& packed, const pconv_plan_options& options,
                       std::unique_ptr<pconv_plan>* plan);

}  // namespace pconv
#endif  // PCONV_PLAN_H_
