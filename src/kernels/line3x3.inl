// 3x3 convolutions with stride 1 where registers are few: one set of sums, inputs read wherever they begin. A row of
// the tile is one cache line, so that no load is split. Two vectors a row overlap by what the kernel reads beyond the
// line: two lanes of 16 compute what the other vector has. Against the deferred shift of conv3x3.inl a kernel does up
// to three times the work between its overheads (docs/PERFORMANCE.md). Included by isa.cpp inside the ISA's unnamed
// namespace.

template <int kRows, int kVectors>
class Line3x3 {
 public:
  static constexpr int kTileRows = kRows + 2;
  static constexpr int kRowFloats = kTileAlign / static_cast<int>(sizeof(float));
  static constexpr int kWidth = line_outputs(kVectors, Vec::kLanes);

  static void compute(const TileArgs& args) noexcept {
    BandPrefetch<kRows, kRowFloats / Vec::kLanes> prefetch(args);
    for (const FilterProgram *filter = args.filters, *end = filter + args.n_filters; filter != end; ++filter) {
      prefetch.next_filter(*filter, end);
      one_filter(args, *filter);
    }
  }

  static void pack(const PackTileArgs& args) noexcept { TilePacker<kTileRows, kRowFloats>::pack(args); }

 private:
  using Reg = Vec::Reg;

  struct Sums {
    Reg sum[kRows][kVectors];
  };

  // First output of a vector of a row.
  static constexpr int first_of(int vector) {
    return vector * Vec::kLanes < kWidth - Vec::kLanes ? vector * Vec::kLanes : kWidth - Vec::kLanes;
  }

  static PCONV_INLINE void one_filter(const TileArgs& args, const FilterProgram& filter) {
    Sums s;
    const Reg bias = Vec::broadcast(filter.bias);
    static_for<kRows * kVectors>([&](auto i) PCONV_INLINE_LAMBDA { s.sum[i / kVectors][i % kVectors] = bias; });
    const float* weights = filter.weights;
    const int32_t* offsets = filter.tile_offsets;
    for (const Run *run = filter.runs, *end = run + filter.n_runs; run != end; ++run) {
      switch (run->pattern) {
#define PCONV_PATTERN(id, name, mask)                                                                    \
  case id:                                                                                               \
    one_run<mask>(s, args.tile, offsets, weights, run->n_kernels, Vec::kPrefetch && args.prefetch_tile); \
    break;
#include "pconv/patterns.def"
#undef PCONV_PATTERN
        default:
          __builtin_unreachable();  // the plan takes ids from the same manifest
      }
    }
    float* const out = args.out + filter.out_channel * args.plane_stride;
    if (args.residual == nullptr && args.rows == kRows && args.lane_end >= kWidth) {
      finish_whole(args, s, out);
    } else {
      const Sums sums = s;  // a copy, so that `s` itself has no address
      finish(args, sums, out);
    }
  }

  // All kernels of one run: n_kernels >= 1.
  template <uint32_t kMask>
  static PCONV_INLINE void one_run(Sums& s, const float* tile, const int32_t*& offsets, const float*& weights,
                                   uint32_t n_kernels, bool prefetch) {
    const int32_t* const end = offsets + n_kernels;
    do {
      const float* plane = reinterpret_cast<const float*>(reinterpret_cast<const char*>(tile) + *offsets++);
      if (prefetch) prefetch_plane<kMask>(tile, offsets[kKernelsAhead - 1]);
      static_for<3>([&](auto kx) PCONV_INLINE_LAMBDA {
        if constexpr ((kMask & kColumn << kx) != 0) add_column<kMask, kx>(s, plane, weights);
        asm("" : "+r"(plane));  // or inputs would be kept in registers for the next column
      });
      weights += weight_pitch(taps_before(kMask, 9));
    } while (offsets != end);
  }

  // The taps of one column of the kernel share the rows that they read.
  template <uint32_t kMask, int kx>
  static PCONV_INLINE void add_column(Sums& s, const float* plane, const float* weights) {
    Reg w[3];
    static_for<3>([&](auto ky) PCONV_INLINE_LAMBDA {
      if constexpr (has_tap(kMask, ky, kx)) w[ky] = Vec::broadcast(weights[taps_before(kMask, 3 * ky + kx)]);
    });
    static_for<kTileRows * kVectors>([&](auto i) PCONV_INLINE_LAMBDA {
      constexpr int kRow = i / kVectors, kVector = i % kVectors;
      if constexpr (taps_of_row(kMask & kColumn << kx, kRow) > 0) {
        Reg v = Vec::load_unaligned(plane + kRow * kRowFloats + first_of(kVector) + kx);
        if constexpr (taps_of_row(kMask & kColumn << kx, kRow) > 1) Vec::keep(v);
        static_for<3>([&](auto ky) PCONV_INLINE_LAMBDA {
          if constexpr (has_tap(kMask, ky, kx) && kRow >= ky && kRow - ky < kRows) {
            Reg& sum = s.sum[kRow - ky][kVector];
            sum = Vec::fma(w[ky], v, sum);
          }
        });
      }
    });
  }

  static constexpr uint32_t kColumn = 0111;  // the taps of the left column
  static constexpr bool has_tap(uint32_t mask, int ky, int kx) { return mask >> (3 * ky + kx) & 1; }
  // Taps of a mask that read a row of the tile for one of the outputs.
  static constexpr int taps_of_row(uint32_t mask, int row) {
    int n = 0;
    for (int tap = 0; tap < 9; ++tap) n += (mask >> tap & 1) && row >= tap / 3 && row - tap / 3 < kRows;
    return n;
  }

  // A tile that lies in L2 is asked for a few kernels ahead; every second row where the loads themselves bound, as the
  // next line comes along.
  template <uint32_t kMask>
  static PCONV_INLINE void prefetch_plane(const float* tile, int32_t offset) {
    const char* plane = reinterpret_cast<const char*>(tile) + offset;
    static_for<kTileRows>([&](auto row) PCONV_INLINE_LAMBDA {
      constexpr bool kAsked = kVectors > 1 || row % 2 == 0;
      if constexpr (kAsked && taps_of_row(kMask, row) > 0) __builtin_prefetch(plane + row * kTileAlign, 0, 3);
    });
  }

  static PCONV_INLINE void finish_whole(const TileArgs& args, const Sums& s, float* out) {
    const Reg lo = Vec::broadcast(args.clamp_min), hi = Vec::broadcast(args.clamp_max);
    static_for<kRows * kVectors>([&](auto i) PCONV_INLINE_LAMBDA {
      Vec::store_unaligned(out + i / kVectors * args.row_stride + first_of(i % kVectors),
                           Vec::clamp(s.sum[i / kVectors][i % kVectors], lo, hi));
    });
  }

  // Each output once, as a residual may lie where it is stored. Not inline, or its constants would take registers from
  // the sums all the while.
  static __attribute__((noinline)) void finish(const TileArgs& args, const Sums& s, float* out) {
    const Reg lo = Vec::broadcast(args.clamp_min), hi = Vec::broadcast(args.clamp_max);
    for (int r = 0; r < args.rows; ++r, out += args.row_stride) {
      for (int v = 0; v < kVectors; ++v) {
        const auto lanes = Vec::lanes(v * Vec::kLanes - first_of(v), args.lane_end - first_of(v));
        Reg y = s.sum[r][v];
        if (args.residual != nullptr)
          y = Vec::add(y, Vec::load_lanes(args.residual + (out - args.out) + first_of(v), lanes));
        Vec::store_lanes(out + first_of(v), Vec::clamp(y, lo, hi), lanes);
      }
    }
  }
};
