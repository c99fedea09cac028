// Activations, sums and products, float by float. One formula for all ISAs out of operations that round once
// (Vec::fused and others), so that the bits are the same everywhere; the vectors only say how many floats go together.
// Largest errors against float64: docs/OPERATORS.md, activation_test.cpp. Included by isa.cpp inside the ISA's unnamed
// namespace.

using Reg = Vec::Reg;

PCONV_INLINE Reg constant(float x) { return Vec::broadcast(x); }

// y[i] = f(x[i]); y may be x.
template <class F>
PCONV_INLINE void map(const float* x, float* y, int64_t n, F f) {
  int64_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) Vec::store_unaligned(y + i, f(Vec::load_unaligned(x + i)));
  if (i == n) return;
  const Vec::Lanes lanes = Vec::lanes(0, static_cast<int>(n - i));
  Vec::store_lanes(y + i, f(Vec::load_lanes(x + i, lanes)), lanes);
}

// Added to a float below 2^22 it leaves no bits behind the point, and the whole number in the low bits.
constexpr float kRoundingShift = 0x1.8p23f;

// exp(x) - 1 = 2^n * (expm1 + 1) - 1, n the whole number next to x / ln 2 and `shifted` n + kRoundingShift.
struct ExpParts {
  Reg expm1, n, shifted;

  // |x| below 2^20.
  PCONV_INLINE explicit ExpParts(Reg x) {
    shifted = Vec::fused(x, constant(0x1.715476p0f), constant(kRoundingShift));
    n = Vec::sub(shifted, constant(kRoundingShift));
    // ln 2 in two parts: what remains of x is exact after the first.
    const Reg rest = Vec::fused(n, constant(-0x1.62e43p-1f), x), r = Vec::fused(n, constant(0x1.05c61p-29f), rest);
    // Within 1.4e-8 of expm1(r) for |r| <= ln 2 / 2, by Remez.
    Reg p = constant(0x1.6bebfep-10f);
    p = Vec::fused(p, r, constant(0x1.1227bp-7f));
    p = Vec::fused(p, r, constant(0x1.555674p-5f));
    p = Vec::fused(p, r, constant(0x1.5554bp-3f));
    p = Vec::fused(p, r, constant(0x1.fffffep-2f));
    expm1 = Vec::fused(Vec::mul(r, r), p, r);
  }
};

// Infinity and zero where the result is too large or small; denormal results are rounded right.
PCONV_INLINE Reg exponential(Reg x) {
  const ExpParts parts(Vec::lower(Vec::raise(x, constant(-104.0f)), constant(89.0f)));
  // 2^n in two steps: 2^128 is no float.
  const Reg half = Vec::fused(parts.n, constant(0.5f), constant(kRoundingShift));
  const Reg rest = Vec::add(Vec::sub(parts.n, Vec::sub(half, constant(kRoundingShift))), constant(kRoundingShift));
  const Reg y = Vec::add(parts.expm1, constant(1.0f));
  return Vec::mul(Vec::mul(y, Vec::power_of_two(half)), Vec::power_of_two(rest));
}

// exp(x) - 1 for x in [-87, 87], as exact near 0 as elsewhere.
PCONV_INLINE Reg exponential_minus_1(Reg x) {
  const ExpParts parts(x);
  const Reg power = Vec::power_of_two(parts.shifted);
  return Vec::fused(power, parts.expm1, Vec::sub(power, constant(1.0f)));
}

PCONV_INLINE Reg negative(Reg x) { return Vec::sub(constant(-0.0f), x); }
PCONV_INLINE Reg one_plus_exp_of_minus(Reg x) { return Vec::add(constant(1.0f), exponential(negative(x))); }

struct Same {
  PCONV_INLINE Reg operator()(Reg x) const { return x; }
};
struct Clamped {
  Reg lo, hi;
  PCONV_INLINE Reg operator()(Reg x) const { return Vec::lower(Vec::raise(x, lo), hi); }
};
struct LeakyRelu {
  Reg slope;
  PCONV_INLINE Reg operator()(Reg x) const { return Vec::select(Vec::less(constant(0.0f), x), x, Vec::mul(slope, x)); }
};
struct Sigmoid {
  PCONV_INLINE Reg operator()(Reg x) const { return Vec::div(constant(1.0f), one_plus_exp_of_minus(x)); }
};
struct Silu {
  PCONV_INLINE Reg operator()(Reg x) const { return Vec::div(x, one_plus_exp_of_minus(x)); }
};
struct HardSigmoid {
  PCONV_INLINE Reg operator()(Reg x) const {
    const Reg raised = Vec::raise(Vec::add(x, constant(3.0f)), constant(0.0f));
    return Vec::mul(Vec::lower(raised, constant(6.0f)), constant(1.0f / 6.0f));
  }
};
struct HardSwish {
  PCONV_INLINE Reg operator()(Reg x) const { return Vec::mul(x, HardSigmoid()(x)); }
};
// (e - 1) / (e + 1) with e = exp(2 |x|); 1 from |x| = 10 on.
struct Tanh {
  PCONV_INLINE Reg operator()(Reg x) const {
    const Reg size = Vec::lower(Vec::magnitude(x), constant(10.0f));
    const Reg e = exponential_minus_1(Vec::add(size, size));
    return Vec::with_sign(Vec::div(e, Vec::add(e, constant(2.0f))), Vec::sign(x));
  }
};
// x * P(x), P the normal distribution: that of -t is exp(-t^2 / 2) * g(t), g smooth. Exact in the far tail too, where
// 1 + erf(x / sqrt 2) has no digits left.
struct Gelu {
  PCONV_INLINE Reg operator()(Reg x) const {
    const Reg size = Vec::magnitude(x), t = Vec::lower(size, constant(15.0f));  // there P is 0
    // g(t) = exp(t^2 / 2) erfc(t / sqrt 2) / 2 in u = 1 / (1 + 0.3 t), within 4e-8.
    const Reg u = Vec::div(constant(1.0f), Vec::fused(t, constant(0.3f), constant(1.0f)));
    constexpr float kCoefficients[] = {-0x1.159a42p-8f, 0x1.ee969ep-5f, -0x1.bf4584p-3f, 0x1.29ce18p-2f,
                                       -0x1.0066d4p-3f, 0x1.5605eep-3f, 0x1.63952ap-4f,  0x1.f9c6ccp-4f,
                                       0x1.e8b6d2p-4f,  0x1.00b112p-16f};
    Reg g = constant(kCoefficients[0]);
    static_for<9>([&](auto i) PCONV_INLINE_LAMBDA { g = Vec::fused(g, u, constant(kCoefficients[i + 1])); });
    // exp(-t^2 / 2), with what the rounding of t^2 lost.
    const Reg square = Vec::mul(t, t), lost = Vec::fused(t, t, negative(square));
    const Reg e = exponential(Vec::mul(square, constant(-0.5f)));
    const Reg exact = Vec::fused(Vec::mul(lost, constant(-0.5f)), e, e);
    return Vec::fused(negative(Vec::mul(size, g)), exact, Vec::raise(x, constant(0.0f)));
  }
};
// x * sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
struct GeluTanh {
  PCONV_INLINE Reg operator()(Reg x) const {
    const Reg inner = Vec::fused(Vec::mul(x, x), constant(0.0713548162726f), constant(1.59576912161f));
    return Vec::div(x, one_plus_exp_of_minus(Vec::mul(x, inner)));
  }
};
struct Elu {
  Reg alpha;
  PCONV_INLINE Reg operator()(Reg x) const {
    const Reg below = Vec::lower(Vec::raise(x, constant(-30.0f)), constant(0.0f));
    return Vec::select(Vec::less(x, constant(0.0f)), Vec::mul(alpha, exponential_minus_1(below)), x);
  }
};

// Calls use(function) with the activation's.
template <class F>
PCONV_INLINE void with_activation(const Activation& a, F use) {
  switch (a.kind) {
    case ActivationKind::kNone:
      return use(Same{});
    case ActivationKind::kClamp:
      return use(Clamped{constant(a.alpha), constant(a.beta)});
    case ActivationKind::kLeakyRelu:
    case ActivationKind::kPrelu:
      return use(LeakyRelu{constant(a.alpha)});
    case ActivationKind::kSigmoid:
      return use(Sigmoid{});
    case ActivationKind::kSilu:
      return use(Silu{});
    case ActivationKind::kHardSigmoid:
      return use(HardSigmoid{});
    case ActivationKind::kHardSwish:
      return use(HardSwish{});
    case ActivationKind::kTanh:
      return use(Tanh{});
    case ActivationKind::kGelu:
      return use(Gelu{});
    case ActivationKind::kGeluTanh:
      return use(GeluTanh{});
    case ActivationKind::kElu:
      return use(Elu{constant(a.alpha)});
  }
}

void activate(const ActivateArgs& args) noexcept {
  with_activation(args.activation, [&](auto f) PCONV_INLINE_LAMBDA { map(args.x, args.y, args.n, f); });
}

struct Added {
  PCONV_INLINE Reg operator()(Reg a, Reg b) const { return Vec::add(a, b); }
};
struct Subtracted {
  PCONV_INLINE Reg operator()(Reg a, Reg b) const { return Vec::sub(a, b); }
};
struct Multiplied {
  PCONV_INLINE Reg operator()(Reg a, Reg b) const { return Vec::mul(a, b); }
};

// y[i] = f(a[i * a_step] op b[i * b_step])
template <class Op, class F>
PCONV_INLINE void combine(const BinaryArgs& args, int64_t begin, int64_t end, Op op, F f) {
  if (args.a_step == 0) {
    const Reg a = constant(args.a[0]);
    return map(args.b + begin * args.b_step, args.y + begin, end - begin,
               [&](Reg b) PCONV_INLINE_LAMBDA { return f(op(a, b)); });
  }
  if (args.b_step == 0) {
    const Reg b = constant(args.b[0]);
    return map(args.a + begin, args.y + begin, end - begin, [&](Reg a) PCONV_INLINE_LAMBDA { return f(op(a, b)); });
  }
  int64_t i = begin;
  for (; i + Vec::kLanes <= end; i += Vec::kLanes) {
    Vec::store_unaligned(args.y + i, f(op(Vec::load_unaligned(args.a + i), Vec::load_unaligned(args.b + i))));
  }
  if (i == end) return;
  const Vec::Lanes lanes = Vec::lanes(0, static_cast<int>(end - i));
  Vec::store_lanes(args.y + i, f(op(Vec::load_lanes(args.a + i, lanes), Vec::load_lanes(args.b + i, lanes))), lanes);
}

// Only the cheap activations go into the loop; others follow block by block, while it lies in L1.
constexpr int64_t kBinaryBlock = 2048;

template <class Op>
PCONV_INLINE void binary(const BinaryArgs& args, Op op) {
  const Activation& a = args.activation;
  if (a.kind == ActivationKind::kNone) return combine(args, 0, args.n, op, Same{});
  if (a.kind == ActivationKind::kClamp) {
    return combine(args, 0, args.n, op, Clamped{constant(a.alpha), constant(a.beta)});
  }
  for (int64_t begin = 0; begin < args.n; begin += kBinaryBlock) {
    const int64_t end = args.n - begin < kBinaryBlock ? args.n : begin + kBinaryBlock;
    combine(args, begin, end, op, Same{});
    activate({args.y + begin, args.y + begin, end - begin, a});
  }
}

void binary(const BinaryArgs& args) noexcept {
  switch (args.kind) {
    case BinaryKind::kAdd:
      return binary(args, Added{});
    case BinaryKind::kSub:
      return binary(args, Subtracted{});
    case BinaryKind::kMul:
      return binary(args, Multiplied{});
  }
}
