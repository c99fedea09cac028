#include "direct_tiles.h"

#include <algorithm>
#include <map>

namespace pconv {
namespace {

// Offsets and the tables of tiles stay small: an image of 1920 x 1080 has 16 K tiles.
constexpr int64_t kMostPixels = int64_t{1} << 21, kMostTaps = 64;
// Outputs of a strip, in tiles: a map is cut for threads only where its channels alone may not be enough.
constexpr int64_t kStripTiles = 128;

// Outputs of one vector: `rows` rows of them, `columns` each, from (y, x); kFlat: `columns` from there on.
struct Place {
  int64_t y, x, columns;
};

class Cutter {
 public:
  Cutter(const pconv_conv_desc& conv, int64_t h, int64_t w, int64_t out_h, int64_t out_w, int64_t lanes,
         int64_t vectors)
      : conv_(conv), h_(h), w_(w), out_h_(out_h), out_w_(out_w), lanes_(lanes), vectors_(vectors) {
    const bool flat = conv.stride_h == 1 && conv.stride_w == 1 && out_w == w;
    cut_.form = conv.stride_w == 2 ? DirectForm::kStrided : flat ? DirectForm::kFlat : DirectForm::kRows;
  }

  DirectTiles cut() {
    for (int64_t ky = 0; ky < conv_.kernel_h; ++ky) {
      for (int64_t kx = 0; kx < conv_.kernel_w; ++kx) {
        cut_.tap_offsets.push_back(down(ky) * w_ + right(kx));
      }
    }
    cut_.form == DirectForm::kFlat ? cut_flat() : cut_rows();
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

  // Column blocks of the rows that belong to a tile.
  void cut_rows() {
    cut_.in_step = conv_.stride_h * w_;
    cut_.out_step = out_w_;
    cut_.n_vectors = out_h_ * div_up(out_w_, lanes_);
    const int64_t n = div_up(out_h_, vectors_);
    std::vector<Place> places;
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t x = 0; x < out_w_; x += lanes_) {
        places.clear();
        for (int64_t y = t * out_h_ / n; y < (t + 1) * out_h_ / n; ++y) {
          places.push_back({y, x, std::min(lanes_, out_w_ - x)});
        }
        append(places);
      }
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

  // Tiles that read only rows of the image differ by their first column alone, if they have all of their vectors.
  int32_t masks(const std::vector<Place>& places) {
    const Place &first = places.front(), &last = places.back();
    const int64_t last_y = last.y + (last.x + last.columns - 1) / out_w_;
    const bool inside =
        first.y * conv_.stride_h >= conv_.pad_top && last_y * conv_.stride_h + down(conv_.kernel_h - 1) < h_;
    const auto fresh = static_cast<int32_t>(cut_.masks.size());
    if (inside && (last.columns == lanes_ || cut_.form != DirectForm::kFlat)) {
      const auto [found, added] = alike_.try_emplace({first.x, static_cast<int64_t>(places.size())}, fresh);
      if (!added) return found->second;
    }
    write_masks(places);
    return fresh;
  }

  void write_masks(const std::vector<Place>& places) {
    const int64_t n_taps = conv_.kernel_h * conv_.kernel_w, loads = cut_.form == DirectForm::kStrided ? 2 : 1;
    const auto tap_masks = static_cast<size_t>(loads * vectors_);
    const size_t begin = cut_.masks.size();
    cut_.masks.resize(begin + static_cast<size_t>(n_taps) * tap_masks + static_cast<size_t>(vectors_), 0);
    for (size_t v = 0; v < places.size(); ++v) {
      for (int64_t lane = 0; lane < places[v].columns; ++lane) {
        const int64_t y = places[v].y + (places[v].x + lane) / out_w_, x = (places[v].x + lane) % out_w_;
        uint16_t* const of_lane = &cut_.masks[begin + v];
        set(of_lane + static_cast<size_t>(n_taps) * tap_masks, lane);
        const int64_t read = lane * (cut_.form == DirectForm::kStrided ? 2 : 1);  // lane of the loads
        uint16_t* const of_read = of_lane + (read / lanes_) * vectors_;
        for (int64_t tap = 0; tap < n_taps; ++tap) {
          const int64_t iy = y * conv_.stride_h + down(tap / conv_.kernel_w);
          const int64_t ix = x * conv_.stride_w + right(tap % conv_.kernel_w);
          if (iy >= 0 && iy < h_ && ix >= 0 && ix < w_)
            set(of_read + static_cast<size_t>(tap) * tap_masks, read % lanes_);
        }
      }
    }
  }

  static void set(uint16_t* mask, int64_t lane) { *mask = static_cast<uint16_t>(*mask | 1u << lane); }

  const pconv_conv_desc& conv_;
  const int64_t h_, w_, out_h_, out_w_, lanes_, vectors_;
  DirectTiles cut_ = {};
  std::map<std::pair<int64_t, int64_t>, int32_t> alike_;  // first column and vectors of a tile -> its masks
};

}  // namespace

int64_t DirectTiles::bytes() const {
  return static_cast<int64_t>(tiles.size() * sizeof(DwDirectTile) + tap_offsets.size() * sizeof(ptrdiff_t) +
                              masks.size() * sizeof(uint16_t));
}

bool direct_takes(const pconv_conv_desc& conv, int64_t h, int64_t w, int64_t out_h, int64_t out_w) {
  return conv.stride_w <= 2 && (checked(conv.kernel_h) * checked(conv.kernel_w)).at_most(kMostTaps) &&
         (checked(h) * checked(w)).at_most(kMostPixels) && (checked(out_h) * checked(out_w)).at_most(kMostPixels);
}

DirectTiles cut_direct(const pconv_conv_desc& conv, int64_t h, int64_t w, int64_t out_h, int64_t out_w, int64_t lanes,
                       int64_t vectors) {
  return Cutter(conv, h, w, out_h, out_w, lanes, vectors).cut();
}

}  // namespace pconv
