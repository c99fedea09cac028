// Vector vocabulary of AVX2 with FMA: 8 fp32 lanes, 16 registers.
#ifndef PCONV_KERNELS_SIMD_AVX2_H_
#define PCONV_KERNELS_SIMD_AVX2_H_

#include <immintrin.h>

#include "kernels/ukernel.h"

namespace pconv {
namespace avx2 {
namespace {

struct Vec {
  using Reg = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kPeakSums = 12;  // independent sums that fill both FMA pipes and fit the registers

  static constexpr bool kFewRegisters = true;  // 12 sums leave room for one or two weights and an input
  static constexpr bool kPrefetch = true;
  static constexpr bool kInPairs = false;  // see neon.h
  // What an input vector and a kernel cost beside their multiply-adds: fitted so that the plan takes the tile that
  // measured best on the VGG-16 shapes.
  // Starting a run: assumed to be near AVX-512's.
  static constexpr double kLoadCostL1 = 0.7, kLoadCostL2 = 0.8, kKernelCost = 32.0, kRunCost = 10.0;
  static constexpr double kSharingCost = 1.1;  // see IsaTable; dense layers, docs/PERFORMANCE.md

  static PCONV_INLINE Reg zero() { return _mm256_setzero_ps(); }
  static PCONV_INLINE Reg broadcast(float x) { return _mm256_set1_ps(x); }
  static PCONV_INLINE Reg load(const float* p) { return _mm256_load_ps(p); }
  static PCONV_INLINE Reg load_unaligned(const float* p) { return _mm256_loadu_ps(p); }
  // Loaded once, where the compiler would read memory again with every use.
  static PCONV_INLINE void keep(Reg& v) { asm("" : "+x"(v)); }
  static PCONV_INLINE void store(float* p, Reg v) { _mm256_store_ps(p, v); }
  static PCONV_INLINE void store_unaligned(float* p, Reg v) { _mm256_storeu_ps(p, v); }
  // The last lanes of a vector in as few bytes as one store without shuffling allows; load_last brings them back there.
  static constexpr int kLastLanes = 4;
  static PCONV_INLINE void store_last(float* p, Reg v) { _mm_store_ps(p, _mm256_extractf128_ps(v, 1)); }
  static PCONV_INLINE Reg load_last(const float* p) {
    const __m128 last = _mm_load_ps(p);
    return _mm256_set_m128(last, last);
  }
  static PCONV_INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static PCONV_INLINE Reg fma(Reg a, Reg b, Reg sum) { return _mm256_fmadd_ps(a, b, sum); }
  // NaN in x passes: the x86 max and min return their second operand when either is NaN.
  static PCONV_INLINE Reg at_least(Reg x, Reg lo) { return _mm256_max_ps(lo, x); }
  static PCONV_INLINE Reg clamp(Reg x, Reg lo, Reg hi) { return _mm256_min_ps(hi, at_least(x, lo)); }
  // NaN where either is: max alone loses one in its first operand.
  static PCONV_INLINE Reg maximum(Reg a, Reg b) {
    return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }

  // Elementwise results (elementwise.inl) have the same bits on every ISA: these are rounded once, nothing else is.
  static PCONV_INLINE Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static PCONV_INLINE Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static PCONV_INLINE Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static PCONV_INLINE Reg fused(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }  // a * b + c
  // x < lo ? lo : x, and x > hi ? hi : x.
  static PCONV_INLINE Reg raise(Reg x, Reg lo) { return _mm256_max_ps(lo, x); }
  static PCONV_INLINE Reg lower(Reg x, Reg hi) { return _mm256_min_ps(hi, x); }
  using Mask = __m256;
  static PCONV_INLINE Mask less(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static PCONV_INLINE Reg select(Mask mask, Reg yes, Reg no) { return _mm256_blendv_ps(no, yes, mask); }
  static PCONV_INLINE Reg magnitude(Reg x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static PCONV_INLINE Reg sign(Reg x) { return _mm256_and_ps(_mm256_set1_ps(-0.0f), x); }
  static PCONV_INLINE Reg with_sign(Reg magnitude, Reg sign) { return _mm256_or_ps(magnitude, sign); }
  // 2^n of n + kRoundingShift (elementwise.inl), for whole n from -126 to 127.
  static PCONV_INLINE Reg power_of_two(Reg shifted) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_castps_si256(_mm256_set1_ps(1.0f))));
  }

  static PCONV_INLINE float sum_lanes(Reg v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static PCONV_INLINE Reg gather(const float* p, const int32_t* indices) {
    return _mm256_i32gather_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices)), sizeof(float));
  }

  static constexpr bool kSumsFours = false;  // see scatter.inl
  // Lanes [begin, end) of a vector; both may lie outside it.
  using Lanes = __m256i;
  static PCONV_INLINE Lanes lanes(int begin, int end) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(begin), lane),
                               _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
  }
  // Which lanes' bits are set; loads are masked cheaply enough to read images in place (dwdirect.inl, taps.inl).
  static constexpr bool kMasksLoads = true;
  static PCONV_INLINE Lanes lanes_of(uint16_t bits) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi16(static_cast<int16_t>(bits)), bit), bit);
  }
  // v with one lane zero, unless `lane` lies outside.
  static PCONV_INLINE Reg clear_lane(Reg v, int lane) {
    return _mm256_andnot_ps(_mm256_castsi256_ps(lanes(lane, lane + 1)), v);
  }
  // The other lanes are zero and their memory is not touched.
  static PCONV_INLINE Reg load_lanes(const float* p, Lanes lanes) { return _mm256_maskload_ps(p, lanes); }
  static PCONV_INLINE void store_lanes(float* p, Reg v, Lanes lanes) { _mm256_maskstore_ps(p, lanes, v); }

  // Lane i takes lane i-1 of v, lane 0 the last lane of `below`.
  static PCONV_INLINE Reg shift_up(Reg v, Reg below) { return align<12>(v, _mm256_permute2f128_ps(below, v, 0x21)); }
  // Lane i takes lane i+1 of v, the last lane the first of `above`.
  static PCONV_INLINE Reg shift_down(Reg v, Reg above) { return align<4>(_mm256_permute2f128_ps(v, above, 0x21), v); }
  static PCONV_INLINE float first(Reg v) { return _mm256_cvtss_f32(v); }

  static constexpr bool kPicksLanes = false;  // of two vectors, by index
  // Lanes 0, 2, 4, ... and 1, 3, 5, ... of two vectors side by side.
  static PCONV_INLINE void deinterleave(Reg low, Reg high, Reg* even, Reg* odd) {
    const __m256 evens = _mm256_shuffle_ps(low, high, 0x88), odds = _mm256_shuffle_ps(low, high, 0xdd);
    *even = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(evens), 0xd8));
    *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(odds), 0xd8));
  }

  template <int kCount>
  struct Weights {
    Reg w[kCount];
    PCONV_INLINE explicit Weights(const float* p) {
      for (int i = 0; i < kCount; ++i) w[i] = _mm256_set1_ps(p[i]);
    }
    // sum + weight k * v
    template <int k>
    PCONV_INLINE Reg multiply_add(Reg sum, Reg v) const {
      return _mm256_fmadd_ps(w[k], v, sum);
    }
  };

 private:
  template <int kBytes>
  static PCONV_INLINE Reg align(Reg high, Reg low) {
    return _mm256_castsi256_ps(_mm256_alignr_epi8(_mm256_castps_si256(high), _mm256_castps_si256(low), kBytes));
  }
};

}  // namespace
}  // namespace avx2
}  // namespace pconv
#endif  // PCONV_KERNELS_SIMD_AVX2_H_
