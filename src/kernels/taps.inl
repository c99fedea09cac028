// Any convolution as a stream of taps: per step an offset into the packed tile and a weight for each of kBlock filters
// that keep the same kernels, so that they share every load. Kernel size, stride, dilation and padding are the
// packing's and the offsets' business (tile_shape.h). Included by isa.cpp inside the ISA's unnamed namespace. V is Vec.

PCONV_INLINE const float* after(const float* base, ptrdiff_t bytes) {
  return reinterpret_cast<const float*>(reinterpret_cast<const char*>(base) + bytes);
}

// Where inputs come from: windows, planes, or planes in the image, of whose last vector only the tile's lanes are read.
enum class Source { kWindow, kPlanes, kRaggedPlanes };

template <class V, int kRows, int kVectors, int kBlock, Source kSource = Source::kWindow>
class Taps {
 public:
  static void compute(const TileArgs& args) noexcept {
    for (const FilterProgram *filters = args.filters, *end = filters + args.n_filters; filters != end;
         filters += kBlock) {
      one_block(args, filters);
    }
  }

  static PCONV_INLINE void one_block(const TileArgs& args, const FilterProgram* filters) {
    const typename V::Lanes last = V::lanes(0, args.lane_end - (kVectors - 1) * V::kLanes);
    Sums s;
    static_for<kBlock>([&](auto b) PCONV_INLINE_LAMBDA {
      static_for<kSums>([&](auto i) PCONV_INLINE_LAMBDA { s.sum[b][i] = V::broadcast(filters[b].bias); });
    });
    const float* weights = filters->weights;
    const int32_t *offset = filters->tile_offsets, *const end = offset + filters->n_runs;
    const bool prefetch = V::kPrefetch && kSource != Source::kWindow && args.prefetch_tile;
    if constexpr (V::kInPairs) turns_in_order(s, args, offset, end, weights);
    for (; end - offset >= kSteps; offset += kSteps) {
      if (prefetch) prefetch_inputs(args, offset + kStepsAhead);
      if constexpr (kByFilter) {
        step_by_filter(s, args, *offset, last, weights);
        weights += kBlock;
        continue;
      }
      const typename V::template Weights<kSteps * kBlock> w(weights);
      weights += kSteps * kBlock;
      static_for<kSteps>([&](auto k) PCONV_INLINE_LAMBDA { step<k * kBlock>(s, args, offset[k], last, w); });
    }
    if constexpr (kSteps > 1) {
      for (; offset != end; ++offset) step<0>(s, args, *offset, last, typename V::template Weights<1>(weights++));
    }
    if (is_whole(args)) {
      finish_whole(args, filters, s);
    } else {
      const Sums sums = s;  // a copy, so that `s` itself has no address
      finish(args, filters, sums);
    }
  }

 private:
  using Reg = typename V::Reg;
  static constexpr int kSums = kRows * kVectors;
  static constexpr int kLineFloats = kTileAlign / static_cast<int>(sizeof(float));
  // Weights of single filters come in fours, as NEON reads them.
  static constexpr int kSteps = kBlock == 1 ? 4 : 1;

  static constexpr bool kByFilter = V::kFewRegisters && kBlock > 1 && kBlock* kSums > 8;
  static constexpr int kTurn = kBlock == 1 ? 4 : 2;

  struct Sums {
    Reg sum[kBlock][kSums];
  };

  // What kSteps steps from there on read.
  static PCONV_INLINE void prefetch_inputs(const TileArgs& args, const int32_t* offset) {
    for (int k = 0; k < kSteps; ++k) {
      const float* const from = after(args.tile, offset[k]);
      for (int i = 0; i < kSums * V::kLanes; i += kLineFloats) __builtin_prefetch(from + i, 0, 3);
      __builtin_prefetch(from + kSums * V::kLanes - 1, 0, 3);
    }
  }

  // kTurn steps at a time, inputs two by two; leaves the steps of a last turn that is not whole.
  static PCONV_INLINE void turns_in_order(Sums& s, const TileArgs& args, const int32_t*& offset, const int32_t* end,
                                          const float*& weights) {
    static_assert(!V::kMasksLoads && !V::kPrefetch, "inputs are read whole, and not asked for");
    static_assert(kBlock > 1 || kTurn == 4, "weights of single filters come in fours");
    for (const int32_t* const last = offset + (end - offset) / kTurn * kTurn; offset != last;) {
      int64_t at[kTurn];
      static_for<kTurn / 2>([&](auto k) PCONV_INLINE_LAMBDA { V::next_two(offset, &at[2 * k], &at[2 * k + 1]); });
      if constexpr (kBlock == 1) {
        const typename V::template OrderedWeights<kTurn> w(weights);
        static_for<kTurn>([&](auto k) PCONV_INLINE_LAMBDA { step_in_order<k>(s, args, after(args.tile, at[k]), w); });
      } else {
        static_for<kTurn>([&](auto k) PCONV_INLINE_LAMBDA {
          const typename V::template OrderedWeights<kBlock> w(weights);
          step_in_order<0>(s, args, after(args.tile, at[k]), w);
        });
      }
    }
  }

  template <int kFirst, class Weights>
  static PCONV_INLINE void step_in_order(Sums& s, const TileArgs& args, const float* base, const Weights& w) {
    static_for<kRows>([&](auto r) PCONV_INLINE_LAMBDA {
      const float* const row = base + r * args.row_step;
      if constexpr (kVectors > 1) {
        static_for<kVectors / 2>([&](auto pair) PCONV_INLINE_LAMBDA {
          Reg v[2];
          V::template load_two<2 * pair * V::kLanes, kVectors * V::kLanes>(row, &v[0], &v[1]);
          static_for<2>([&](auto i) PCONV_INLINE_LAMBDA { add<r * kVectors + 2 * pair + i, kFirst>(s, v[i], w); });
        });
      }
      if constexpr (kVectors % 2 == 1) {
        add<(r + 1) * kVectors - 1, kFirst>(s, V::load_unaligned(row + (kVectors - 1) * V::kLanes), w);
      }
    });
  }

  // Every output of the tile: the vector at `offset`, times weight kFirst + b of each filter b.
  template <int kFirst, class Weights>
  static PCONV_INLINE void step(Sums& s, const TileArgs& args, int32_t offset, typename V::Lanes last,
                                const Weights& w) {
    const float* const base = after(args.tile, offset);
    static_for<kSums>([&](auto i) PCONV_INLINE_LAMBDA { add<i, kFirst>(s, input<i>(args, base, last), w); });
  }

  template <int kIndex, int kFirst, class Weights>
  static PCONV_INLINE void add(Sums& s, Reg v, const Weights& w) {
    static_for<kBlock>([&](auto b) PCONV_INLINE_LAMBDA {
      s.sum[b][kIndex] = w.template multiply_add<kFirst + b>(s.sum[b][kIndex], v);
    });
  }

  // The same filter after filter: of 16 registers 12 hold sums, three the inputs and one a weight.
  static PCONV_INLINE void step_by_filter(Sums& s, const TileArgs& args, int32_t offset, typename V::Lanes last,
                                          const float* weights) {
    const float* const base = after(args.tile, offset);
    Reg v[kSums];
    static_for<kSums>([&](auto i) PCONV_INLINE_LAMBDA { v[i] = input<i>(args, base, last); });
    static_for<kBlock>([&](auto b) PCONV_INLINE_LAMBDA {
      const Reg w = V::broadcast(weights[b]);
      static_for<kSums>([&](auto i) PCONV_INLINE_LAMBDA { s.sum[b][i] = V::fma(w, v[i], s.sum[b][i]); });
    });
  }

  // What output vector kIndex of the tile takes from `base` on.
  template <int kIndex>
  static PCONV_INLINE Reg input(const TileArgs& args, const float* base, typename V::Lanes last) {
    const float* const from = base + kIndex / kVectors * args.row_step + kIndex % kVectors * V::kLanes;
    if constexpr (kSource == Source::kRaggedPlanes && kIndex == kSums - 1) return V::load_lanes(from, last);
    return V::load_unaligned(from);
  }

  // Frequent tiles are stored without a question per vector.
  static PCONV_INLINE bool is_whole(const TileArgs& args) {
    return args.residual == nullptr && args.rows == kRows && args.lane_begin == 0 &&
           args.lane_end >= kVectors * V::kLanes;
  }

  static PCONV_INLINE void finish_whole(const TileArgs& args, const FilterProgram* filters, const Sums& s) {
    if constexpr (V::kInPairs) {  // where every instruction counts
      if (args.clamp_max == __builtin_inff()) return store_whole<false>(args, filters, s);
    }
    store_whole<true>(args, filters, s);
  }

  template <bool kBounded>
  static PCONV_INLINE void store_whole(const TileArgs& args, const FilterProgram* filters, const Sums& s) {
    const Reg lo = V::broadcast(args.clamp_min), hi = V::broadcast(args.clamp_max);
    float* const first = args.out;
    const ptrdiff_t plane_stride = args.plane_stride, row_stride = args.row_stride;
    static_for<kBlock>([&](auto b) PCONV_INLINE_LAMBDA {
      if (filters[b].out_channel < 0) return;
      float* const out = first + filters[b].out_channel * plane_stride;
      const auto y = [&](int i) PCONV_INLINE_LAMBDA {
        return kBounded ? V::clamp(s.sum[b][i], lo, hi) : V::at_least(s.sum[b][i], lo);
      };
      static_for<kRows>([&](auto r) PCONV_INLINE_LAMBDA {
        static_for<kVectors>([&](auto c) PCONV_INLINE_LAMBDA {
          constexpr int kAt = c * V::kLanes, kIndex = r * kVectors + c;
          if constexpr (!V::kInPairs || (c % 2 == 0 && c + 1 == kVectors)) {
            V::store_unaligned(out + r * row_stride + kAt, y(kIndex));
          } else if constexpr (c % 2 == 0) {
            V::template store_two<kAt>(out + r * row_stride, y(kIndex), y(kIndex + 1));
          }
        });
      });
    });
  }

  // Not inline, or its constants would take registers from the sums all the while.
  static __attribute__((noinline)) void finish(const TileArgs& args, const FilterProgram* filters, const Sums& s) {
    static_for<kBlock>([&](auto b) PCONV_INLINE_LAMBDA {
      if (filters[b].out_channel >= 0) finish(args, s.sum[b], filters[b].out_channel * args.plane_stride);
    });
  }

  // Adds the residual, clamps and stores the tile of one filter.
  static PCONV_INLINE void finish(const TileArgs& args, const Reg (&sums)[kSums], ptrdiff_t plane) {
    const Reg lo = V::broadcast(args.clamp_min), hi = V::broadcast(args.clamp_max);
    static_for<kRows>([&](auto r) PCONV_INLINE_LAMBDA {
      if (r >= args.rows) return;
      static_for<kVectors>([&](auto c) PCONV_INLINE_LAMBDA {
        const ptrdiff_t at = plane + r * args.row_stride + c * V::kLanes;
        const typename V::Lanes stored = V::lanes(args.lane_begin - c * V::kLanes, args.lane_end - c * V::kLanes);
        Reg y = sums[r * kVectors + c];
        if (args.residual != nullptr) y = V::add(y, V::load_lanes(args.residual + at, stored));
        V::store_lanes(args.out + at, V::clamp(y, lo, hi), stored);
      });
    });
  }
};

// The same for tiles of planes, which have as many vectors as their outputs take; planes may lie in the image itself.
// V is Vec.
template <class V, int kVectors, int kBlock>
class TapsOfPlanes {
 public:
  static void compute(const TileArgs& args) noexcept {
    const int n_vectors = (args.lane_end + V::kLanes - 1) / V::kLanes;
    static_for<kVectors>([&](auto less) PCONV_INLINE_LAMBDA {
      constexpr int kCount = kVectors - less;
      if (n_vectors != kCount) return;
      if constexpr (V::kMasksLoads && kBlock > 1) {
        if (args.ragged_input) return tile<kCount, Source::kRaggedPlanes>(args);
      }
      tile<kCount, Source::kPlanes>(args);
    });
  }

 private:
  template <int kCount, Source kSource>
  static __attribute__((noinline)) void tile(const TileArgs& args) {
    const FilterProgram* const end = args.filters + args.n_filters;
    for (const FilterProgram* filters = args.filters; filters != end; filters += kBlock) {
      Taps<V, 1, kCount, kBlock, kSource>::one_block(args, filters);
    }
  }
};

// The packing of windows.
inline void pack_window(const PackTileArgs& args) noexcept {
  const RowSplitter splitter(args.w, args.x0, args.phases, args.row_floats, args.row_floats);
  float* out = args.tile;
  for (int ch = 0; ch < args.n_channels; ++ch) {
    const float* plane = args.image + ch * args.channel_stride;
    for (int i = 0; i < args.tile_rows; ++i, out += args.phases * args.row_floats) {
      const int y = args.y0 + i;
      splitter.split(y >= 0 && y < args.h ? plane + y * args.row_stride : nullptr, out);
    }
  }
}
