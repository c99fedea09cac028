// The deferred-shift body of 3x3 convolutions with stride 2. The tile holds every input row as two phases: the columns
// of the centre taps, and those of the right taps, which are the left taps of the next output. Taps of one row and
// phase share each load. Every column has sums of its own, so that multiply-adds do not wait for each other; only those
// of the left taps move, up by one lane, once per tile. Included by isa.cpp inside the ISA's unnamed namespace.

static_assert(kKernelsAhead >= 2, "offsets are read so far ahead");

template <int kRows, int kVectors>
class Conv3x3S2 {
 public:
  static constexpr int kTileRows = 2 * kRows + 1;
  // In the tile lie, phase after phase, the rows of the upper and lower taps and then those of the middle ones: what a
  // tap reads lies side by side, and NEON has one instruction for two loads.
  static constexpr int kPhaseVectors = kTileRows * kVectors;
  static constexpr int kTileFloats = 2 * kPhaseVectors * Vec::kLanes;
  // The last left sums of each row.
  static constexpr int kCarryFloats = (kRows * Vec::kLastLanes + Vec::kLanes - 1) / Vec::kLanes * Vec::kLanes;

  static void compute(const TileArgs& args) noexcept {
    float* carry = args.carry;
    for (const FilterProgram *filter = args.filters, *end = filter + args.n_filters; filter != end; ++filter) {
      one_filter(args, *filter, carry);
      carry += kCarryFloats;
    }
  }

  static void pack(const PackTileArgs& args) noexcept {
    const RowSplitter splitter(args.w, args.x0, 2, kVectors * Vec::kLanes, kPhaseVectors * Vec::kLanes);
    float* out = args.tile;
    for (int ch = 0; ch < args.n_channels; ++ch, out += kTileFloats) {
      const float* plane = args.image + ch * args.channel_stride;
      for (int i = 0; i < kTileRows; ++i) {
        const int y = args.y0 + i;
        const int place = i % 2 == 0 ? i / 2 : kRows + 1 + i / 2;
        splitter.split(y >= 0 && y < args.h ? plane + y * args.row_stride : nullptr,
                       out + place * kVectors * Vec::kLanes);
      }
    }
  }

 private:
  using Reg = Vec::Reg;

  // sum[kx]; those of the left taps are not yet shifted.
  struct Sums {
    Reg sum[3][kRows][kVectors];
  };

  static PCONV_INLINE void one_filter(const TileArgs& args, const FilterProgram& filter, float* carry) {
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
    finish(args, s, carry, filter.out_channel * args.plane_stride);
  }

  // All kernels of one run: n_kernels >= 1. Where a kernel's inputs lie is known one turn ahead: with hardly more sums
  // than loads no queue of loads builds up, and each turn would wait for offset, address and input in a row.
  template <uint32_t kMask>
  static PCONV_INLINE void one_run(Sums& s, const float* tile, const int32_t*& offsets, const float*& weights,
                                   uint32_t n_kernels) {
    constexpr int kTaps = taps_before(kMask, 9);
    if constexpr (Vec::kInPairs && n_read(kMask) == kTaps * kRows * kVectors) {
      return run_unshared<Vec, kMask>(s, tile, offsets, weights, n_kernels);
    }
    const int32_t* const end = offsets + n_kernels;
    const float* plane = plane_at(tile, *offsets);
    do {
      const int64_t next = opaque<int64_t>(*++offsets);  // readable behind the last one
      if constexpr (Vec::kInPairs) {
        kernel_in_pairs<Vec, kMask>(s, plane, weights);
      } else {
        kernel_in_groups<kMask>(s, plane, weights);
      }
      plane = plane_at(tile, next);
    } while (offsets != end);
  }

  // The same where no two taps share a load: two loads a cycle are then what bounds, and four kernels a turn leave them
  // to the inputs (docs/PERFORMANCE.md). V is Vec, which needs next_two only if kInPairs.
  template <class V, uint32_t kMask>
  static PCONV_INLINE void run_unshared(Sums& s, const float* tile, const int32_t*& offsets, const float*& weights,
                                        uint32_t n_kernels) {
    if (n_kernels & 1) kernel_in_pairs<V, kMask>(s, plane_at(tile, *offsets++), weights);
    if (n_kernels & 2) {
      kernel_in_pairs<V, kMask>(s, plane_at(tile, *offsets++), weights);
      kernel_in_pairs<V, kMask>(s, plane_at(tile, *offsets++), weights);
    }
    if (n_kernels < 4) return;
    const float *even = plane_at(tile, offsets[0]), *odd = plane_at(tile, offsets[1]);
    const int32_t* ahead = offsets + 2;
    offsets += n_kernels / 4 * 4;
    const int32_t* const end = offsets + 2;
    do {
      static_for<2>([&](auto) PCONV_INLINE_LAMBDA {
        // Both places at once: single instructions in odd numbers would shift pairs across the four decoded in a cycle.
        int64_t third, fourth;
        V::next_two(ahead, &third, &fourth);
        const float *const next_even = plane_at(tile, third), *const next_odd = plane_at(tile, fourth);
        kernel_in_pairs<V, kMask>(s, even, weights);
        kernel_in_pairs<V, kMask>(s, odd, weights);
        even = next_even;
        odd = next_odd;
      });
    } while (ahead != end);
  }

  // One kernel of a run, a few loads before their sums.
  template <uint32_t kMask>
  static PCONV_INLINE void kernel_in_groups(Sums& s, const float* plane, const float*& weights) {
    constexpr int kTaps = taps_before(kMask, 9);
    constexpr int kGroup = kTaps > 4 ? 1 : 4;
    const Vec::Weights<kTaps> w(weights);
    weights += weight_pitch(kTaps);
    static_for<(2 * kPhaseVectors + kGroup - 1) / kGroup>([&](auto group) PCONV_INLINE_LAMBDA {
      Reg v[kGroup];
      static_for<kGroup>([&](auto i) PCONV_INLINE_LAMBDA {
        constexpr int kIndex = group * kGroup + i;
        if constexpr (is_read(kMask, kIndex)) v[i] = Vec::load(plane + kIndex * Vec::kLanes);
      });
      static_for<kGroup>([&](auto i) PCONV_INLINE_LAMBDA {
        constexpr int kIndex = group * kGroup + i;
        if constexpr (is_read(kMask, kIndex)) add_taps<kMask, kIndex>(s, w, v[i]);
      });
    });
  }

  // The same, two loads by one instruction wherever two vectors in a row are read. V is Vec.
  template <class V, uint32_t kMask>
  static PCONV_INLINE void kernel_in_pairs(Sums& s, const float* plane, const float*& weights) {
    const typename V::template OrderedWeights<taps_before(kMask, 9)> w(weights);
    static_for<2 * kPhaseVectors>([&](auto i) PCONV_INLINE_LAMBDA {
      constexpr int kIndex = i;
      if constexpr (is_read(kMask, kIndex) && place_in_row(kMask, kIndex) % 2 == 0) {
        if constexpr (is_read(kMask, kIndex + 1)) {
          Reg v0, v1;
          V::template load_two<kIndex * V::kLanes, kTileFloats>(plane, &v0, &v1);
          add_taps<kMask, kIndex>(s, w, v0);
          add_taps<kMask, kIndex + 1>(s, w, v1);
        } else {
          add_taps<kMask, kIndex>(s, w, V::load(plane + kIndex * V::kLanes));
        }
      }
    });
  }

  // Opaque, or the first load has base and index for an address and makes no pair with the second.
  static PCONV_INLINE const float* plane_at(const float* tile, int64_t offset) {
    return opaque(reinterpret_cast<const float*>(reinterpret_cast<const char*>(tile) + offset));
  }

  // Output row for which tap t reads vector `index` of the tile's plane, or -1.
  static constexpr int out_row(int t, int index) {
    if (index / kPhaseVectors != (t % 3 == 1 ? 0 : 1)) return -1;
    const int place = index % kPhaseVectors / kVectors;
    const bool middle = place > kRows;
    if (middle != (t / 3 == 1)) return -1;
    const int row = middle ? place - kRows - 1 : place - t / 6;
    return row >= 0 && row < kRows ? row : -1;
  }
  static constexpr bool is_read(uint32_t mask, int index) {
    for (int t = 0; t < 9; ++t) {
      if (((mask >> t) & 1) && out_row(t, index) >= 0) return true;
    }
    return false;
  }

  static constexpr int n_read(uint32_t mask) {
    int n = 0;
    for (int i = 0; i < 2 * kPhaseVectors; ++i) n += is_read(mask, i);
    return n;
  }
  // How many vectors that are read lie before this one without a gap.
  static constexpr int place_in_row(uint32_t mask, int index) {
    int n = 0;
    while (index - n > 0 && is_read(mask, index - n - 1)) ++n;
    return n;
  }

  // Vector kIndex of the tile's plane, times every tap that uses it.
  template <uint32_t kMask, int kIndex, class Weights>
  static PCONV_INLINE void add_taps(Sums& s, const Weights& w, Reg v) {
    static_for<9>([&](auto tap) PCONV_INLINE_LAMBDA {
      if constexpr (((kMask >> tap) & 1) && out_row(tap, kIndex) >= 0) {
        Reg& sum = s.sum[tap % 3][out_row(tap, kIndex)][kIndex % kVectors];
        sum = w.template multiply_add<taps_before(kMask, tap)>(sum, v);
      }
    });
  }

  // Shifts, adds as (centre + left) + right, adds the residual, clamps and stores.
  static PCONV_INLINE void finish(const TileArgs& args, const Sums& s, float* carry, ptrdiff_t plane) {
    const Reg lo = Vec::broadcast(args.clamp_min), hi = Vec::broadcast(args.clamp_max);
    const bool has_prev = args.has_prev, has_next = args.has_next;
    static_for<kRows>([&](auto r) PCONV_INLINE_LAMBDA {
      if (r >= args.rows) return;
      float* const last_left = carry + r * Vec::kLastLanes;
      const Reg below = has_prev ? Vec::load_last(last_left) : Vec::zero();
      if (has_next) Vec::store_last(last_left, s.sum[0][r][kVectors - 1]);
      static_for<kVectors>([&](auto c) PCONV_INLINE_LAMBDA {
        const ptrdiff_t at = plane + r * args.row_stride + c * Vec::kLanes;
        const typename Vec::Lanes stored =
            Vec::lanes(args.lane_begin - c * Vec::kLanes, args.lane_end - c * Vec::kLanes);
        const Reg left = Vec::shift_up(s.sum[0][r][c], c == 0 ? below : s.sum[0][r][c == 0 ? 0 : c - 1]);
        Reg y = Vec::add(Vec::add(s.sum[1][r][c], left), s.sum[2][r][c]);
        if (args.residual != nullptr) y = Vec::add(y, Vec::load_lanes(args.residual + at, stored));
        Vec::store_lanes(args.out + at, Vec::clamp(y, lo, hi), stored);
      });
    });
  }
};
