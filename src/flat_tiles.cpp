#include "flat_tiles.h"

#include <algorithm>

#include "cache_sizes.h"
#include "kernels/ukernel.h"

namespace pconv {

bool taps_share_planes(const pconv_conv_desc& c) {
  return c.stride_h % c.dilation_h == 0 && (c.kernel_h - 1) * c.dilation_h / c.stride_h < kMaxPlaneRows;
}

bool is_pointwise(const pconv_conv_desc& c) {
  return c.kernel_h == 1 && c.kernel_w == 1 && c.stride_h == 1 && c.stride_w == 1 && c.pad_top == 0 &&
         c.pad_left == 0 && c.pad_bottom == 0 && c.pad_right == 0;
}

FlatTiles cut_flat(int64_t outputs, int64_t lanes, int64_t vectors, int64_t tile_bytes) {
  FlatTiles flat = {outputs, lanes, 0, 0};
  flat.n_tiles = div_up(flat.n_vectors(), vectors);
  const int64_t most = std::clamp<int64_t>(kL2Bytes / std::max<int64_t>(tile_bytes, 1), 1, flat.n_tiles);
  flat.strip_tiles = div_up(flat.n_tiles, div_up(flat.n_tiles, most));
  return flat;
}

}  // namespace pconv
