// Plan: a packed layer prepared for one input shape, layout and ukernel.
#ifndef PCONV_PLAN_H_
#define PCONV_PLAN_H_

#include <cstdint>
#include <memory>

#include "dispatch.h"
#include "layer.h"

namespace pconv {

// How the columns of an output row are cut into tiles.
struct Columns {
  int64_t begin;  // output column of the first tile's lane 0 (-1 when the left taps of column 0 lie inside the image)
  int64_t end;    // one behind the last column whose input any output needs
  int64_t step;   // columns from tile to tile
  int64_t n_tiles;
  bool carry;  // tiles touch and pass sums on; otherwise they overlap by two columns
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

  int64_t n_bands() const { return (out_h + ukernel->info->rows - 1) / ukernel->info->rows; }
};

namespace pconv {

// A packed tile up to this size stays in L1 (48 KB where it was measured) beside weights and outputs.
constexpr int64_t kL1TileBytes = 38 * 1024;

// Bytes of one packed input tile: at most kMaxGroupChannels planes, no overflow.
int64_t tile_bytes(const pconv_plan& plan, const Ukernel& ukernel);
pconv_status make_plan(const pconv_packed& packed, const pconv_plan_options& options,
                       std::unique_ptr<pconv_plan>* plan);

}  // namespace pconv
#endif  // PCONV_PLAN_H_
