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
        return filters<DirectForm::kStrided>(args);
    }
  }

  template <DirectForm kForm>
  static void filters(const DwDirectArgs& args) {
    for (const DepthwiseFilter *filter = args.filters, *end = filter + args.n_filters; filter != end; ++filter) {
      for (const DwDirectTile *t = args.tiles, *tiles_end = t + args.n_tiles; t != tiles_end; ++t) {
        static_for<kVectors>([&](auto less) PCONV_INLINE_LAMBDA {
          if (t->vectors == kVectors - less) tile<kForm, kVectors - less>(args, *filter, *t);
        });
      }
    }
  }

  template <DirectForm kForm, int kCount>
  static __attribute__((noinline)) void tile(const DwDirectArgs& args, const DepthwiseFilter& filter,
                                             const DwDirectTile& tile) {
    constexpr int kLoads = kForm == DirectForm::kStrided ? 2 : 1;
    const ptrdiff_t in_step = kForm == DirectForm::kFlat ? V::kLanes : args.in_step;
    const ptrdiff_t out_step = kForm == DirectForm::kFlat ? V::kLanes : args.out_step;
    const float* const in = args.image + filter.channel * args.channel_stride + tile.in;
    const uint16_t* const masks = args.masks + tile.masks;
    const Reg bias = V::broadcast(filter.bias);
    Reg sum[kCount];
    static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA { sum[i] = bias; });
    for (const DepthwiseTap *tap = filter.taps, *end = tap + filter.n_taps; tap != end; ++tap) {
      const float* const from = in + args.tap_offsets[tap->row];
      const uint16_t* const inside = masks + tap->row * (kLoads * kVectors);
      const Reg w = V::broadcast(tap->weight);
      static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA {
        sum[i] = V::fma(w, input<kForm>(from + i * in_step, inside + i), sum[i]);
      });
    }
    const uint16_t* const stored = masks + args.n_taps * (kLoads * kVectors);
    const ptrdiff_t first = filter.out_channel * args.plane_stride + tile.out;
    const Reg lo = V::broadcast(args.clamp_min), hi = V::broadcast(args.clamp_max);
    static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA {
      const ptrdiff_t at = first + i * out_step;
      const auto lanes = V::lanes_of(stored[i]);
      Reg out = sum[i];
      if (args.residual != nullptr) out = V::add(out, V::load_lanes(args.residual + at, lanes));
      V::store_lanes(args.out + at, V::clamp(out, lo, hi), lanes);
    });
  }

  // What one tap of a vector of outputs reads, zeros outside the image.
  template <DirectForm kForm>
  static PCONV_INLINE Reg input(const float* from, const uint16_t* inside) {
    const Reg low = V::load_lanes(from, V::lanes_of(inside[0]));
    if constexpr (kForm != DirectForm::kStrided) return low;
    Reg even, odd;
    V::deinterleave(low, V::load_lanes(from + V::kLanes, V::lanes_of(inside[kVectors])), &even, &odd);
    return even;
  }
};
