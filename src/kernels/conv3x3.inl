// The deferred-shift body of 3x3 convolutions with stride 1, written once over the vector vocabulary.
//
// Convolution is linear, so the taps of the left, the centre and the right column are summed in three register sets
// that read the *same aligned* input vectors; the left set moves up by one lane and the right set down by one lane once
// per tile, after the last kernel. Every input vector is loaded once per kernel and feeds all taps of its column (load
// redundancy elimination), whatever the pattern. The sums stay in registers over all runs of a filter: hence one
// function per tile shape with the switch over patterns inside it, around a run. docs/PERFORMANCE.md has the figures.
// Included by isa.cpp inside the ISA's unnamed namespace.

template <int kRows, int kVectors>
class Conv3x3 {
 public:
  static constexpr int kTileRows = kRows + 2;
  static constexpr int kRowFloats = kVectors * Vec::kLanes;  // of the tile
  // Per row: the unfinished last vector, and the last lanes of the left sums, one of which moves into the next tile.
  // Side by side where the two are of one size (one instruction stores or loads both on NEON), otherwise in two arrays:
  // carries come from L2 and every line less counts.
  static constexpr int kLastPitch = Vec::kLastLanes == Vec::kLanes ? 2 * Vec::kLanes : Vec::kLastLanes;
  static constexpr int kUnfinishedPitch = Vec::kLastLanes == Vec::kLanes ? 2 * Vec::kLanes : Vec::kLanes;
  static constexpr int kLastBegin = Vec::kLastLanes == Vec::kLanes ? Vec::kLanes : kRows * Vec::kLanes;
  static constexpr int kCarryFloats =
      (kRows * (Vec::kLanes + Vec::kLastLanes) + Vec::kLanes - 1) / Vec::kLanes * Vec::kLanes;

  static void compute(const TileArgs& args) noexcept {
    float* carry = args.carry;
    Prefetch prefetch(args);
    const Finish kind = kind_of_finish(args);
    for (const FilterProgram *filter = args.filters, *end = filter + args.n_filters; filter != end; ++filter) {
      prefetch.next_filter(*filter, end);
      one_filter(args, *filter, kind, carry);
      carry += kCarryFloats;
    }
  }

  static void pack(const PackTileArgs& args) noexcept { TilePacker<kTileRows, kRowFloats>::pack(args); }

 private:
  using Reg = Vec::Reg;
  using Prefetch = BandPrefetch<kRows, kVectors>;

  // Ways to end a filter, so that frequent tiles ask nothing per row.
  enum class Finish {
    kInner,       // tiles on both sides, all rows and lanes
    kInnerNoMax,  // the same, and sums have no upper bound: no activation, ReLU
    kAlone,       // sums neither come nor go, all rows
    kAny,
    kResidual,  // any, with a residual
    kSeam,      // near a seam, with or without a residual
  };

  static Finish kind_of_finish(const TileArgs& args) {
    if (args.near_seam) return Finish::kSeam;
    if (args.residual != nullptr) return Finish::kResidual;
    const bool all_rows = args.rows == kRows;
    if (all_rows && args.has_prev && args.has_next && args.prev_lane_begin == 0) {
      return args.clamp_max == __builtin_inff() ? Finish::kInnerNoMax : Finish::kInner;
    }
    // Short vectors hardly ever overlap.
    if (Vec::kLanes > 4 && all_rows && !args.has_prev && !args.has_next) return Finish::kAlone;
    return Finish::kAny;
  }

  // sum[dx][row][vector]: dx 0, 1, 2 = taps of the left, centre and right column, not yet shifted.
  struct Sums {
    Reg sum[3][kRows][kVectors];
  };

  static PCONV_INLINE void one_filter(const TileArgs& args, const FilterProgram& filter, Finish kind, float* carry) {
    Sums s;
    const Reg bias = Vec::broadcast(filter.bias);
    static_for<kRows * kVectors>([&](auto i) PCONV_INLINE_LAMBDA {
      s.sum[0][i / kVectors][i % kVectors] = Vec::zero();
      s.sum[1][i / kVectors][i % kVectors] = bias;
      s.sum[2][i / kVectors][i % kVectors] = Vec::zero();
    });
    const float* weights = filter.weights;
    const int32_t* offsets = filter.tile_offsets;
    const bool prefetch = Vec::kPrefetch && args.prefetch_tile;
    for (const Run *run = filter.runs, *end = run + filter.n_runs; run != end; ++run) {
      switch (run->pattern) {
#define PCONV_PATTERN(id, name, mask)                                        \
  case id:                                                                   \
    one_run<mask>(s, args.tile, offsets, weights, run->n_kernels, prefetch); \
    break;
#include "pconv/patterns.def"
#undef PCONV_PATTERN
        default:
          __builtin_unreachable();  // the plan takes ids from the same manifest
      }
    }
    float* const out = args.out + filter.out_channel * args.plane_stride;
    if constexpr (Vec::kFewRegisters) {
      const Sums sums = s;  // a copy, so that `s` itself has no address
      finish_apart(args, sums, kind, carry, out);
    } else {
      finish(args, s, kind, carry, out);
    }
  }

  // Not inline, or its constants would take registers from the sums all the while.
  static __attribute__((noinline)) void finish_apart(const TileArgs& args, const Sums& s, Finish kind, float* carry,
                                                     float* out) {
    finish(args, s, kind, carry, out);
  }

  static PCONV_INLINE void finish(const TileArgs& args, const Sums& s, Finish kind, float* carry, float* out) {
    switch (kind) {
      case Finish::kInner:
        return finish<Finish::kInner>(args, s, carry, out, nullptr);
      case Finish::kInnerNoMax:
        return finish<Finish::kInnerNoMax>(args, s, carry, out, nullptr);
      case Finish::kAlone:
        if constexpr (Vec::kLanes > 4) finish<Finish::kAlone>(args, s, carry, out, nullptr);
        return;
      case Finish::kAny:
        return finish<Finish::kAny>(args, s, carry, out, nullptr);
      case Finish::kResidual:
        return finish<Finish::kResidual>(args, s, carry, out, args.residual + (out - args.out));
      case Finish::kSeam:
        return finish_near_seam(args, s, carry, out,
                                args.residual != nullptr ? args.residual + (out - args.out) : nullptr);
    }
  }

  // All kernels of one run: n_kernels >= 1.
  template <uint32_t kMask>
  static PCONV_INLINE void one_run(Sums& s, const float* tile, const int32_t*& offsets, const float*& weights,
                                   uint32_t n_kernels, bool prefetch) {
    constexpr int kTaps = taps_before(kMask, 9);
    const int32_t* const end = offsets + n_kernels;
    do {
      const float* plane = reinterpret_cast<const float*>(reinterpret_cast<const char*>(tile) + *offsets++);
      if (Vec::kPrefetch && prefetch) prefetch_plane<kMask>(tile, offsets[kKernelsAhead - 1]);
      constexpr int kTogether = Vec::kFewRegisters ? 2 : kTaps;
      static_for<(kTaps + kTogether - 1) / kTogether>([&](auto part) PCONV_INLINE_LAMBDA {
        constexpr int kFirst = part * kTogether;
        if constexpr (Vec::kFewRegisters) asm("" : "+r"(plane));  // inputs are loaded again, not kept in registers
        add_plane<taps_between(kMask, kFirst, kFirst + kTogether)>(s, plane, weights + kFirst);
      });
      weights += weight_pitch(kTaps);
    } while (offsets != end);
  }

  // A plane of the tile, times the taps of kMask.
  template <uint32_t kMask>
  static PCONV_INLINE void add_plane(Sums& s, const float* plane, const float* weights) {
    constexpr int kTaps = taps_before(kMask, 9);
    const Vec::Weights<kTaps> w(weights);
    constexpr int kGroup = loads_together(kTaps);
    static_for<(kTileRows * kVectors + kGroup - 1) / kGroup>([&](auto group) PCONV_INLINE_LAMBDA {
      Reg v[kGroup];
      static_for<kGroup>([&](auto i) PCONV_INLINE_LAMBDA {
        constexpr int kIndex = group * kGroup + i;
        if constexpr (vector_is_read(kMask, kIndex)) v[i] = Vec::load(plane + kIndex * Vec::kLanes);
      });
      static_for<kGroup>([&](auto i) PCONV_INLINE_LAMBDA {
        constexpr int kIndex = group * kGroup + i;
        if constexpr (vector_is_read(kMask, kIndex)) add_taps<kMask, kIndex>(s, w, v[i]);
      });
    });
  }

  // Of the taps of a mask those with numbers [first, end).
  static constexpr uint32_t taps_between(uint32_t mask, int first, int end) {
    uint32_t found = 0;
    for (int tap = 0; tap < 9; ++tap) {
      const int number = taps_before(mask, tap);
      if ((mask >> tap & 1) && number >= first && number < end) found |= 1u << tap;
    }
    return found;
  }

  // Vector kIndex of the tile's plane, times every tap that uses it.
  template <uint32_t kMask, int kIndex, class Weights>
  static PCONV_INLINE void add_taps(Sums& s, const Weights& w, Reg v) {
    static_for<9>([&](auto tap) PCONV_INLINE_LAMBDA {
      constexpr int kOutRow = kIndex / kVectors - tap / 3;
      if constexpr (((kMask >> tap) & 1) && kOutRow >= 0 && kOutRow < kRows) {
        Reg& sum = s.sum[tap % 3][kOutRow][kIndex % kVectors];
        sum = w.template multiply_add<taps_before(kMask, tap)>(sum, v);
      }
    });
  }

  // Input vectors that are loaded before their sums begin: NEON has one instruction for two loads. Patterns with many
  // weights have no register to spare for that.
  static constexpr int loads_together(int n_taps) { return n_taps > 4 || Vec::kFewRegisters ? 1 : 2; }

  // A tile that lies in L2 is asked for a few kernels ahead.
  template <uint32_t kMask>
  static PCONV_INLINE void prefetch_plane(const float* tile, int32_t offset) {
    const char* plane = reinterpret_cast<const char*>(tile) + offset;
    constexpr int kPerLine = kTileAlign > sizeof(Reg) ? kTileAlign / sizeof(Reg) : 1;
    static_for<kTileRows * kVectors>([&](auto i) PCONV_INLINE_LAMBDA {
      // Planes need not begin with a line, so the last vector counts by itself.
      constexpr bool kLine = i % kPerLine == 0 || !vector_is_read(kMask, i - 1) || !vector_is_read(kMask, i + 1);
      if constexpr (kLine && vector_is_read(kMask, i)) __builtin_prefetch(plane + i * sizeof(Reg), 0, 3);
    });
  }

  // Does a tap of the mask bring vector `index` of the tile's plane to one of the outputs?
  static constexpr bool vector_is_read(uint32_t mask, int index) {
    const int row = index / kVectors;
    if (index < 0 || row >= kTileRows) return false;
    for (int t = 0; t < 9; ++t) {
      if (((mask >> t) & 1) && row - t / 3 >= 0 && row - t / 3 < kRows) return true;
    }
    return false;
  }

  // Shifts, adds as (centre + left) + right, adds the residual, clamps and stores. With a tile to the right the last
  // vector of each row stays in `carry` until that tile brings the right sum of its last lane.
  template <Finish kKind>
  static PCONV_INLINE void finish(const TileArgs& args, const Sums& s, float* carry, float* out,
                                  const float* residual) {
    constexpr bool kInner = kKind == Finish::kInner || kKind == Finish::kInnerNoMax;
    constexpr bool kAllRows = kInner || kKind == Finish::kAlone;
    const Reg lo = Vec::broadcast(args.clamp_min), hi = Vec::broadcast(args.clamp_max);
    const bool has_prev = kInner || (kKind != Finish::kAlone && args.has_prev);
    const bool has_next = kInner || (kKind != Finish::kAlone && args.has_next);
    const int prev_begin = args.prev_lane_begin, begin = args.lane_begin, end = args.lane_end;
    const auto emit = [&](ptrdiff_t at, Reg y, typename Vec::Lanes stored) PCONV_INLINE_LAMBDA {
      if constexpr (kKind == Finish::kResidual) y = Vec::add(y, Vec::load_lanes(residual + at, stored));
      y = kKind == Finish::kInnerNoMax ? Vec::at_least(y, lo) : Vec::clamp(y, lo, hi);
      if constexpr (kInner) {
        Vec::store_unaligned(out + at, y);
      } else {
        Vec::store_lanes(out + at, y, stored);
      }
    };
    const ptrdiff_t row_stride = args.row_stride;
    ptrdiff_t row = 0;
    static_for<kRows>([&](auto r) PCONV_INLINE_LAMBDA {
      if (!kAllRows && r >= args.rows) return;
      float *const unfinished = carry + r * kUnfinishedPitch, *const last_left = carry + kLastBegin + r * kLastPitch;
      Reg below = Vec::zero();
      if (has_prev) {
        below = Vec::load_last(last_left);
        const Reg prev = Vec::load(unfinished);
        const Reg right = Vec::shift_down(Vec::zero(), s.sum[2][r][0]);
        emit(row - Vec::kLanes, Vec::add(prev, right), Vec::lanes(prev_begin, Vec::kLanes));
      }
      static_for<kVectors>([&](auto c) PCONV_INLINE_LAMBDA {
        constexpr bool kLast = c + 1 == kVectors;
        const Reg left = Vec::shift_up(s.sum[0][r][c], c == 0 ? below : s.sum[0][r][c == 0 ? 0 : c - 1]);
        const Reg right = Vec::shift_down(s.sum[2][r][c], kLast ? Vec::zero() : s.sum[2][r][kLast ? c : c + 1]);
        const Reg y = Vec::add(Vec::add(s.sum[1][r][c], left), right);
        if (kLast && has_next) {
          Vec::store(unfinished, y);
          Vec::store_last(last_left, s.sum[0][r][c]);
        } else {
          emit(row + c * Vec::kLanes, y, Vec::lanes(begin - c * Vec::kLanes, end - c * Vec::kLanes));
        }
      });
      row += row_stride;
    });
  }

  // The same where lanes belong to two bands: sums at the seam stay in theirs, vectors are stored in two parts.
  static PCONV_INLINE void finish_near_seam(const TileArgs& args, const Sums& s, float* carry, float* out,
                                            const float* residual) {
    const Reg lo = Vec::broadcast(args.clamp_min), hi = Vec::broadcast(args.clamp_max);
    const auto emit = [&](ptrdiff_t at, Reg y, typename Vec::Lanes stored) PCONV_INLINE_LAMBDA {
      if (residual != nullptr) y = Vec::add(y, Vec::load_lanes(residual + at, stored));
      Vec::store_lanes(out + at, Vec::clamp(y, lo, hi), stored);
    };
    const int seam = args.seam, begin = args.lane_begin, end = args.lane_end;
    const int prev_seam = args.prev_seam, prev_begin = args.prev_lane_begin;
    static_for<kRows>([&](auto r) PCONV_INLINE_LAMBDA {
      float *const unfinished = carry + r * kUnfinishedPitch, *const last_left = carry + kLastBegin + r * kLastPitch;
      const ptrdiff_t row = r * args.row_stride;
      Reg below = Vec::zero();
      if (args.has_prev) {
        below = Vec::load_last(last_left);
        const Reg y = Vec::add(Vec::load(unfinished), Vec::shift_down(Vec::zero(), s.sum[2][r][0]));
        if (prev_seam > 0) emit(row - args.seam_step - Vec::kLanes, y, Vec::lanes(prev_begin, prev_seam));
        if (r < args.rows)
          emit(row - Vec::kLanes, y, Vec::lanes(prev_begin > prev_seam ? prev_begin : prev_seam, Vec::kLanes));
      }
      static_for<kVectors>([&](auto c) PCONV_INLINE_LAMBDA {
        constexpr bool kLast = c + 1 == kVectors;
        constexpr int kLane = c * Vec::kLanes, kPrev = c == 0 ? 0 : c - 1, kNext = kLast ? c : c + 1;
        const Reg lefts = Vec::clear_lane(s.sum[0][r][c], seam - 1 - kLane);
        const Reg prev_lefts = c == 0 ? below : Vec::clear_lane(s.sum[0][r][kPrev], seam - 1 - kLane + Vec::kLanes);
        const Reg rights = Vec::clear_lane(s.sum[2][r][c], seam - kLane);
        const Reg next_rights = kLast ? Vec::zero() : Vec::clear_lane(s.sum[2][r][kNext], seam - kLane - Vec::kLanes);
        const Reg left = Vec::shift_up(lefts, prev_lefts), right = Vec::shift_down(rights, next_rights);
        const Reg y = Vec::add(Vec::add(s.sum[1][r][c], left), right);
        if (kLast && args.has_next) {
          Vec::store(unfinished, y);
          Vec::store_last(last_left, s.sum[0][r][c]);
        } else {
          if (r < args.rows) emit(row + kLane, y, Vec::lanes(begin - kLane, (end < seam ? end : seam) - kLane));
          if (r < args.seam_rows) emit(row + args.seam_step + kLane, y, Vec::lanes(seam - kLane, end - kLane));
        }
      });
    });
  }
};
