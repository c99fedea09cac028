// Vector vocabulary of plain C++: one lane. Runs everywhere and is the second witness of the other ISAs in tests.
#ifndef PCONV_KERNELS_SIMD_SCALAR_H_
#define PCONV_KERNELS_SIMD_SCALAR_H_

#include "kernels/ukernel.h"

namespace pconv {
namespace scalar {
namespace {

struct Vec {
  using Reg = float;
  static constexpr int kLanes = 1;
  static constexpr bool kSumsFours = false;  // see scatter.inl
  static constexpr bool kMasksLoads = false, kPicksLanes = false;
  static constexpr int kPeakSums = 12;  // independent sums that fill the FP pipes and fit 16 registers

  static constexpr bool kPrefetch = false;
  static constexpr bool kFewRegisters = false;  // see avx2.h
  static constexpr bool kInPairs = false;       // see neon.h
  static constexpr double kLoadCostL1 = 0.0, kLoadCostL2 = 0.0, kKernelCost = 0.0, kRunCost = 0.0;
  static constexpr double kSharingCost = 1.1;  // see IsaTable; dense layers, docs/PERFORMANCE.md

  static PCONV_INLINE Reg zero() { return 0.0f; }
  static PCONV_INLINE Reg broadcast(float x) { return x; }
  static PCONV_INLINE Reg load(const float* p) { return *p; }
  static PCONV_INLINE Reg load_unaligned(const float* p) { return *p; }
  static PCONV_INLINE void keep(Reg&) {}  // see avx2.h
  static PCONV_INLINE void store(float* p, Reg v) { *p = v; }
  static PCONV_INLINE void store_unaligned(float* p, Reg v) { *p = v; }
  static constexpr int kLastLanes = 1;
  static PCONV_INLINE void store_last(float* p, Reg v) { *p = v; }
  static PCONV_INLINE Reg load_last(const float* p) { return *p; }
  static PCONV_INLINE Reg add(Reg a, Reg b) { return a + b; }
  static PCONV_INLINE Reg fma(Reg a, Reg b, Reg sum) { return sum + a * b; }
  // NaN in x passes: both comparisons are false.
  static PCONV_INLINE Reg at_least(Reg x, Reg lo) { return x < lo ? lo : x; }
  static PCONV_INLINE Reg clamp(Reg x, Reg lo, Reg hi) {
    x = at_least(x, lo);
    return x > hi ? hi : x;
  }
  // NaN where either is.
  static PCONV_INLINE Reg maximum(Reg a, Reg b) { return b > a || b != b ? b : a; }

  // Elementwise results (elementwise.inl) have the same bits on every ISA: these are rounded once, nothing else is.
  static PCONV_INLINE Reg sub(Reg a, Reg b) { return a - b; }
  static PCONV_INLINE Reg mul(Reg a, Reg b) { return a * b; }
  static PCONV_INLINE Reg div(Reg a, Reg b) { return a / b; }
  // a * b + c. Without an instruction for it: the sum of the exact product in double, rounded to odd, so that rounding
  // it again to float gives what one rounding would (Boldo and Melquiond, 2008).
  static PCONV_INLINE Reg fused(Reg a, Reg b, Reg c) {
#ifdef __FP_FAST_FMAF
    return __builtin_fmaf(a, b, c);
#else
    const double product = static_cast<double>(a) * static_cast<double>(b), added = static_cast<double>(c);
    double sum = product + added;
    const double kept = sum - product, lost = (product - (sum - kept)) + (added - kept);
    if (lost < 0 || lost > 0) {  // neither where the sum is exact nor where it is no number
      int64_t bits;
      __builtin_memcpy(&bits, &sum, sizeof bits);
      if (bits % 2 == 0) bits += (lost > 0) == (sum > 0) ? 1 : -1;
      __builtin_memcpy(&sum, &bits, sizeof bits);
    }
    return static_cast<float>(sum);
#endif
  }
  // x < lo ? lo : x, and x > hi ? hi : x.
  static PCONV_INLINE Reg raise(Reg x, Reg lo) { return x < lo ? lo : x; }
  static PCONV_INLINE Reg lower(Reg x, Reg hi) { return x > hi ? hi : x; }
  using Mask = bool;
  static PCONV_INLINE Mask less(Reg a, Reg b) { return a < b; }
  static PCONV_INLINE Reg select(Mask mask, Reg yes, Reg no) { return mask ? yes : no; }
  static PCONV_INLINE Reg magnitude(Reg x) { return __builtin_fabsf(x); }
  static PCONV_INLINE Reg sign(Reg x) { return __builtin_copysignf(0.0f, x); }
  static PCONV_INLINE Reg with_sign(Reg magnitude, Reg sign) { return __builtin_copysignf(magnitude, sign); }
  // 2^n of n + kRoundingShift (elementwise.inl), for whole n from -126 to 127.
  static PCONV_INLINE Reg power_of_two(Reg shifted) {
    const float one = 1.0f;
    uint32_t bits, bits_of_one;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    __builtin_memcpy(&bits_of_one, &one, sizeof bits_of_one);
    bits = (bits << 23) + bits_of_one;
    float power;
    __builtin_memcpy(&power, &bits, sizeof power);
    return power;
  }

  static PCONV_INLINE float sum_lanes(Reg v) { return v; }
  static PCONV_INLINE Reg gather(const float* p, const int32_t* index) { return p[*index]; }

  using Lanes = bool;
  static PCONV_INLINE Lanes lanes(int begin, int end) { return begin <= 0 && end > 0; }
  static PCONV_INLINE Reg clear_lane(Reg v, int lane) { return lane == 0 ? 0.0f : v; }
  static PCONV_INLINE Reg load_lanes(const float* p, Lanes lanes) { return lanes ? *p : 0.0f; }
  static PCONV_INLINE void store_lanes(float* p, Reg v, Lanes lanes) {
    if (lanes) *p = v;
  }

  static PCONV_INLINE Reg shift_up(Reg, Reg below) { return below; }
  static PCONV_INLINE Reg shift_down(Reg, Reg above) { return above; }
  static PCONV_INLINE float first(Reg v) { return v; }

  static PCONV_INLINE void deinterleave(Reg low, Reg high, Reg* even, Reg* odd) { *even = low, *odd = high; }

  template <int kCount>
  struct Weights {
    const float* w;
    PCONV_INLINE explicit Weights(const float* p) : w(p) {}
    template <int k>
    PCONV_INLINE Reg multiply_add(Reg sum, Reg v) const {
      return sum + w[k] * v;
    }
  };
};

}  // namespace
}  // namespace scalar
}  // namespace pconv
#endif  // PCONV_KERNELS_SIMD_SCALAR_H_
