// Vector vocabulary of NEON (aarch64): 4 fp32 lanes, weights four to a register, used by lane.
#ifndef PCONV_KERNELS_SIMD_NEON_H_
#define PCONV_KERNELS_SIMD_NEON_H_

#include <arm_neon.h>

#include "kernels/ukernel.h"

namespace pconv {
namespace neon {
namespace {

struct Vec {
  using Reg = float32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kPeakSums = 24;  // independent sums that fill the FP pipes and fit the registers

  // Nobody has measured prefetching on a NEON core yet; it would cost 3 % more instructions.
  static constexpr bool kPrefetch = false;
  // Loads bound the sums where taps share few of them (conv3x3s2.inl): two by one instruction, four kernels a turn; so
  // do instructions where blocks share them (taps.inl).
  static constexpr bool kFewRegisters = false;  // see avx2.h
  static constexpr bool kInPairs = true;
  // What an input vector and a kernel cost beside their multiply-adds: two loads and two FMLA a cycle on the
  // Cortex-A76, one instruction for two loads. Judged by instruction counts, nobody has timed it.
  // Starting a run: its instructions.
  static constexpr double kLoadCostL1 = 0.25, kLoadCostL2 = 0.25, kKernelCost = 0.0, kRunCost = 13.0;
  static constexpr double kSharingCost = 1.04;  // see IsaTable; dense layers, docs/PERFORMANCE.md

  static PCONV_INLINE Reg zero() { return vdupq_n_f32(0.0f); }
  static PCONV_INLINE Reg broadcast(float x) { return vdupq_n_f32(x); }
  static PCONV_INLINE Reg load(const float* p) { return vld1q_f32(p); }
  static PCONV_INLINE Reg load_unaligned(const float* p) { return vld1q_f32(p); }
  static PCONV_INLINE void keep(Reg&) {}  // see avx2.h
  static PCONV_INLINE void store(float* p, Reg v) { vst1q_f32(p, v); }
  static PCONV_INLINE void store_unaligned(float* p, Reg v) { vst1q_f32(p, v); }
  // The last lanes of a vector in as few bytes as one store without shuffling allows; load_last brings them back there.
  static constexpr int kLastLanes = 4;
  static PCONV_INLINE void store_last(float* p, Reg v) { vst1q_f32(p, v); }
  static PCONV_INLINE Reg load_last(const float* p) { return vld1q_f32(p); }
  static PCONV_INLINE Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static PCONV_INLINE Reg fma(Reg a, Reg b, Reg sum) { return vfmaq_f32(sum, a, b); }
  // FMAX and FMIN return NaN when either operand is NaN.
  static PCONV_INLINE Reg at_least(Reg x, Reg lo) { return vmaxq_f32(x, lo); }
  static PCONV_INLINE Reg clamp(Reg x, Reg lo, Reg hi) { return vminq_f32(at_least(x, lo), hi); }
  static PCONV_INLINE Reg maximum(Reg a, Reg b) { return vmaxq_f32(a, b); }  // NaN where either is

  // Elementwise results (elementwise.inl) have the same bits on every ISA: these are rounded once, nothing else is.
  static PCONV_INLINE Reg sub(Reg a, Reg b) { return vsubq_f32(a, b); }
  static PCONV_INLINE Reg mul(Reg a, Reg b) { return vmulq_f32(a, b); }
  static PCONV_INLINE Reg div(Reg a, Reg b) { return vdivq_f32(a, b); }
  static PCONV_INLINE Reg fused(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }  // a * b + c
  // x < lo ? lo : x, and x > hi ? hi : x: FMAX would turn the zero of two around.
  static PCONV_INLINE Reg raise(Reg x, Reg lo) { return vbslq_f32(vcltq_f32(x, lo), lo, x); }
  static PCONV_INLINE Reg lower(Reg x, Reg hi) { return vbslq_f32(vcgtq_f32(x, hi), hi, x); }
  using Mask = uint32x4_t;
  static PCONV_INLINE Mask less(Reg a, Reg b) { return vcltq_f32(a, b); }
  static PCONV_INLINE Reg select(Mask mask, Reg yes, Reg no) { return vbslq_f32(mask, yes, no); }
  static PCONV_INLINE Reg magnitude(Reg x) { return vabsq_f32(x); }
  static PCONV_INLINE Reg sign(Reg x) { return with_bits(vandq_u32(bits(x), bits(vdupq_n_f32(-0.0f)))); }
  static PCONV_INLINE Reg with_sign(Reg magnitude, Reg sign) {
    return with_bits(vorrq_u32(bits(magnitude), bits(sign)));
  }
  // 2^n of n + kRoundingShift (elementwise.inl), for whole n from -126 to 127.
  static PCONV_INLINE Reg power_of_two(Reg shifted) {
    return with_bits(vaddq_u32(vshlq_n_u32(bits(shifted), 23), bits(vdupq_n_f32(1.0f))));
  }

  static PCONV_INLINE float sum_lanes(Reg v) { return vaddvq_f32(v); }
  static PCONV_INLINE Reg gather(const float* p, const int32_t* indices) {
    const float four[kLanes] = {p[indices[0]], p[indices[1]], p[indices[2]], p[indices[3]]};
    return vld1q_f32(four);
  }

  // Lanes [begin, end) of a vector; both may lie outside it.
  struct Lanes {
    int begin, end;
  };
  static PCONV_INLINE Lanes lanes(int begin, int end) { return {begin, end}; }
  static constexpr bool kMasksLoads = false, kPicksLanes = false;
  // v with one lane zero, unless `lane` lies outside.
  static PCONV_INLINE Reg clear_lane(Reg v, int lane) {
    const int32_t numbers[kLanes] = {0, 1, 2, 3};
    const uint32x4_t cleared = vceqq_s32(vld1q_s32(numbers), vdupq_n_s32(lane));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), cleared));
  }
  // The other lanes are zero and their memory is not touched.
  static PCONV_INLINE Reg load_lanes(const float* p, Lanes l) {
    if (l.begin <= 0 && l.end >= kLanes) return vld1q_f32(p);
    Reg v = zero();
    if (l.begin <= 0 && l.end > 0) v = vld1q_lane_f32(p, v, 0);
    if (l.begin <= 1 && l.end > 1) v = vld1q_lane_f32(p + 1, v, 1);
    if (l.begin <= 2 && l.end > 2) v = vld1q_lane_f32(p + 2, v, 2);
    if (l.begin <= 3 && l.end > 3) v = vld1q_lane_f32(p + 3, v, 3);
    return v;
  }
  static PCONV_INLINE void store_lanes(float* p, Reg v, Lanes l) {
    if (l.begin <= 0 && l.end >= kLanes) return vst1q_f32(p, v);
    if (l.begin <= 0 && l.end > 0) vst1q_lane_f32(p, v, 0);
    if (l.begin <= 1 && l.end > 1) vst1q_lane_f32(p + 1, v, 1);
    if (l.begin <= 2 && l.end > 2) vst1q_lane_f32(p + 2, v, 2);
    if (l.begin <= 3 && l.end > 3) vst1q_lane_f32(p + 3, v, 3);
  }

  // Lane i takes lane i-1 of v, lane 0 the last lane of `below`.
  static PCONV_INLINE Reg shift_up(Reg v, Reg below) { return vextq_f32(below, v, 3); }
  // Lane i takes lane i+1 of v, the last lane the first of `above`.
  static PCONV_INLINE Reg shift_down(Reg v, Reg above) { return vextq_f32(v, above, 1); }
  static PCONV_INLINE float first(Reg v) { return vgetq_lane_f32(v, 0); }

  // Lanes 0, 2 and 1, 3 of two vectors side by side.
  static PCONV_INLINE void deinterleave(Reg low, Reg high, Reg* even, Reg* odd) {
    *even = vuzp1q_f32(low, high);
    *odd = vuzp2q_f32(low, high);
  }

  // For loops that loads bound (conv3x3s2.inl, taps.inl): these instructions stay in the order in which they are
  // written, where the compiler parts pairs of loads, moves pointers by instructions of their own and copies sums
  // between registers.

  // Two offsets; the pointer moves behind them.
  static PCONV_INLINE void next_two(const int32_t*& offsets, int64_t* first, int64_t* second) {
    const auto& two = *reinterpret_cast<const int32_t(*)[2]>(offsets);
    __asm__("ldpsw %0, %1, [%2], #8" : "=&r"(*first), "=&r"(*second), "+r"(offsets) : "m"(two));
  }
  // The vectors at p + kAt and behind it; p points to kFloats.
  template <int kAt, int kFloats>
  static PCONV_INLINE void load_two(const float* p, Reg* first, Reg* second) {
    const auto& all = *reinterpret_cast<const float(*)[kFloats]>(p);
    __asm__("ldp %q0, %q1, [%2, %3]" : "=w"(*first), "=w"(*second) : "r"(p), "i"(kAt * sizeof(float)), "m"(all));
  }
  template <int kAt>
  static PCONV_INLINE void store_two(float* p, Reg first, Reg second) {
    auto& two = *reinterpret_cast<float(*)[2 * kLanes]>(p + kAt);
    __asm__("stp %q1, %q2, [%3, %4]" : "=m"(two) : "w"(first), "w"(second), "r"(p), "i"(kAt * sizeof(float)));
  }
  // As Weights; the pointer moves behind them.
  template <int kCount>
  struct OrderedWeights {
    Reg w[weight_pitch(kCount) / 4];
    PCONV_INLINE explicit OrderedWeights(const float*& p) {
      for (Reg& four : w) {
        const auto& from = *reinterpret_cast<const float(*)[4]>(p);
        __asm__("ldr %q0, [%1], #16" : "=w"(four), "+r"(p) : "m"(from));
      }
    }
    template <int k>
    PCONV_INLINE Reg multiply_add(Reg sum, Reg v) const {
      __asm__("fmla %0.4s, %1.4s, %2.s[%3]" : "+w"(sum) : "w"(v), "w"(w[k / 4]), "i"(k % 4));
      return sum;
    }
  };

  template <int kCount>
  struct Weights {
    Reg w[weight_pitch(kCount) / 4];
    PCONV_INLINE explicit Weights(const float* p) {
      for (int i = 0; i < weight_pitch(kCount) / 4; ++i) w[i] = vld1q_f32(p + 4 * i);
    }
    // sum + weight k * v
    template <int k>
    PCONV_INLINE Reg multiply_add(Reg sum, Reg v) const {
      return vfmaq_laneq_f32(sum, v, w[k / 4], k % 4);
    }
  };

 private:
  static PCONV_INLINE uint32x4_t bits(Reg x) { return vreinterpretq_u32_f32(x); }
  static PCONV_INLINE Reg with_bits(uint32x4_t x) { return vreinterpretq_f32_u32(x); }
};

}  // namespace
}  // namespace neon
}  // namespace pconv
#endif  // PCONV_KERNELS_SIMD_NEON_H_
