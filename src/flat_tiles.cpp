#include "flat_tiles.h"

#include <algorithm>

#include "cache_sizes.h"

namespace pconv {
namespace {

int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Input rows that `outputs` outputs, starting anywhere in a row, read at most.
CheckedSize phase_rows(const pconv_conv_desc& c, int64_t out_w, int64_t outputs) {
  const int64_t rows = div_up(outputs - 1, out_w) + 1;
  return checked(rows - 1) * checked(c.stride_h) + checked(c.kernel_h - 1) * checked(c.dilation_h) + checked(1);
}

}  // namespace

CheckedSize phase_row_floats(const pconv_conv_desc& c, int64_t out_w, int64_t lanes) {
  const CheckedSize shift = checked((c.kernel_w - 1) * c.dilation_w / c.stride_w);
  return (checked(out_w) + shift).round_up(static_cast<uint64_t>(lanes));
}

CheckedSize phase_bytes(const pconv_conv_desc& c, int64_t out_w, int64_t outputs, int64_t lanes) {
  return phase_rows(c, out_w, outputs) * checked(c.stride_w) * phase_row_floats(c, out_w, lanes) *
         checked(sizeof(float));
}

bool is_pointwise(const pconv_conv_desc& c) {
  return c.kernel_h == 1 && c.kernel_w == 1 && c.stride_h == 1 && c.stride_w == 1 && c.pad_top == 0 &&
         c.pad_left == 0 && c.pad_bottom == 0 && c.pad_right == 0;
}

FlatTiles cut_flat(const pconv_conv_desc& conv, int64_t out_h, int64_t out_w, int64_t lanes, int64_t vectors,
                   int64_t tile_bytes) {
  FlatTiles flat = {};
  flat.outputs = out_h * out_w;
  flat.lanes = lanes;
  flat.n_tiles = div_up(flat.n_vectors(), vectors);
  const auto fits = [&](int64_t tiles) {
    return is_pointwise(conv) || phase_bytes(conv, out_w, tiles * vectors * lanes, lanes).at_most(kL2Bytes);
  };
  int64_t most = std::clamp<int64_t>(kL2Bytes / std::max<int64_t>(tile_bytes, 1), 1, flat.n_tiles);
  while (most > 1 && !fits(most)) --most;
  flat.strip_tiles = div_up(flat.n_tiles, div_up(flat.n_tiles, most));
  if (!is_pointwise(conv)) {
    flat.phase_rows = static_cast<int64_t>(phase_rows(conv, out_w, flat.strip_tiles * vectors * lanes).value());
    flat.phase_floats = static_cast<int64_t>(phase_row_floats(conv, out_w, lanes).value());
  }
  return flat;
}

}  // namespace pconv
