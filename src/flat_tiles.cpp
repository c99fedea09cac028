#include "flat_tiles.h"

#include <algorithm>

#include "cache_sizes.h"

namespace pconv {
namespace {

constexpr int64_t kLineFloats = 16;

int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

CheckedSize plane_floats(int64_t out_w, int64_t tiles, int64_t vectors, int64_t lanes) {
  const int64_t outputs = tiles * vectors * lanes;
  // Tiles start and end anywhere in a row; the first one starts on a line, so its row may start before one.
  const CheckedSize rows = checked(div_up(outputs, out_w) + 1) * checked(out_w);
  const CheckedSize all = (rows + checked(kLineFloats + 2 * lanes)).round_up(kLineFloats);
  // An odd number of lines, so that the same place of all planes is spread over the sets of a cache.
  return all + checked(all.ok() && all.value() / kLineFloats % 2 == 0 ? kLineFloats : 0);
}

bool is_pointwise(const pconv_conv_desc& c) {
  return c.kernel_h == 1 && c.kernel_w == 1 && c.stride_h == 1 && c.stride_w == 1 && c.pad_top == 0 &&
         c.pad_left == 0 && c.pad_bottom == 0 && c.pad_right == 0;
}

FlatTiles cut_flat(int64_t out_h, int64_t out_w, int64_t lanes, int64_t vectors, int64_t n_planes) {
  FlatTiles flat = {};
  flat.outputs = out_h * out_w;
  flat.lanes = lanes;
  flat.n_tiles = div_up(flat.n_vectors(), vectors);
  const auto bytes = [&](int64_t tiles) {
    return plane_floats(out_w, tiles, vectors, lanes) * checked(n_planes) * checked(sizeof(float));
  };
  int64_t most = flat.n_tiles;
  while (most > 1 && !bytes(most).at_most(kL2Bytes)) most = (most + 1) / 2;
  flat.strip_tiles = div_up(flat.n_tiles, div_up(flat.n_tiles, most));
  flat.plane_floats = static_cast<int64_t>(plane_floats(out_w, flat.strip_tiles, vectors, lanes).value());
  return flat;
}

}  // namespace pconv
