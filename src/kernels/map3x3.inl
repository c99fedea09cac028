// 3x3 convolutions with stride 1 and one zero around the image, for maps so small that rows of their own would leave
// most lanes of a vector empty (CIFAR's 8x8 to 2x2, ImageNet's 7x7): the whole map lies in a few vectors, row after
// row, and the vertical taps are deferred as the horizontal ones are in conv3x3.inl.
//
// Every tap (dy, dx) has sums of its own, all fed by the same vectors; at the end those of a tap move by dy * w + dx
// lanes and are added, but for the lanes whose input would come from the row beside.
// kFamily: the taps that have sums; patterns with others never come here.
// Included by isa.cpp inside the ISA's unnamed namespace. V is Vec, of an ISA that has lane_index() and
// permute_lanes().

template <class V, int kVectors, uint32_t kFamily>
class Map3x3 {
 public:
  static constexpr int kTileFloats = kVectors * V::kLanes;

  static void compute(const TileArgs& args) noexcept {
    const Layout layout(args.rows, args.lane_end);
    for (const FilterProgram *filter = args.filters, *end = filter + args.n_filters; filter != end; ++filter) {
      one_filter(args, layout, *filter);
    }
  }

  static void pack(const PackTileArgs& args) noexcept {
    const int n = args.h * args.w;
    const float* plane = args.image;
    float* out = args.tile;
    for (int ch = 0; ch < args.n_channels; ++ch, plane += args.channel_stride, out += kTileFloats) {
      static_for<kVectors>([&](auto v) PCONV_INLINE_LAMBDA {
        V::store(out + v * V::kLanes, V::load_lanes(plane + v * V::kLanes, V::lanes(0, n - v * V::kLanes)));
      });
    }
  }

 private:
  using Reg = typename V::Reg;
  // One vector a tap would leave the multiply-adds waiting for each other: two kernels run side by side.
  static constexpr int kCopies = kVectors == 1 ? 2 : 1;

  struct Sums {
    Reg sum[kCopies][9][kVectors];
  };

  // Which lanes hold pixels, and which of them a tap to the left or to the right has an input for.
  struct Layout {
    typename V::Lanes pixels[kVectors], inside[3][kVectors];  // inside[dx + 1]
    int pitch;

    // h rows of w < kLanes pixels. Runs for every tile and group: no division.
    Layout(int h, int w) : pitch(w) {
      bool left[kVectors * V::kLanes] = {}, right[kVectors * V::kLanes] = {};
      for (int y = 0; y < h; ++y) left[y * w] = right[y * w + w - 1] = true;
      for (int v = 0; v < kVectors; ++v) {
        unsigned first = 0, last = 0;
        for (int i = 0; i < V::kLanes; ++i) {
          first |= unsigned{left[v * V::kLanes + i]} << i;
          last |= unsigned{right[v * V::kLanes + i]} << i;
        }
        pixels[v] = V::lanes(0, h * w - v * V::kLanes);
        inside[0][v] = static_cast<typename V::Lanes>(pixels[v] & ~first);
        inside[1][v] = pixels[v];
        inside[2][v] = static_cast<typename V::Lanes>(pixels[v] & ~last);
      }
    }
  };

  static PCONV_INLINE void one_filter(const TileArgs& args, const Layout& layout, const FilterProgram& filter) {
    Sums s;
    for_each_sum([&](auto copy, auto tap, auto v) PCONV_INLINE_LAMBDA { s.sum[copy][tap][v] = V::zero(); });
    const float* weights = filter.weights;
    const uint16_t* channels = filter.channels;
    for (const Run *run = filter.runs, *end = run + filter.n_runs; run != end; ++run) {
      switch (run->pattern) {
#define PCONV_PATTERN(id, name, mask)                                                                       \
  case id:                                                                                                  \
    if constexpr (((mask) & ~kFamily) == 0) one_run<mask>(s, args.tile, channels, weights, run->n_kernels); \
    break;
#include "pconv/patterns.def"
#undef PCONV_PATTERN
        default:
          __builtin_unreachable();  // the plan takes ids from the same manifest
      }
    }
    finish(args, layout, s, V::broadcast(filter.bias), filter.out_channel * args.plane_stride);
  }

  // All kernels of one run: n_kernels >= 1.
  template <uint32_t kMask>
  static PCONV_INLINE void one_run(Sums& s, const float* tile, const uint16_t*& channels, const float*& weights,
                                   uint32_t n_kernels) {
    const uint16_t* const end = channels + n_kernels;
    if constexpr (kCopies == 2) {
      for (; end - channels >= 2; ++channels) {
        one_kernel<kMask, 0>(s, tile, *channels++, weights);
        one_kernel<kMask, 1>(s, tile, *channels, weights);
        __builtin_prefetch(weights + kWeightsAhead, 0, 3);
      }
    }
    for (; channels != end; ++channels) one_kernel<kMask, 0>(s, tile, *channels, weights);
  }

  template <uint32_t kMask, int kCopy>
  static PCONV_INLINE void one_kernel(Sums& s, const float* tile, uint16_t channel, const float*& weights) {
    constexpr int kTaps = taps_before(kMask, 9);
    const float* plane = tile + ptrdiff_t{channel} * kTileFloats;
    const typename V::template Weights<kTaps> w(weights);
    weights += weight_pitch(kTaps);
    static_for<kVectors>([&](auto v) PCONV_INLINE_LAMBDA {
      const Reg x = V::load(plane + v * V::kLanes);
      static_for<9>([&](auto tap) PCONV_INLINE_LAMBDA {
        if constexpr ((kMask >> tap) & 1) {
          Reg& sum = s.sum[kCopy][tap][v];
          sum = w.template multiply_add<taps_before(kMask, tap)>(sum, x);
        }
      });
    });
  }

  // Adds bias + centre + the other taps in their order, the residual, clamps and stores.
  static PCONV_INLINE void finish(const TileArgs& args, const Layout& layout, Sums& s, Reg bias, ptrdiff_t plane) {
    const Reg lo = V::broadcast(args.clamp_min), hi = V::broadcast(args.clamp_max);
    Reg y[kVectors];
    static_for<kVectors>(
        [&](auto v) PCONV_INLINE_LAMBDA { y[v] = V::add(bias, total(s, std::integral_constant<int, 4>{}, v)); });
    static_for<9>([&](auto tap) PCONV_INLINE_LAMBDA {
      if constexpr (tap != 4 && ((kFamily >> tap) & 1)) {
        const int moved = (tap / 3 - 1) * layout.pitch + tap % 3 - 1;  // lanes from an output to its input
        const auto index = V::lane_index(tap < 4 ? moved + V::kLanes : moved);
        static_for<kVectors>([&](auto v) PCONV_INLINE_LAMBDA {
          constexpr int kLow = tap < 4 ? v - 1 : v, kHigh = kLow + 1;
          const Reg low = kLow < 0 ? V::zero() : total(s, tap, std::integral_constant < int, kLow<0 ? 0 : kLow>{});
          const Reg high = kHigh == kVectors
                               ? V::zero()
                               : total(s, tap, std::integral_constant < int, kHigh == kVectors ? 0 : kHigh > {});
          y[v] = V::add(y[v], V::permute_lanes(low, index, high, layout.inside[tap % 3][v]));
        });
      }
    });
    static_for<kVectors>([&](auto v) PCONV_INLINE_LAMBDA {
      const ptrdiff_t at = plane + v * V::kLanes;
      if (args.residual != nullptr) y[v] = V::add(y[v], V::load_lanes(args.residual + at, layout.pixels[v]));
      V::store_lanes(args.out + at, V::clamp(y[v], lo, hi), layout.pixels[v]);
    });
  }

  template <class Tap, class Vector>
  static PCONV_INLINE Reg total(const Sums& s, Tap tap, Vector v) {
    return kCopies == 2 ? V::add(s.sum[0][tap][v], s.sum[kCopies - 1][tap][v]) : s.sum[0][tap][v];
  }

  template <class F>
  static PCONV_INLINE void for_each_sum(F f) {
    static_for<kCopies * 9 * kVectors>([&](auto i) PCONV_INLINE_LAMBDA {
      constexpr int kTap = i / kVectors % 9;
      if constexpr ((kFamily >> kTap) & 1) {
        f(std::integral_constant<int, i / (9 * kVectors)>{}, std::integral_constant<int, kTap>{},
          std::integral_constant<int, i % kVectors>{});
      }
    });
  }
};
