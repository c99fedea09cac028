// 3x3 convolutions with stride 1 and one zero around the image, for maps of so few pixels that a vector holds each of
// them once for every tap of a kernel (CIFAR's 2x2): lane 4 * i + t is pixel i, for tap t. A kernel's four weights,
// repeated, then need one multiply-add; what a tap has summed moves to the pixel that it is an input of where a run
// ends (deferred shift, as in map3x3.inl), and taps are added up where the filter ends.
// Included by isa.cpp inside the ISA's unnamed namespace. V is Vec, of an ISA that has the functions of map3x3.inl,
// select(), repeat4(), each4(), every4th() and add_fours().

template <class V>
class Tiny3x3 {
 public:
  static constexpr int kTileFloats = V::kLanes, kMostPixels = V::kLanes / 4;

  static void compute(const TileArgs& args) noexcept {
    const Moves moves(args.rows, args.lane_end);
    for (const FilterProgram *filter = args.filters, *end = filter + args.n_filters; filter != end; ++filter) {
      one_filter(args, moves, *filter);
    }
  }

  static void pack(const PackTileArgs& args) noexcept {
    const typename V::Lanes pixels = V::lanes(0, args.h * args.w);
    const float* plane = args.image;
    float* out = args.tile;
    for (int ch = 0; ch < args.n_channels; ++ch, plane += args.channel_stride, out += kTileFloats) {
      V::store(out, V::each4(V::load_lanes(plane, pixels)));
    }
  }

 private:
  using Reg = typename V::Reg;
  using Index = typename V::Index;
  using Lanes = typename V::Lanes;

  // For each tap: from which lane an output takes its sums, and whether it does.
  struct Moves {
    Index from[9];
    Lanes inside[9];

    Moves(int h, int w) {
      for (int tap = 0; tap < 9; ++tap) {
        const int dy = tap / 3 - 1, dx = tap % 3 - 1;
        unsigned lanes = 0;
        for (int y = 0; y < h; ++y) {
          for (int x = 0; x < w; ++x) {
            const bool here = y + dy >= 0 && y + dy < h && x + dx >= 0 && x + dx < w;
            lanes |= unsigned{here} << (4 * (y * w + x));
          }
        }
        inside[tap] = static_cast<Lanes>(lanes * 0xf);
        // Indices count modulo the vector: those outside are masked.
        from[tap] = V::lane_index(4 * (dy * w + dx));
      }
    }
  };

  static PCONV_INLINE void one_filter(const TileArgs& args, const Moves& moves, const FilterProgram& filter) {
    Reg total = V::zero();
    const float* weights = filter.weights;
    const uint16_t* channels = filter.channels;
    for (const Run *run = filter.runs, *end = run + filter.n_runs; run != end; ++run) {
      switch (run->pattern) {
#define PCONV_PATTERN(id, name, mask)                                          \
  case id:                                                                     \
    one_run<mask>(total, moves, args.tile, channels, weights, run->n_kernels); \
    break;
#include "pconv/patterns.def"
#undef PCONV_PATTERN
        default:
          __builtin_unreachable();  // the plan takes ids from the same manifest
      }
    }
    finish(args, V::add(V::add_fours(total), V::broadcast(filter.bias)), filter.out_channel * args.plane_stride);
  }

  // All kernels of one run: n_kernels >= 1.
  template <uint32_t kMask>
  static PCONV_INLINE void one_run(Reg& total, const Moves& moves, const float* tile, const uint16_t*& channels,
                                   const float*& weights, uint32_t n_kernels) {
    constexpr int kFours = weight_pitch(taps_before(kMask, 9)) / 4;
    constexpr int kCopies = kFours == 1 ? 4 : 2;  // so that multiply-adds do not wait for each other
    Reg sum[kCopies][kFours];
    static_for<kCopies * kFours>([&](auto i) PCONV_INLINE_LAMBDA { sum[i / kFours][i % kFours] = V::zero(); });
    const auto kernel = [&](auto copy) PCONV_INLINE_LAMBDA {
      const Reg x = V::load(tile + ptrdiff_t{*channels++} * kTileFloats);
      static_for<kFours>([&](auto four) PCONV_INLINE_LAMBDA {
        sum[copy][four] = V::fma(V::repeat4(weights + 4 * four), x, sum[copy][four]);
      });
      weights += 4 * kFours;
    };
    const uint16_t* const end = channels + n_kernels;
    while (end - channels >= kCopies) {
      static_for<kCopies>(kernel);
      __builtin_prefetch(weights + kWeightsAhead, 0, 3);
    }
    static_for<kCopies - 1>([&](auto copy) PCONV_INLINE_LAMBDA {
      if (channels != end) kernel(copy);
    });
    static_for<kFours>([&](auto four) PCONV_INLINE_LAMBDA {
      static_for<kCopies / 2>(
          [&](auto i) PCONV_INLINE_LAMBDA { sum[2 * i][four] = V::add(sum[2 * i][four], sum[2 * i + 1][four]); });
      if constexpr (kCopies == 4) sum[0][four] = V::add(sum[0][four], sum[2][four]);
      total = V::add(total, moved<kMask, 4 * four>(moves, sum[0][four]));
    });
  }

  // The sums of taps number kFirst to kFirst + 3 of a pattern, each where its outputs are.
  template <uint32_t kMask, int kFirst>
  static PCONV_INLINE Reg moved(const Moves& moves, Reg sum) {
    Index from = moves.from[4];
    Lanes inside = 0;
    static_for<9>([&](auto tap) PCONV_INLINE_LAMBDA {
      constexpr int kPlace = taps_before(kMask, tap) - kFirst;
      if constexpr (((kMask >> tap) & 1) && kPlace >= 0 && kPlace < 4) {
        constexpr Lanes kThis = static_cast<Lanes>(0x1111u << kPlace);
        from = V::select(from, moves.from[tap], kThis);
        inside = static_cast<Lanes>(inside | (moves.inside[tap] & kThis));
      }
    });
    return V::permute_lanes(sum, from, sum, inside);
  }

  // y: lane 4 * i is pixel i.
  static PCONV_INLINE void finish(const TileArgs& args, Reg y, ptrdiff_t plane) {
    const Lanes pixels = V::lanes(0, args.rows * args.lane_end);
    y = V::every4th(y);
    if (args.residual != nullptr) y = V::add(y, V::load_lanes(args.residual + plane, pixels));
    V::store_lanes(args.out + plane, V::clamp(y, V::broadcast(args.clamp_min), V::broadcast(args.clamp_max)), pixels);
  }
};
