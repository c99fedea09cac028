// Depthwise convolutions: a filter reads one channel, so there is no work to hide overheads behind. Channel after
// channel, the rows of a strip are padded and split into phases in L1, and every tap of an output row reads them from
// there. Included by isa.cpp inside the ISA's unnamed namespace. V is Vec.

template <class V, int kVectors>
class Depthwise {
 public:
  static void compute(const DepthwiseArgs& args) noexcept {
    const RowSplitter splitter(args.w, -args.pad_left, args.stride_w, args.phase_floats, args.phase_floats);
    const float* split = nullptr;  // whose rows lie in args.phases
    for (const DepthwiseFilter *filter = args.filters, *end = filter + args.n_filters; filter != end; ++filter) {
      const float* plane = args.image + filter->channel * args.channel_stride;
      if (plane != split) split_rows(args, splitter, plane);
      split = plane;
      const int n_vectors = (args.out_w + V::kLanes - 1) / V::kLanes;
      for (int first = 0; first < n_vectors; first += kVectors) {
        const int count = n_vectors - first < kVectors ? n_vectors - first : kVectors;
        static_for<kVectors>([&](auto less) PCONV_INLINE_LAMBDA {
          if (count == kVectors - less) columns<kVectors - less>(args, *filter, first * V::kLanes);
        });
      }
    }
  }

 private:
  using Reg = typename V::Reg;

  static void split_rows(const DepthwiseArgs& args, const RowSplitter& splitter, const float* plane) {
    const ptrdiff_t row_floats = static_cast<ptrdiff_t>(args.stride_w) * args.phase_floats;
    for (int i = 0; i < args.n_rows; ++i) {
      const int y = args.first_row + i;
      splitter.split(y >= 0 && y < args.h ? plane + static_cast<ptrdiff_t>(y) * args.w : nullptr,
                     args.phases + i * row_floats);
    }
  }

  // kCount vectors of every output row from column x on; few vectors: of several rows together, as sums wait for each
  // other otherwise.
  template <int kCount>
  static __attribute__((noinline)) void columns(const DepthwiseArgs& args, const DepthwiseFilter& filter, int x) {
    constexpr int kRows = kVectors / kCount;
    int y = 0;
    for (; y + kRows <= args.rows; y += kRows) tile<kRows, kCount>(args, filter, y, x);
    if constexpr (kRows > 1) {
      for (; y < args.rows; ++y) tile<1, kCount>(args, filter, y, x);
    }
  }

  template <int kRows, int kCount>
  static PCONV_INLINE void tile(const DepthwiseArgs& args, const DepthwiseFilter& filter, int y, int x) {
    const ptrdiff_t row_step = static_cast<ptrdiff_t>(args.stride_h) * args.stride_w * args.phase_floats;
    const float* const base = args.phases + y * row_step + x;
    const Reg bias = V::broadcast(filter.bias);
    Reg sum[kRows][kCount];
    static_for<kRows * kCount>([&](auto i) PCONV_INLINE_LAMBDA { sum[i / kCount][i % kCount] = bias; });
    for (const DepthwiseTap *tap = filter.taps, *end = tap + filter.n_taps; tap != end; ++tap) {
      const float* from = base + static_cast<ptrdiff_t>(tap->row) * args.phase_floats + tap->shift;
      const Reg w = V::broadcast(tap->weight);
      static_for<kRows>([&](auto r) PCONV_INLINE_LAMBDA {
        static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA {
          sum[r][i] = V::fma(w, V::load_unaligned(from + r * row_step + i * V::kLanes), sum[r][i]);
        });
      });
    }
    const Reg lo = V::broadcast(args.clamp_min), hi = V::broadcast(args.clamp_max);
    static_for<kRows>([&](auto r) PCONV_INLINE_LAMBDA {
      static_for<kCount>([&](auto i) PCONV_INLINE_LAMBDA {
        const ptrdiff_t at =
            filter.out_channel * args.plane_stride + static_cast<ptrdiff_t>(y + r) * args.out_w + x + i * V::kLanes;
        const typename V::Lanes stored = V::lanes(0, args.out_w - x - i * V::kLanes);
        Reg out = sum[r][i];
        if (args.residual != nullptr) out = V::add(out, V::load_lanes(args.residual + at, stored));
        V::store_lanes(args.out + at, V::clamp(out, lo, hi), stored);
      });
    });
  }
};
