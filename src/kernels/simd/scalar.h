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
  static constexpr bool kInPairs = false;  // see neon.h
  static constexpr double kLoadCostL1 = 0.0, kLoadCostL2 = 0.0, kKernelCost = 0.0, kRunCost = 0.0;

  static PCONV_INLINE Reg zero() { return 0.0f; }
  static PCONV_INLINE Reg broadcast(float x) { return x; }
  static PCONV_INLINE Reg load(const float* p) { return *p; }
  static PCONV_INLINE Reg load_unaligned(const float* p) { return *p; }
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
