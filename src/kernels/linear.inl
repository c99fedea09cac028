// Linear layers: some outputs of some rows at once, so that a vector of x is loaded once for all outputs and a vector
// of weights once for all rows. Each sum has two parts, the even vectors and the odd ones, whatever runs beside it.
// Included by isa.cpp inside the ISA's unnamed namespace.

class Linear {
 public:
  static void compute(const LinearArgs& args) noexcept {
    int64_t r = 0;
    for (; r + kRows <= args.rows; r += kRows) outputs<kRows, kOutputsOfRows>(args, r);
    for (; r < args.rows; ++r) outputs<1, kOutputs>(args, r);
  }

 private:
  // Sums in flight: 8 of a single row; 16 of several where there are 32 registers.
  static constexpr int kRows = 4, kOutputs = 4, kOutputsOfRows = Vec::kLanes == 8 ? 1 : 2;

  template <int kR, int kO>
  static void outputs(const LinearArgs& args, int64_t r) {
    int64_t o = args.out_begin;
    for (; o + kO <= args.out_end; o += kO) tile<kR, kO>(args, r, o);
    for (; o < args.out_end; ++o) tile<kR, 1>(args, r, o);
    for (int i = 0; i < kR; ++i) {
      float* y = args.y + (r + i) * args.y_step + args.out_begin;
      if (args.activation.kind != ActivationKind::kNone) {
        activate({y, y, args.out_end - args.out_begin, args.activation});
      }
    }
  }

  template <int kR, int kO>
  static PCONV_INLINE void tile(const LinearArgs& args, int64_t r, int64_t o) {
    const float *const x = args.x + r * args.x_step, *const w = args.weights + o * args.in;
    Reg even[kR * kO], odd[kR * kO];
    static_for<kR * kO>([&](auto i) PCONV_INLINE_LAMBDA { even[i] = odd[i] = Vec::zero(); });
    const auto add = [&](Reg* sums, int64_t i, auto load) PCONV_INLINE_LAMBDA {
      Reg of_x[kR];
      static_for<kR>([&](auto k) PCONV_INLINE_LAMBDA { of_x[k] = load(x + k * args.x_step + i); });
      static_for<kO>([&](auto n) PCONV_INLINE_LAMBDA {
        const Reg of_w = load(w + n * args.in + i);
        static_for<kR>([&](auto k)
                           PCONV_INLINE_LAMBDA { sums[k * kO + n] = Vec::fma(of_w, of_x[k], sums[k * kO + n]); });
      });
    };
    const auto whole = [](const float* p) PCONV_INLINE_LAMBDA { return Vec::load_unaligned(p); };
    int64_t i = 0;
    for (; i + 2 * Vec::kLanes <= args.in; i += 2 * Vec::kLanes) {
      add(even, i, whole);
      add(odd, i + Vec::kLanes, whole);
    }
    if (i + Vec::kLanes <= args.in) {
      add(even, i, whole);
      i += Vec::kLanes;
    }
    if (i < args.in) {
      const Vec::Lanes lanes = Vec::lanes(0, static_cast<int>(args.in - i));
      add(odd, i, [lanes](const float* p) PCONV_INLINE_LAMBDA { return Vec::load_lanes(p, lanes); });
    }
    static_for<kR>([&](auto k) PCONV_INLINE_LAMBDA {
      static_for<kO>([&](auto n) PCONV_INLINE_LAMBDA {
        const float sum = Vec::sum_lanes(Vec::add(even[k * kO + n], odd[k * kO + n]));
        args.y[(r + k) * args.y_step + o + n] = args.bias != nullptr ? sum + args.bias[o + n] : sum;
      });
    });
  }
};
