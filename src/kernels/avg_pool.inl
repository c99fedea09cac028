// Average pooling, rows first, as max_pool.inl does it: the sum of a window's rows goes into a line, whole vectors of
// columns, and the windows of an output row take their columns from there. A line holds zeros where the plane is
// padded. Included by isa.cpp inside the ISA's unnamed namespace.

class AvgPool {
 public:
  static void compute(const AvgPoolArgs& args) noexcept {
    Line lines[kRows] = {};
    const float* plane = args.x;
    float* out = args.y;
    for (int64_t p = 0; p < args.planes; ++p, plane += args.h * args.w) {
      for (int64_t y = 0; y < args.out_h; y += kRows) {
        const int64_t n = args.out_h - y < kRows ? args.out_h - y : kRows;
        args.kernel_w > kWidest ? wide_rows(args, plane, y, n, out) : rows(args, plane, y, n, lines, out);
        for (int64_t r = 0; r < n; ++r, out += args.out_w) divide(args, rows_of(args, y + r), out);
      }
    }
  }

 private:
  // Several lines before the first is read: loads that straddle stores under way would wait for them.
  static constexpr int64_t kRows = 4;
  static constexpr int64_t kLine = 1024;               // floats of a line
  static constexpr int64_t kBehind = 2 * Vec::kLanes;  // that vectors read more
  static constexpr int64_t kWidest = kLine / 2;        // windows that take their columns from lines
  using Line = float[kLine + kBehind];

  // What lies in a window along an axis.
  struct Part {
    int64_t first, count;  // of the plane
    int64_t padded;        // with those of the padding
  };
  static Part window(int64_t i, int64_t stride, int64_t pad, int64_t kernel, int64_t size) {
    const int64_t begin = i * stride - pad;
    const int64_t end = begin + kernel < size + pad ? begin + kernel : size + pad;
    const int64_t first = begin > 0 ? begin : 0, last = end < size ? end : size;
    return {first, last > first ? last - first : 0, end - begin};
  }
  static Part rows_of(const AvgPoolArgs& args, int64_t y) {
    return window(y, args.stride_h, args.pad_h, args.kernel_h, args.h);
  }
  static Part columns_of(const AvgPoolArgs& args, int64_t x) {
    return window(x, args.stride_w, args.pad_w, args.kernel_w, args.w);
  }

  // The sums of the windows of n output rows.
  static void rows(const AvgPoolArgs& args, const float* plane, int64_t y, int64_t n, Line* lines, float* out) {
    const int64_t most = (kLine - args.kernel_w) / args.stride_w + 1;  // outputs whose windows fit a line
    for (int64_t x = 0; x < args.out_w; x += most) {
      const int64_t count = args.out_w - x < most ? args.out_w - x : most;
      for (int64_t r = 0; r < n; ++r) fill_line(args, plane, rows_of(args, y + r), x, count, lines[r]);
      for (int64_t r = 0; r < n; ++r) take_windows(args, lines[r], count, out + r * args.out_w + x);
    }
  }

  static void wide_rows(const AvgPoolArgs& args, const float* plane, int64_t y, int64_t n, float* out) {
    for (int64_t r = 0; r < n; ++r) {
      const Part rows = rows_of(args, y + r);
      for (int64_t x = 0; x < args.out_w; ++x) *out++ = wide_sum(args, plane + rows.first * args.w, rows.count, x);
    }
  }

  static float wide_sum(const AvgPoolArgs& args, const float* top, int64_t n_rows, int64_t x) {
    const Part columns = columns_of(args, x);
    float sum = 0.0f;
    for (int64_t r = 0; r < n_rows; ++r) {
      for (int64_t c = 0; c < columns.count; ++c) sum += top[r * args.w + columns.first + c];
    }
    return sum;
  }

  // The sums of the rows of a window: of the columns that `count` windows from x0 on look at.
  static void fill_line(const AvgPoolArgs& args, const float* plane, const Part& rows, int64_t x0, int64_t count,
                        float* line) {
    const int64_t begin = x0 * args.stride_w - args.pad_w, n = (count - 1) * args.stride_w + args.kernel_w;
    const int64_t before = begin < 0 ? (-begin < n ? -begin : n) : 0;
    const int64_t end = args.w - begin < n ? (args.w - begin > before ? args.w - begin : before) : n;
    for (int64_t i = 0; i < before; ++i) line[i] = 0.0f;
    for (int64_t i = end; i < n; ++i) line[i] = 0.0f;
    add_rows(plane + rows.first * args.w + begin + before, args.w, rows.count, end - before, line + before);
  }

  static void take_windows(const AvgPoolArgs& args, const float* line, int64_t count, float* out) {
    if (args.stride_w == 1) {
      windows(count, out, args.kernel_w,
              [line](int64_t x, int64_t k) PCONV_INLINE_LAMBDA { return Vec::load_unaligned(line + x + k); });
    } else if (args.stride_w == 2) {
      windows(count, out, args.kernel_w, [line](int64_t x, int64_t k) PCONV_INLINE_LAMBDA {
        Reg even, odd;
        const float* p = line + 2 * x + k;
        Vec::deinterleave(Vec::load_unaligned(p), Vec::load_unaligned(p + Vec::kLanes), &even, &odd);
        return even;
      });
    } else {
      for (int64_t x = 0; x < count; ++x) {
        float sum = 0.0f;
        for (int64_t k = 0; k < args.kernel_w; ++k) sum += line[x * args.stride_w + k];
        out[x] = sum;
      }
    }
  }

  // The sum of rows that lie `step` floats apart, of n columns.
  static void add_rows(const float* top, int64_t step, int64_t n_rows, int64_t n, float* line) {
    const auto sum = [&](int64_t x, auto load) PCONV_INLINE_LAMBDA {
      Reg s = Vec::zero();
      for (int64_t r = 0; r < n_rows; ++r) s = Vec::add(s, load(top + r * step + x));
      return s;
    };
    int64_t x = 0;
    for (; x + Vec::kLanes <= n; x += Vec::kLanes) {
      Vec::store_unaligned(line + x, sum(x, [](const float* p) PCONV_INLINE_LAMBDA { return Vec::load_unaligned(p); }));
    }
    if (x >= n) return;
    const Vec::Lanes lanes = Vec::lanes(0, static_cast<int>(n - x));
    const auto load = [lanes](const float* p) PCONV_INLINE_LAMBDA { return Vec::load_lanes(p, lanes); };
    Vec::store_lanes(line + x, sum(x, load), lanes);
  }

  // load(x, k): column k of the windows from number x on.
  template <class Load>
  static PCONV_INLINE void windows(int64_t count, float* out, int64_t kernel_w, Load load) {
    for (int64_t x = 0; x < count; x += Vec::kLanes) {
      Reg sum = load(x, 0);
      for (int64_t k = 1; k < kernel_w; ++k) sum = Vec::add(sum, load(x, k));
      if (x + Vec::kLanes <= count) {
        Vec::store_unaligned(out + x, sum);
      } else {
        Vec::store_lanes(out + x, sum, Vec::lanes(0, static_cast<int>(count - x)));
      }
    }
  }

  static void divide(const AvgPoolArgs& args, const Part& rows, float* out) {
    if (args.divisor != 0) return divide(out, 0, args.out_w, static_cast<float>(args.divisor));
    const int64_t n_rows = args.count_include_pad ? rows.padded : rows.count;
    // Windows that count all their columns: those that end within `room`.
    const int64_t begin = args.count_include_pad ? 0 : (args.pad_w + args.stride_w - 1) / args.stride_w;
    const int64_t room = args.w + args.pad_w + (args.count_include_pad ? args.pad_w : 0) - args.kernel_w;
    int64_t end = room < 0 ? 0 : room / args.stride_w + 1;
    if (end > args.out_w) end = args.out_w;
    const auto at_edges = [&](int64_t from, int64_t to) {
      for (int64_t x = from; x < to; ++x) {
        const Part columns = columns_of(args, x);
        out[x] /= static_cast<float>(n_rows * (args.count_include_pad ? columns.padded : columns.count));
      }
    };
    if (begin >= end) return at_edges(0, args.out_w);
    at_edges(0, begin);
    divide(out, begin, end, static_cast<float>(n_rows * args.kernel_w));
    at_edges(end, args.out_w);
  }
  static void divide(float* out, int64_t begin, int64_t end, float divisor) {
    const Reg by = constant(divisor);
    map(out + begin, out + begin, end - begin, [by](Reg v) PCONV_INLINE_LAMBDA { return Vec::div(v, by); });
  }
};
