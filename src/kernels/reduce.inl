// Sums of planes, and softmax. Included by isa.cpp inside the ISA's unnamed namespace.

class Reduce {
 public:
  static void sum(const SumArgs& args) noexcept {
    for (int64_t p = 0; p < args.planes; ++p) args.y[p] = sum_of(args.x + p * args.n, args.n) * args.scale;
  }

  static void softmax(const SoftmaxArgs& args) noexcept {
    if (args.x_step != 0) return columns(args);
    for (int64_t r = 0; r < args.rows; ++r) {
      const float* x = args.x + r * args.n;
      float* y = args.y + r * args.n;
      const float largest = maximum_of(x, args.n);
      if (args.log) {
        log_row(x, y, args.n, largest);
      } else {
        row(x, y, args.n, largest);
      }
    }
  }

 private:
  static constexpr int kSums = 4;  // vectors go to them in turn

  static float sum_of(const float* x, int64_t n) {
    Reg sums[kSums];
    for (Reg& sum : sums) sum = Vec::zero();
    int64_t i = 0;
    for (; i + kSums * Vec::kLanes <= n; i += kSums * Vec::kLanes) {
      static_for<kSums>([&](auto k) PCONV_INLINE_LAMBDA {
        sums[k] = Vec::add(sums[k], Vec::load_unaligned(x + i + k * Vec::kLanes));
      });
    }
    for (; i + Vec::kLanes <= n; i += Vec::kLanes) sums[0] = Vec::add(sums[0], Vec::load_unaligned(x + i));
    if (i < n) sums[1] = Vec::add(sums[1], Vec::load_lanes(x + i, Vec::lanes(0, static_cast<int>(n - i))));
    return Vec::sum_lanes(Vec::add(Vec::add(sums[0], sums[1]), Vec::add(sums[2], sums[3])));
  }

  // NaN where there is one; minus infinity of nothing.
  static float maximum_of(const float* x, int64_t n) {
    float largest[Vec::kLanes];
    Reg m = constant(-__builtin_inff());
    int64_t i = 0;
    for (; i + Vec::kLanes <= n; i += Vec::kLanes) m = Vec::maximum(m, Vec::load_unaligned(x + i));
    Vec::store_unaligned(largest, m);
    for (; i < n; ++i) largest[0] = larger(largest[0], x[i]);
    for (int k = 1; k < Vec::kLanes; ++k) largest[0] = larger(largest[0], largest[k]);
    return largest[0];
  }
  static float larger(float a, float b) { return b > a || b != b ? b : a; }

  static void row(const float* x, float* y, int64_t n, float largest) {
    const Reg top = constant(largest);
    map(x, y, n, [top](Reg v) PCONV_INLINE_LAMBDA { return exponential(Vec::sub(v, top)); });
    const Reg sum = constant(sum_of(y, n));
    map(y, y, n, [sum](Reg v) PCONV_INLINE_LAMBDA { return Vec::div(v, sum); });
  }

  // The exponentials are summed a block at a time: y holds none of them, and may be x.
  static void log_row(const float* x, float* y, int64_t n, float largest) {
    constexpr int64_t kBlock = 256;
    float exponentials[kBlock], total = 0.0f;
    const Reg top = constant(largest);
    for (int64_t i = 0; i < n; i += kBlock) {
      const int64_t count = n - i < kBlock ? n - i : kBlock;
      map(x + i, exponentials, count, [top](Reg v) PCONV_INLINE_LAMBDA { return exponential(Vec::sub(v, top)); });
      total += sum_of(exponentials, count);
    }
    const Reg log_of_sum = constant(__builtin_logf(total));
    map(x, y, n, [top, log_of_sum](Reg v) PCONV_INLINE_LAMBDA { return Vec::sub(Vec::sub(v, top), log_of_sum); });
  }

  // Rows side by side: each lane is one.
  static void columns(const SoftmaxArgs& args) {
    for (int64_t r = 0; r < args.rows; r += Vec::kLanes) {
      const int64_t rest = args.rows - r;
      if (rest >= Vec::kLanes) {
        lanes_of_columns(
            args, args.x + r, args.y + r, [](const float* p) PCONV_INLINE_LAMBDA { return Vec::load_unaligned(p); },
            [](float* p, Reg v) PCONV_INLINE_LAMBDA { Vec::store_unaligned(p, v); });
      } else {
        const Vec::Lanes lanes = Vec::lanes(0, static_cast<int>(rest));
        lanes_of_columns(
            args, args.x + r, args.y + r,
            [lanes](const float* p) PCONV_INLINE_LAMBDA { return Vec::load_lanes(p, lanes); },
            [lanes](float* p, Reg v) PCONV_INLINE_LAMBDA { Vec::store_lanes(p, v, lanes); });
      }
    }
  }

  template <class Load, class Store>
  static PCONV_INLINE void lanes_of_columns(const SoftmaxArgs& args, const float* x, float* y, Load load, Store store) {
    Reg top = load(x), sum = Vec::zero();
    for (int64_t i = 1; i < args.n; ++i) top = Vec::maximum(top, load(x + i * args.x_step));
    for (int64_t i = 0; i < args.n; ++i) {
      const Reg e = exponential(Vec::sub(load(x + i * args.x_step), top));
      sum = Vec::add(sum, e);
      if (!args.log) store(y + i * args.y_step, e);
    }
    if (args.log) {
      float logs[Vec::kLanes];
      Vec::store_unaligned(logs, sum);
      for (float& log : logs) log = __builtin_logf(log);
      const Reg log_of_sum = Vec::load_unaligned(logs);
      for (int64_t i = 0; i < args.n; ++i) {
        store(y + i * args.y_step, Vec::sub(Vec::sub(load(x + i * args.x_step), top), log_of_sum));
      }
    } else {
      for (int64_t i = 0; i < args.n; ++i) store(y + i * args.y_step, Vec::div(load(y + i * args.y_step), sum));
    }
  }
};
