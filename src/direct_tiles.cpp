#include "direct_tiles.h"

#include <algorithm>
#include <array>
#include <map>

namespace pconv {
namespace {

// Offsets and the tables of tiles stay small: an image of 1920 x 1080 has 16 K tiles.
constexpr int64_t kMostPixels = int64_t{1} << 21, kMostTaps = 64;
// Outputs of a strip, in tiles: a map is cut for threads only where its channels alone may not be enough.
constexpr int64_t kStripTiles = 128;

// Outputs of one vector: `columns` of them from (y, x) on, in a row or, kFlat, over the ends of rows; of two rows where
// these share a vector.
struct Place {
  int64_t y, x, columns;
};

class Cutter {
 public:
  Cutter(const pconv_conv_desc& conv, int64_t h, int64_t w, int64_t out_h, int64_t out_w, int64_t lanes,
         int64_t vectors)
      : conv_(conv), h_(h), w_(w), out_h_(out_h), out_w_(out_w), lanes_(lanes), vectors_(vectors) {
    const bool flat = conv.stride_h == 1 && conv.stride_w == 1 && out_w == w;
    paired_ = conv.stride_w == 2 && 2 * out_w <= lanes;
    cut_.form = conv.stride_w == 2 ? DirectForm::kStrided : flat ? DirectForm::kFlat : DirectForm::kRows;
  }

  DirectTiles cut() {
    for (int64_t ky = 0; ky < conv_.kernel_h; ++ky) {
      for (int64_t kx = 0; kx < conv_.kernel_w; ++kx) {
        cut_.tap_offsets.push_back(down(ky) * w_ + right(kx));
      }
    }
    cut_.form == DirectForm::kFlat ? cut_flat() : cut_rows();
    if (cut_.form == DirectForm::kStrided) pick();
    const auto n_tiles = static_cast<int64_t>(cut_.tiles.size());
    cut_.strip_tiles = div_up(n_tiles, div_up(n_tiles, kStripTiles));
    return std::move(cut_);
  }

 private:
  // From an output's place in the image to what a tap reads.
  int64_t down(int64_t ky) const { return ky * conv_.dilation_h - conv_.pad_top; }
  int64_t right(int64_t kx) const { return kx * conv_.dilation_w - conv_.pad_left; }

  // Outputs row by row, tiles as even as whole vectors go.
  void cut_flat() {
    const int64_t outputs = out_h_ * out_w_, n_vectors = div_up(outputs, lanes_), n = div_up(n_vectors, vectors_);
    cut_.in_step = cut_.out_step = lanes_;
    cut_.n_vectors = n_vectors;
    std::vector<Place> places;
    for (int64_t t = 0; t < n; ++t) {
      places.clear();
      const int64_t end = std::min(outputs, (t + 1) * n_vectors / n * lanes_);
      for (int64_t i = t * n_vectors / n * lanes_; i < end; i += lanes_) {
        places.push_back({i / out_w_, i % out_w_, std::min(lanes_, end - i)});
      }
      append(places);
    }
  }

  // Column blocks of the rows, or pairs of rows, that belong to a tile.
  void cut_rows() {
    const int64_t rows = paired_ ? 2 : 1, vector_rows = div_up(out_h_, rows), n = div_up(vector_rows, vectors_);
    cut_.in_step = rows * conv_.stride_h * w_;
    cut_.out_step = rows * out_w_;
    cut_.n_vectors = vector_rows * div_up(out_w_, lanes_);
    std::vector<Place> places;
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t x = 0; x < out_w_; x += lanes_) {
        places.clear();
        for (int64_t i = t * vector_rows / n; i < (t + 1) * vector_rows / n; ++i) {
          const int64_t y = i * rows, columns = std::min(rows, out_h_ - y) * out_w_ - x;
          places.push_back({y, x, std::min(lanes_, columns)});
        }
        append(places);
      }
    }
  }

  // Output lane i of a vector is lane read(i) of its two vectors of inputs.
  int64_t read(int64_t lane) const {
    if (cut_.form != DirectForm::kStrided) return lane;
    return paired_ ? lane / out_w_ * lanes_ + lane % out_w_ * 2 : lane * 2;
  }

  void pick() {
    cut_.high_step = paired_ ? conv_.stride_h * w_ : lanes_;
    for (int64_t lane = 0; lane < lanes_; ++lane) {
      cut_.picked.push_back(static_cast<int32_t>(std::min(read(lane), 2 * lanes_ - 1)));
    }
    const auto [lowest, highest] = std::minmax_element(cut_.tap_offsets.begin(), cut_.tap_offsets.end());
    cut_.before = std::max<ptrdiff_t>(0, -*lowest);
    for (const DwDirectTile& t : cut_.tiles) {
      const ptrdiff_t end = t.in + (t.vectors - 1) * cut_.in_step + *highest + cut_.high_step + lanes_;
      cut_.behind = std::max(cut_.behind, end - h_ * w_);
    }
  }

  void append(const std::vector<Place>& places) {
    const Place& first = places[0];
    DwDirectTile tile = {};
    tile.in = first.y * conv_.stride_h * w_ + first.x * conv_.stride_w;
    tile.out = static_cast<int32_t>(first.y * out_w_ + first.x);
    tile.vectors = static_cast<int32_t>(places.size());
    tile.masks = masks(places);
    cut_.tiles.push_back(tile);
  }

  // Tiles that read only rows of the image differ by their first column alone, if they have all of their outputs; those
  // of one row that read only its columns not even by that.
  int32_t masks(const std::vector<Place>& places) {
    const Place &first = places.front(), &last = places.back();
    const int64_t last_y = last.y + (last.x + last.columns - 1) / out_w_;
    const bool inside =
        first.y * conv_.stride_h >= conv_.pad_top && last_y * conv_.stride_h + down(conv_.kernel_h - 1) < h_;
    const auto fresh = static_cast<int32_t>(cut_.masks.size());
    if (inside && first.columns == last.columns) {
      const int64_t last_x = last.x + last.columns - 1;
      const bool middle = last_y == first.y && !paired_ && first.x * conv_.stride_w + right(0) >= 0 &&
                          last_x * conv_.stride_w + right(conv_.kernel_w - 1) < w_;
      const auto [found, added] = alike_.try_emplace(
          std::array<int64_t, 3>{middle ? -1 : first.x, first.columns, static_cast<int64_t>(places.size())}, fresh);
      if (!added) return found->second;
    }
    write_masks(places);
    return fresh;
  }

  void write_masks(const std::vector<Place>& places) {
    const auto n_taps = static_cast<size_t>(conv_.kernel_h * conv_.kernel_w), row = static_cast<size_t>(vectors_);
    const size_t begin = cut_.masks.size(), tap_masks = direct_masks(cut_.form) * row;
    cut_.masks.resize(begin + n_taps * tap_masks + row, 0);
    for (size_t v = 0; v < places.size(); ++v) {
      for (int64_t lane = 0; lane < places[v].columns; ++lane) {
        const int64_t x = places[v].x + lane, half = read(lane) / lanes_;
        uint16_t* mask = &cut_.masks[begin + v];
        for (size_t tap = 0; tap < n_taps; ++tap, mask += tap_masks) {
          if (!reads_image(places[v].y + x / out_w_, x % out_w_, static_cast<int64_t>(tap))) continue;
          set(mask, lane);
          if (cut_.form == DirectForm::kStrided) set(mask + (1 + half) * vectors_, read(lane) % lanes_);
        }
        set(mask, lane);
      }
    }
  }

  bool reads_image(int64_t y, int64_t x, int64_t tap) const {
    const int64_t iy = y * conv_.stride_h + down(tap / conv_.kernel_w);
    const int64_t ix = x * conv_.stride_w + right(tap % conv_.kernel_w);
    return iy >= 0 && iy < h_ && ix >= 0 && ix < w_;
  }

  static void set(uint16_t* mask, int64_t lane) { *mask = static_cast<uint16_t>(*mask | 1u << lane); }

  const pconv_conv_desc& conv_;
  const int64_t h_, w_, out_h_, out_w_, lanes_, vectors_;
  DirectTiles cut_ = {};
  bool paired_;                                      // a vector holds two rows
  std::map<std::array<int64_t, 3>, int32_t> alike_;  // first column, outputs and number of a tile's vectors -> masks
};

}  // namespace

int64_t DirectTiles::bytes() const {
  return static_cast<int64_t>(tiles.size() * sizeof(DwDirectTile) + tap_offsets.size() * sizeof(ptrdiff_t) +
                              masks.size() * sizeof(uint16_t));
}

bool direct_takes(const pconv_conv_desc& conv, int64_t h, int64_t w, int64_t out_h, int64_t out_w) {
  return (checked(conv.kernel_h) * checked(conv.kernel_w)).at_most(kMostTaps) &&
         (checked(h) * checked(w)).at_most(kMostPixels) && (checked(out_h) * checked(out_w)).at_most(kMostPixels);
}

DirectTiles cut_direct(const pconv_conv_desc& conv, int64_t h, int64_t w, int64_t out_h, int64_t out_w, int64_t lanes,
                       int64_t vectors) {
  return Cutter(conv, h, w, out_h, out_w, lanes, vectors).cut();
}

}  // namespace pconv
