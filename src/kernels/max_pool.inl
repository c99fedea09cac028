// Max pooling, rows first: the maximum over a window's rows is taken straight from the image, whole vectors of columns
// whatever the strides, and kept as a line in L1; the windows of an output row then take their columns from its line.
// Lines hold minus infinity where the image is padded, written once. Where windows of 2x2 tile narrow planes, lines are
// left out: a vector of outputs may be of several rows, and of several planes. Wider ones need no lines either.
// Included by isa.cpp inside the ISA's unnamed namespace.

class MaxPool {
 public:
  static void compute(const MaxPoolArgs& args) noexcept {
    if (are_narrow_tiles(args)) return narrow_tiles<Vec>(args);
    if (!are_squares(args)) return compute_lines(args);
    for (int64_t p = 0; p < args.planes; ++p) {
      const int64_t in = p * args.h * args.w, out = p * args.out_h * args.out_w;
      squares({args.in + in, args.out + out, args.w, args.out_w, args.out_h, args.out_w});
    }
  }

  static void squares(const PoolSquaresArgs& args) noexcept {
    const float* in = args.in;
    float* out = args.out;
    for (int64_t y = 0; y < args.rows; ++y, in += 2 * args.in_step, out += args.out_step) {
      row_of_squares(in, in + args.in_step, out, args.columns);
    }
  }

 private:
  using Reg = Vec::Reg;
  using RowFn = void (*)(const MaxPoolArgs&, const float* line, float* out);

  static void compute_lines(const MaxPoolArgs& args) {
    const int64_t spanned = (args.out_w - 1) * args.stride_w + (args.kernel_w - 1) * args.dilation_w + 1;
    const int64_t inside = spanned - args.pad_left;
    const int64_t n_columns = inside < args.w ? inside : args.w;  // of the image, that any window looks at
    const RowFn windows = windows_of(args);
    for (int64_t i = 0; i < args.line_rows * args.line_floats; i += Vec::kLanes) Vec::store(args.lines + i, lowest());
    const float* plane = args.in;
    float* out = args.out;
    for (int64_t p = 0; p < args.planes; ++p, plane += args.h * args.w) {
      for (int64_t y0 = 0; y0 < args.out_h; y0 += args.line_rows) {
        // Several lines before the first is read: loads that straddle stores under way would wait for them.
        const int64_t rows = args.out_h - y0 < args.line_rows ? args.out_h - y0 : args.line_rows;
        for (int64_t r = 0; r < rows && n_columns > 0; ++r) {
          reduce_rows(args, plane, y0 + r, n_columns, args.lines + r * args.line_floats + args.pad_left);
        }
        for (int64_t r = 0; r < rows; ++r, out += args.out_w) windows(args, args.lines + r * args.line_floats, out);
      }
    }
  }

  static bool are_squares(const MaxPoolArgs& args) {
    return args.kernel_h == 2 && args.kernel_w == 2 && args.stride_h == 2 && args.stride_w == 2 &&
           args.dilation_h == 1 && args.dilation_w == 1 && args.pad_top == 0 && args.pad_left == 0 &&
           args.h >= 2 * args.out_h && args.w >= 2 * args.out_w;
  }

  static PCONV_INLINE void row_of_squares(const float* upper, const float* lower, float* out, int64_t n) {
    const auto vector = [&](int64_t x) PCONV_INLINE_LAMBDA {
      const float *const a = upper + 2 * x, *const b = lower + 2 * x;
      return pair_maxima(Vec::maximum(Vec::load_unaligned(a), Vec::load_unaligned(b)),
                         Vec::maximum(Vec::load_unaligned(a + Vec::kLanes), Vec::load_unaligned(b + Vec::kLanes)));
    };
    int64_t x = 0;
    for (; x + Vec::kLanes <= n; x += Vec::kLanes) Vec::store_unaligned(out + x, vector(x));
    if (x == n) return;
    if (n >= Vec::kLanes) return Vec::store_unaligned(out + n - Vec::kLanes, vector(n - Vec::kLanes));
    const Vec::Lanes low = Vec::lanes(0, static_cast<int>(2 * n)),
                     high = Vec::lanes(0, static_cast<int>(2 * n) - Vec::kLanes);
    const Reg left = Vec::maximum(Vec::load_lanes(upper, low), Vec::load_lanes(lower, low));
    const Reg right =
        Vec::maximum(Vec::load_lanes(upper + Vec::kLanes, high), Vec::load_lanes(lower + Vec::kLanes, high));
    Vec::store_lanes(out, pair_maxima(left, right), Vec::lanes(0, static_cast<int>(n)));
  }

  static PCONV_INLINE Reg pair_maxima(Reg low, Reg high) {
    Reg even, odd;
    Vec::deinterleave(low, high, &even, &odd);
    return Vec::maximum(even, odd);
  }

  // Windows of 2x2 that tile the planes, so that from plane to plane too the rows of inputs and outputs follow each
  // other without a gap, and rows of outputs that fit a vector.
  static bool are_narrow_tiles(const MaxPoolArgs& args) {
    return are_squares(args) && Vec::kPicksLanes && args.h == 2 * args.out_h && args.w == 2 * args.out_w &&
           args.out_w <= Vec::kLanes;
  }

  // As many whole rows of outputs as a vector holds are computed together. V is Vec: a template, as other ISAs do not
  // permute.
  template <class V>
  class NarrowTiles {
   public:
    explicit NarrowTiles(int64_t out_w) : outputs_(static_cast<int>(V::kLanes / out_w * out_w)) {
      const auto width = static_cast<int32_t>(out_w);
      for (int32_t i = 0; i < outputs_; ++i) {
        upper_[i] = i / width * 2 * width + i % width;
        lower_[i] = upper_[i] + width;
      }
    }

    void compute(const MaxPoolArgs& args) const {
      const typename V::Index upper = V::load_index(upper_), lower = V::load_index(lower_);
      const int64_t end = args.planes * args.out_h * args.out_w;
      int64_t at = 0;
      for (; at + V::kLanes <= end; at += outputs_) {  // what is stored behind these outputs is overwritten
        V::store_unaligned(args.out + at, vector(upper, lower, [&](int i) PCONV_INLINE_LAMBDA {
                             return V::load_unaligned(args.in + 4 * at + i * V::kLanes);
                           }));
      }
      for (; at < end; at += outputs_) {
        const int n = end - at < outputs_ ? static_cast<int>(end - at) : outputs_;
        const Reg m = vector(upper, lower, [&](int i) PCONV_INLINE_LAMBDA {
          return V::load_lanes(args.in + 4 * at + i * V::kLanes, V::lanes(0, 4 * n - i * V::kLanes));
        });
        V::store_lanes(args.out + at, m, V::lanes(0, n));
      }
    }

   private:
    // load(i): vector number i of the inputs.
    template <class Load>
    static PCONV_INLINE Reg vector(typename V::Index upper, typename V::Index lower, Load load) {
      const Reg low = pair_maxima(load(0), load(1)), high = pair_maxima(load(2), load(3));
      return V::maximum(V::permute(low, upper, high), V::permute(low, lower, high));
    }
    int outputs_;                                            // computed together
    int32_t upper_[V::kLanes] = {}, lower_[V::kLanes] = {};  // among the maxima of pairs: a window's two
  };

  template <class V>
  static void narrow_tiles(const MaxPoolArgs& args) {
    if constexpr (V::kPicksLanes) NarrowTiles<V>(args.out_w).compute(args);
  }

  static PCONV_INLINE Reg lowest() { return Vec::broadcast(-__builtin_inff()); }

  // line: n_columns floats.
  static void reduce_rows(const MaxPoolArgs& args, const float* plane, int64_t y, int64_t n_columns, float* line) {
    const int64_t top = y * args.stride_h - args.pad_top, step = args.dilation_h;
    const int64_t first = top < 0 ? (step - 1 - top) / step : 0;
    const int64_t fitting = top < args.h ? (args.h - 1 - top) / step + 1 : 0;
    const int64_t n_rows = (fitting < args.kernel_h ? fitting : args.kernel_h) - first;
    if (n_rows <= 0) {
      for (int64_t x = 0; x < n_columns; ++x) line[x] = -__builtin_inff();
      return;
    }
    const float* row = plane + (top + first * step) * args.w;
    if (n_rows == 3) return reduce<3>(row, step * args.w, 3, n_columns, line);
    if (n_rows == 2) return reduce<2>(row, step * args.w, 2, n_columns, line);
    reduce<0>(row, step * args.w, n_rows, n_columns, line);
  }

  // The maximum of rows that lie `step` floats apart. kRows 0: any number.
  template <int kRows>
  static PCONV_INLINE void reduce(const float* row, int64_t step, int64_t n_rows, int64_t n_columns, float* line) {
    if (n_columns < Vec::kLanes) {
      const Vec::Lanes lanes = Vec::lanes(0, static_cast<int>(n_columns));
      Reg m = Vec::load_lanes(row, lanes);
      for (int64_t k = 1; k < n_rows; ++k) m = Vec::maximum(m, Vec::load_lanes(row + k * step, lanes));
      return Vec::store_lanes(line, m, lanes);
    }
    const int64_t last = n_columns - Vec::kLanes;
    for (int64_t x = 0; x < last; x += Vec::kLanes) {
      Vec::store_unaligned(line + x, maximum_of<kRows>(row + x, step, n_rows));
    }
    Vec::store_unaligned(line + last, maximum_of<kRows>(row + last, step, n_rows));  // overlaps the one before
  }

  // The maximum of the vectors at n floats that lie `step` apart.
  template <int kCount>
  static PCONV_INLINE Reg maximum_of(const float* p, int64_t step, int64_t n) {
    Reg m = Vec::load_unaligned(p);
    if constexpr (kCount > 0) {
      static_for<kCount - 1>([&](auto k)
                                 PCONV_INLINE_LAMBDA { m = Vec::maximum(m, Vec::load_unaligned(p + (k + 1) * step)); });
    } else {
      for (int64_t k = 1; k < n; ++k) m = Vec::maximum(m, Vec::load_unaligned(p + k * step));
    }
    return m;
  }

  static RowFn windows_of(const MaxPoolArgs& args) {
    if (args.stride_w > 2) return strided;
    const int64_t taps = args.dilation_w == 1 ? args.kernel_w : 0;
    if (args.stride_w == 1) return taps == 3 ? neighbours<3> : neighbours<0>;
    return taps == 2 ? pairs<2> : taps == 3 ? pairs<3> : pairs<0>;
  }

  static PCONV_INLINE void store(const MaxPoolArgs& args, float* out, int64_t x, Reg m) {
    if (x + Vec::kLanes <= args.out_w) return Vec::store_unaligned(out + x, m);
    Vec::store_lanes(out + x, m, Vec::lanes(0, static_cast<int>(args.out_w - x)));
  }

  // Stride 1. kTaps: neighbouring ones; 0: any.
  template <int kTaps>
  static void neighbours(const MaxPoolArgs& args, const float* line, float* out) {
    const int64_t step = kTaps > 0 ? 1 : args.dilation_w, n = args.kernel_w;
    for (int64_t x = 0; x < args.out_w; x += Vec::kLanes) store(args, out, x, maximum_of<kTaps>(line + x, step, n));
  }

  // Stride 2: every second float of two vectors. kTaps as above.
  template <int kTaps>
  static void pairs(const MaxPoolArgs& args, const float* line, float* out) {
    const int64_t step = args.dilation_w, n = args.kernel_w;
    for (int64_t x = 0; x < args.out_w; x += Vec::kLanes) {
      const float* p = line + 2 * x;
      Reg m, odd;
      split(p, &m, &odd);
      if constexpr (kTaps > 0) {
        m = Vec::maximum(m, odd);
        if constexpr (kTaps == 3) m = Vec::maximum(m, evens(p + 2));
      } else {
        for (int64_t k = 1; k < n; ++k) m = Vec::maximum(m, evens(p + k * step));
      }
      store(args, out, x, m);
    }
  }

  static PCONV_INLINE void split(const float* p, Reg* even, Reg* odd) {
    Vec::deinterleave(Vec::load_unaligned(p), Vec::load_unaligned(p + Vec::kLanes), even, odd);
  }
  static PCONV_INLINE Reg evens(const float* p) {
    Reg even, odd;
    split(p, &even, &odd);
    return even;
  }

  // Any stride.
  static void strided(const MaxPoolArgs& args, const float* line, float* out) {
    for (int64_t x = 0; x < args.out_w; ++x, line += args.stride_w) {
      float m = line[0];
      for (int64_t k = 1; k < args.kernel_w; ++k) {
        const float v = line[k * args.dilation_w];
        m = v > m || v != v ? v : m;
      }
      out[x] = m;
    }
  }
};
