// The deferred-shift body of 3x3 convolutions with stride 1, written once over the vector vocabulary.
//
// Convolution is linear, so the taps of the left, the centre and the right column are summed in three register sets
// that read the *same aligned* input vectors; the left set moves up by one lane and the right set down by one lane once
// per tile, after the last kernel. Every input vector is loaded once per kernel and feeds all taps of its column (load
// redundancy elimination), whatever the pattern. The sums stay in registers over all runs of a filter: hence one
// function per tile shape with the switch over patterns inside it, around a run. docs/PERFORMANCE.md has the figures.
// Included by isa.cpp inside the ISA's unnamed namespace.

template <int... kIndex, class F>
PCONV_INLINE void static_for(std::integer_sequence<int, kIndex...>, F f) {
  (f(std::integral_constant<int, kIndex>{}), ...);
}
// Calls f(integral_constant<int, 0>), ..., f(integral_constant<int, kCount - 1>), unrolled.
template <int kCount, class F>
PCONV_INLINE void static_for(F f) {
  static_for(std::make_integer_sequence<int, kCount>{}, f);
}

// Taps of the mask below tap `end`, so the place of tap `end` among the kept weights.
constexpr int taps_before(uint32_t mask, int end) {
  int n = 0;
  for (int t = 0; t < end; ++t) n += (mask >> t) & 1;
  return n;
}

template <int kRows, int kVectors>
class Conv3x3 {
 public:
  static constexpr int kTileRows = kRows + 2;
  static constexpr int kTileRowFloats = kVectors * Vec::kLanes;

  static void compute(const Conv3x3Args& args) noexcept {
    float* carry = args.carry;
    for (const FilterProgram *filter = args.filters, *end = filter + args.n_filters; filter != end; ++filter) {
      one_filter(args, *filter, carry);
      carry += 2 * kRows;
    }
  }

  static void pack(const PackTileArgs& args) noexcept {
    const bool inside = args.x0 >= 0 && args.x0 + kTileRowFloats <= args.w;
    float* out = args.tile;
    const float* plane = args.image;
    for (int ch = 0; ch < args.n_channels; ++ch, plane += args.channel_stride) {
      for (int i = 0; i < kTileRows; ++i, out += kTileRowFloats) {
        const int y = args.y0 + i;
        if (y < 0 || y >= args.h) {
          for (int c = 0; c < kVectors; ++c) Vec::store(out + c * Vec::kLanes, Vec::zero());
        } else {
          pack_row(plane + y * args.row_stride, args.x0, args.w, inside, out);
        }
      }
    }
  }

 private:
  using Reg = Vec::Reg;

  // sum[dx][row][vector]: dx 0, 1, 2 = taps of the left, centre and right column, not yet shifted.
  struct Sums {
    Reg sum[3][kRows][kVectors];
  };

  static PCONV_INLINE void pack_row(const float* row, int x0, int w, bool inside, float* out) {
    for (int c = 0; c < kVectors; ++c) {
      const int x = x0 + c * Vec::kLanes;
      Reg v;
      if (inside) {
        v = Vec::load_unaligned(row + x);
      } else {
        const int begin = x < 0 ? (-x < Vec::kLanes ? -x : Vec::kLanes) : 0;
        const int end = w - x < Vec::kLanes ? w - x : Vec::kLanes;
        v = end > begin ? Vec::load_lanes(row + x, begin, end) : Vec::zero();
      }
      Vec::store(out + c * Vec::kLanes, v);
    }
  }

  static PCONV_INLINE void one_filter(const Conv3x3Args& args, const FilterProgram& filter, float* carry) {
    Sums s;
    const Reg bias = Vec::broadcast(filter.bias);
    static_for<kRows * kVectors>([&](auto i) PCONV_INLINE_LAMBDA {
      s.sum[0][i / kVectors][i % kVectors] = Vec::zero();
      s.sum[1][i / kVectors][i % kVectors] = bias;
      s.sum[2][i / kVectors][i % kVectors] = Vec::zero();
    });
    const float* weights = filter.weights;
    const int32_t* offsets = filter.tile_offsets;
    for (const Run *run = filter.runs, *end = run + filter.n_runs; run != end; ++run) {
      switch (run->pattern) {
#define PCONV_PATTERN(id, name, mask)                              \
  case id:                                                         \
    one_run<mask>(s, args.tile, offsets, weights, run->n_kernels); \
    break;
#include "pconv/patterns.def"
#undef PCONV_PATTERN
        default:
          __builtin_unreachable();  // the plan takes ids from the same manifest
      }
    }
    float* out = args.out + filter.out_channel * args.plane_stride;
    if (args.residual != nullptr) {
      finish<true>(args, s, carry, out, args.residual + filter.out_channel * args.plane_stride);
    } else {
      finish<false>(args, s, carry, out, nullptr);
    }
  }

  // All kernels of one run: n_kernels >= 1.
  template <uint32_t kMask>
  static PCONV_INLINE void one_run(Sums& s, const float* tile, const int32_t*& offsets, const float*& weights,
                                   uint32_t n_kernels) {
    constexpr int kTaps = taps_before(kMask, 9);
    do {
      const float* plane = reinterpret_cast<const float*>(reinterpret_cast<const char*>(tile) + *offsets++);
      const Vec::Weights<kTaps> w(weights);
      weights += weight_pitch(kTaps);
      static_for<kTileRows * kVectors>([&](auto i) PCONV_INLINE_LAMBDA {
        constexpr int kRow = i / kVectors, kColumn = i % kVectors;
        if constexpr (row_is_read(kMask, kRow)) {
          const Reg v = Vec::load(plane + kRow * kTileRowFloats + kColumn * Vec::kLanes);
          static_for<9>([&](auto tap) PCONV_INLINE_LAMBDA {
            constexpr int kOutRow = kRow - tap / 3;
            if constexpr (((kMask >> tap) & 1) && kOutRow >= 0 && kOutRow < kRows) {
              Reg& sum = s.sum[tap % 3][kOutRow][kColumn];
              sum = w.template multiply_add<taps_before(kMask, tap)>(sum, v);
            }
          });
        }
      });
    } while (--n_kernels);
  }

  // Does a tap of the mask bring tile row `row` to one of the tile's outputs?
  static constexpr bool row_is_read(uint32_t mask, int row) {
    for (int t = 0; t < 9; ++t) {
      if (((mask >> t) & 1) && row - t / 3 >= 0 && row - t / 3 < kRows) return true;
    }
    return false;
  }

  // Shifts, adds as (centre + left) + right, adds the residual, clamps and stores.
  template <bool kResidual>
  static PCONV_INLINE void finish(const Conv3x3Args& args, const Sums& s, float* carry, float* out,
                                  const float* residual) {
    const bool full = args.lane_begin == 0 && args.lane_end == kTileRowFloats;
    const Reg lo = Vec::broadcast(args.clamp_min), hi = Vec::broadcast(args.clamp_max);
    static_for<kRows>([&](auto r) PCONV_INLINE_LAMBDA {
      if (r < args.rows) {
        float* row = out + r * args.row_stride;
        const float* residual_row = kResidual ? residual + r * args.row_stride : nullptr;
        Reg below = Vec::zero();
        if (args.has_prev) {
          below = Vec::last_lane(carry[r]);
          Reg last = Vec::add(Vec::broadcast(carry[kRows + r]), s.sum[2][r][0]);
          if constexpr (kResidual) last = Vec::add(last, Vec::broadcast(residual_row[-1]));
          row[-1] = Vec::first(Vec::clamp(last, lo, hi));
        }
        static_for<kVectors>([&](auto c) PCONV_INLINE_LAMBDA {
          const Reg left = Vec::shift_up(s.sum[0][r][c], c == 0 ? below : s.sum[0][r][c == 0 ? 0 : c - 1]);
          const Reg above = c + 1 < kVectors ? s.sum[2][r][c + 1 < kVectors ? c + 1 : c] : Vec::zero();
          const Reg right = Vec::shift_down(s.sum[2][r][c], above);
          Reg y = Vec::add(s.sum[1][r][c], left);
          if (c + 1 == kVectors && args.has_next) {
            Vec::store_last(carry + r, s.sum[0][r][c]);
            Vec::store_last(carry + kRows + r, y);
          }
          y = Vec::add(y, right);
          float* place = row + c * Vec::kLanes;
          if (full) {
            if constexpr (kResidual) y = Vec::add(y, Vec::load_unaligned(residual_row + c * Vec::kLanes));
            Vec::store_unaligned(place, Vec::clamp(y, lo, hi));
          } else {
            const int begin = args.lane_begin - c * Vec::kLanes > 0 ? args.lane_begin - c * Vec::kLanes : 0;
            const int rest = args.lane_end - c * Vec::kLanes;
            const int end = rest < Vec::kLanes ? rest : Vec::kLanes;
            if (begin < end) {
              if constexpr (kResidual) {
                y = Vec::add(y, Vec::load_lanes(residual_row + c * Vec::kLanes, begin, end));
              }
              Vec::store_lanes(place, Vec::clamp(y, lo, hi), begin, end);
            }
          }
        });
      }
    });
  }
};
