// Depthwise convolutions straight from the image: every tap of a vector of outputs is a load that starts anywhere, with
// the lanes masked that lie outside the image. Nothing is copied and no lane of a narrow map stays empty, which is what
// short rows cost in depthwise.inl. Included by isa.cpp inside the ISA's unnamed namespace. V is Vec.

template <class V, int kVectors>
class DwDirect {
 public:
  // Null where loads cannot be masked.
  static constexpr DwDirectFn function() {
    if constexpr (V::kMasksLoads) return compute;
    return nullptr;
  }

 private:
  using Reg = typename V::Reg;

  static void compute(const DwDirectArgs& args) noexcept {
    switch (args.form) {
      case DirectForm::kFlat:
        return filters<DirectForm::kFlat>(args);
      case DirectForm::kRows:
        return filters<DirectForm::kRows>(args);
      case DirectForm::kStrided:
        if constexpr (V::kPicksLanes) filters<DirectForm::kStrided>(args);
        return;
    }
  }

  // Strided rows are many streams at once, which the hardware follows late: measured, docs/PERFORMANCE.md.
  static constexpr ptrdiff_t kAheadFloats = 512;
  static PCONV_INLINE void prefetch(const float* image, ptrdiff_t floats) {
    constexpr ptrdiff_t kLineFloats = kTileAlign / sizeof(float);
    for (ptrdiff_t i = 0; i < floats; i += kLineFloats) __builtin_prefetch(image + kAheadFloats + i);
  }

  template <DirectForm kForm>
  static void filters(const DwDirectArgs& args) {
    for (const DepthwiseFilter *filter = args.filters, *end = filter + args.n_filters; filter != end; ++filter) {
      const float* const plane = args.image + filter->channel * args.channel_stride;
      if (kForm == DirectForm::kStrided && plane >= args.whole_begin && plane < args.whole_end) {
        tiles<kForm, false>(args, *filter, plane);
      } else {
        tiles<kForm, true>(args, *filter, plane);
      }
    }
  }

  template <DirectForm kForm, bool kMaskLoads>
  static PCONV_INLINE void tiles(const DwDirectArgs& args, const DepthwiseFilter& filter, const float* plane) {
    const float* ahead = plane + args.tiles[0].in;
    for (const DwDirectTile *t = args.tiles, *end = t + args.n_tiles; t != end; ++t) {
      if constexpr (kForm == DirectForm::kStrided) {
        prefetch(ahead, args.tile_floats);
        ahead += args.tile_floats;
      }
      static_for<kVectors>([&](auto less) PCONV_INLINE_LAMBDA {
        if (t->vectors == kVectors - less) tile<kForm, kMaskLoads, kVectors - less>(args, filter, plane, *t);
      });
    }
  }

  template <DirectForm kForm, bool kMaskLoads, int kCount>
  static __attribute__((noinline)) void tile(const DwDirectArgs& args, const DepthwiseFilter& filter,
                                             const float* plane, const DwDirectTile& tile) {
    constexpr int kTapMasks = direct_masks(kForm) * kVectors;
    const ptrdiff_t in_step = kForm == DirectForm::kFlat ? V::kLanes : args.in_step;
    const uint16_t* const masks = args.masks + tile.masks;
    const Reg bias = V::broadcast(filter.bias);
    Reg sum[kCount];
    static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA { sum[i] = bias; });
    for (const DepthwiseTap *tap = filter.taps, *end = tap + filter.n_taps; tap != end; ++tap) {
      const float* const from = plane + tile.in + args.tap_offsets[tap->row];
      const uint16_t* const inside = masks + tap->row * kTapMasks;
      const Reg w = V::broadcast(tap->weight);
      static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA {
        const float* const at = from + i * in_step;
        if constexpr (kForm == DirectForm::kStrided) {
          sum[i] = V::fma_lanes(w, every_other<kMaskLoads>(args, at, inside + i), sum[i], V::lanes_of(inside[i]));
        } else {
          sum[i] = V::fma(w, V::load_lanes(at, V::lanes_of(inside[i])), sum[i]);
        }
      });
    }
    finish<kForm>(args, filter.out_channel * args.plane_stride + tile.out, masks + args.n_taps * kTapMasks, sum);
  }

  template <bool kMaskLoads>
  static PCONV_INLINE Reg every_other(const DwDirectArgs& args, const float* low, const uint16_t* inside) {
    const float* const high = low + args.high_step;
    const auto picked = V::load_index(args.picked);
    if constexpr (!kMaskLoads) return V::permute(V::load_unaligned(low), picked, V::load_unaligned(high));
    return V::permute(V::load_lanes(low, V::lanes_of(inside[kVectors])), picked,
                      V::load_lanes(high, V::lanes_of(inside[2 * kVectors])));
  }

  template <DirectForm kForm, int kCount>
  static PCONV_INLINE void finish(const DwDirectArgs& args, ptrdiff_t first, const uint16_t* stored,
                                  const Reg (&sum)[kCount]) {
    const ptrdiff_t out_step = kForm == DirectForm::kFlat ? V::kLanes : args.out_step;
    const Reg lo = V::broadcast(args.clamp_min), hi = V::broadcast(args.clamp_max);
    static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA {
      const ptrdiff_t at = first + i * out_step;
      const auto lanes = V::lanes_of(stored[i]);
      Reg out = sum[i];
      if (args.residual != nullptr) out = V::add(out, V::load_lanes(args.residual + at, lanes));
      V::store_lanes(args.out + at, V::clamp(out, lo, hi), lanes);
    });
  }
};
