// Sparse convolutions by input: what up to four taps of one channel read stays in registers while every kernel with
// these taps adds its products to the sums of its filter, which lie in L1. An input is loaded once for all filters, not
// once for each, so the tile may stream from L2; a kernel costs a load and a store of its sums. Geometry is the planes'
// business (pack_planes.inl), but that a tap may read a plane one output earlier (ScatterRun::shifted).
// docs/PERFORMANCE.md has the figures.
// Where the last vector would hold one output, as on maps of 7x7, and the ISA has vectors of four (V::kSumsFours), that
// output has four sums instead, one for each place of a tap in its run, which are added at the end.
// Included by isa.cpp inside the ISA's unnamed namespace. V is Vec.

// An output on its own: what its taps read, times a kernel's weights, is added to four sums.
template <class V, bool kThere>
struct SingleOutput {
  PCONV_INLINE explicit SingleOutput(const float (&)[kScatterTaps]) {}
  PCONV_INLINE void add(const float*, float*) const {}
};
template <class V>
struct SingleOutput<V, true> {
  typename V::Four inputs;
  PCONV_INLINE explicit SingleOutput(const float (&read)[kScatterTaps]) : inputs(V::load_four(read)) {}
  PCONV_INLINE void add(const float* weights, float* sums) const {
    V::store_four(sums, V::fma_four(V::load_four(weights), inputs, V::load_four(sums)));
  }
};

template <class V, int kVectors>
class Scatter {
 public:
  static void compute(const TileArgs& args) noexcept {
    const int n_vectors = (args.lane_end + V::kLanes - 1) / V::kLanes;
    static_for<kVectors>([&](auto less) PCONV_INLINE_LAMBDA {
      constexpr int kCount = kVectors - less;
      if (n_vectors != kCount) return;
      if constexpr (V::kSumsFours && kCount > 1) {
        if (args.lane_end % V::kLanes == 1) return tile<kCount - 1, true>(args);
      }
      tile<kCount, false>(args);
    });
  }

 private:
  using Reg = typename V::Reg;
  static constexpr int kSumFloats = kVectors * V::kLanes;

  // The first kCount vectors of a tile; kSingle: and one output more, of which four sums are kept.
  template <int kCount, bool kSingle>
  static __attribute__((noinline)) void tile(const TileArgs& args) {
    for (int f = 0; f < args.n_filters; ++f) {
      float* const sum = args.carry + f * kSumFloats;
      const Reg bias = V::broadcast(args.filters[f].bias);
      static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA { V::store(sum + i * V::kLanes, bias); });
      if constexpr (kSingle) {
        const float four[kScatterTaps] = {args.filters[f].bias, -0.0f, -0.0f, -0.0f};  // which leave a bias of -0 be
        V::store_four(sum + kCount * V::kLanes, V::load_four(four));
      }
    }
    const float* weights = args.scatter->weights;
    const int32_t* sums = args.scatter->sums;
    for (const ScatterRun *run = args.scatter->runs, *end = run + args.scatter->n_runs; run != end; ++run) {
      static_for<kScatterTaps>([&](auto less) PCONV_INLINE_LAMBDA {
        constexpr int kTaps = kScatterTaps - less;
        if (run->n_taps == kTaps) one_run<kCount, kSingle, kTaps>(args, *run, weights, sums);
      });
    }
    for (int f = 0; f < args.n_filters; ++f) {
      if (args.filters[f].out_channel >= 0) finish<kCount, kSingle>(args, args.carry + f * kSumFloats, args.filters[f]);
    }
  }

  template <int kCount, bool kSingle, int kTaps>
  static PCONV_INLINE void one_run(const TileArgs& args, const ScatterRun& run, const float*& weights,
                                   const int32_t*& sums) {
    Reg v[kTaps][kCount];
    float single[kScatterTaps] = {};
    static_for<kTaps>([&](auto t) PCONV_INLINE_LAMBDA {
      const int32_t place = run.places[t];
      const float* const plane =
          after(args.tile, plane_of(place) * args.plane_bytes + row_of(place) * args.plane_row_bytes);
      if constexpr (V::kMasksLoads) {
        if (run.shifted >> t & 1) {
          static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA {
            v[t][i] = V::load_lanes(plane + i * V::kLanes - 1, V::lanes_of(args.inner_lanes[i]));
          });
          if (kSingle && args.inner_lanes[kCount] & 1) single[t] = plane[kCount * V::kLanes - 1];
          return;
        }
      }
      static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA { v[t][i] = V::load_unaligned(plane + i * V::kLanes); });
      if constexpr (kSingle) single[t] = plane[kCount * V::kLanes];
    });
    const SingleOutput<V, kSingle> behind(single);
    const int32_t* const end = sums + run.n_kernels;
    float* const carry = args.carry;
    do {
      float* const sum = carry + *sums++;
      behind.add(weights, sum + kCount * V::kLanes);
      const typename V::template Weights<kTaps> w(weights);
      weights += kScatterTaps;
      Reg s[kCount];
      static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA { s[i] = V::load(sum + i * V::kLanes); });
      static_for<kTaps>([&](auto t) PCONV_INLINE_LAMBDA {
        static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA { s[i] = w.template multiply_add<t>(s[i], v[t][i]); });
      });
      static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA { V::store(sum + i * V::kLanes, s[i]); });
    } while (sums != end);
  }

  // Adds the residual, clamps and stores.
  template <int kCount, bool kSingle>
  static PCONV_INLINE void finish(const TileArgs& args, const float* sums, const FilterProgram& filter) {
    const Reg lo = V::broadcast(args.clamp_min), hi = V::broadcast(args.clamp_max);
    const ptrdiff_t plane = filter.out_channel * args.plane_stride;
    static_for<kCount + kSingle>([&](auto i) PCONV_INLINE_LAMBDA {
      const ptrdiff_t at = plane + i * V::kLanes;
      const typename V::Lanes stored = V::lanes(0, args.lane_end - i * V::kLanes);
      const float* const sum = sums + i * V::kLanes;
      Reg y = i < kCount ? V::load(sum) : V::broadcast((sum[0] + sum[1]) + (sum[2] + sum[3]));
      if (args.residual != nullptr) y = V::add(y, V::load_lanes(args.residual + at, stored));
      V::store_lanes(args.out + at, V::clamp(y, lo, hi), stored);
    });
  }
};
