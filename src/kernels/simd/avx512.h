// Vector vocabulary of AVX-512: 16 fp32 lanes, weights broadcast to one register each.
#ifndef PCONV_KERNELS_SIMD_AVX512_H_
#define PCONV_KERNELS_SIMD_AVX512_H_

// GCC 12's own _mm512_undefined_ps() trips its -Wmaybe-uninitialized when inlined (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "kernels/ukernel.h"

namespace pconv {
namespace avx512 {
namespace {

struct Vec {
  using Reg = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kPeakSums = 24;  // independent sums that fill both FMA pipes and fit the registers

  // Measured: 64 channels at 224x224 5.5 -> 3.6 ms, docs/PERFORMANCE.md.
  static constexpr bool kPrefetch = true;
  static constexpr bool kFewRegisters = false;  // see avx2.h
  static constexpr bool kInPairs = false;       // see neon.h
  // What an input vector and a kernel cost beside their multiply-adds: fitted so that the plan takes the tile that
  // measured best on the VGG-16 shapes.
  // Starting a run: fitted by trying 0 to 48.
  static constexpr double kLoadCostL1 = 0.7, kLoadCostL2 = 1.0, kKernelCost = 0.0, kRunCost = 12.0;
  static constexpr double kSharingCost = 1.1;  // see IsaTable; dense layers, docs/PERFORMANCE.md

  static PCONV_INLINE Reg zero() { return _mm512_setzero_ps(); }
  static PCONV_INLINE Reg broadcast(float x) { return _mm512_set1_ps(x); }
  static PCONV_INLINE Reg load(const float* p) { return _mm512_load_ps(p); }
  static PCONV_INLINE Reg load_unaligned(const float* p) { return _mm512_loadu_ps(p); }
  static PCONV_INLINE void keep(Reg&) {}  // see avx2.h
  static PCONV_INLINE void store(float* p, Reg v) { _mm512_store_ps(p, v); }
  static PCONV_INLINE void store_unaligned(float* p, Reg v) { _mm512_storeu_ps(p, v); }
  // The last lanes of a vector in as few bytes as one store without shuffling allows; load_last brings them back there.
  static constexpr int kLastLanes = 4;
  static PCONV_INLINE void store_last(float* p, Reg v) { _mm_store_ps(p, _mm512_extractf32x4_ps(v, 3)); }
  static PCONV_INLINE Reg load_last(const float* p) { return _mm512_broadcast_f32x4(_mm_load_ps(p)); }
  static PCONV_INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static PCONV_INLINE Reg fma(Reg a, Reg b, Reg sum) { return _mm512_fmadd_ps(a, b, sum); }
  // NaN in x passes: the x86 max and min return their second operand when either is NaN.
  static PCONV_INLINE Reg at_least(Reg x, Reg lo) { return _mm512_max_ps(lo, x); }
  static PCONV_INLINE Reg clamp(Reg x, Reg lo, Reg hi) { return _mm512_min_ps(hi, at_least(x, lo)); }
  // NaN where either is: max alone loses one in its first operand.
  static PCONV_INLINE Reg maximum(Reg a, Reg b) {
    return _mm512_mask_max_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a, b);
  }

  // Elementwise results (elementwise.inl) have the same bits on every ISA: these are rounded once, nothing else is.
  static PCONV_INLINE Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static PCONV_INLINE Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static PCONV_INLINE Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static PCONV_INLINE Reg fused(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
  // x < lo ? lo : x, and x > hi ? hi : x.
  static PCONV_INLINE Reg raise(Reg x, Reg lo) { return _mm512_max_ps(lo, x); }
  static PCONV_INLINE Reg lower(Reg x, Reg hi) { return _mm512_min_ps(hi, x); }
  using Mask = __mmask16;
  static PCONV_INLINE Mask less(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static PCONV_INLINE Reg select(Mask mask, Reg yes, Reg no) { return _mm512_mask_blend_ps(mask, no, yes); }
  static PCONV_INLINE Reg magnitude(Reg x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }
  static PCONV_INLINE Reg sign(Reg x) { return _mm512_and_ps(_mm512_set1_ps(-0.0f), x); }
  static PCONV_INLINE Reg with_sign(Reg magnitude, Reg sign) { return _mm512_or_ps(magnitude, sign); }
  // 2^n of n + kRoundingShift (elementwise.inl), for whole n from -126 to 127.
  static PCONV_INLINE Reg power_of_two(Reg shifted) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_castps_si512(_mm512_set1_ps(1.0f))));
  }

  static PCONV_INLINE float sum_lanes(Reg v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static PCONV_INLINE Reg gather(const float* p, const int32_t* indices) {
    return _mm512_i32gather_ps(_mm512_loadu_si512(indices), p, sizeof(float));
  }

  // Lanes [begin, end) of a vector; both may lie outside it.
  using Lanes = __mmask16;
  static PCONV_INLINE Lanes lanes(int begin, int end) {
    begin = begin > 0 ? begin : 0;
    end = end < kLanes ? end : kLanes;
    return end <= begin ? 0 : static_cast<Lanes>((0xffffu >> (kLanes - (end - begin))) << begin);
  }
  // Which lanes' bits are set; loads are masked cheaply enough to read images in place (dwdirect.inl, taps.inl).
  static constexpr bool kMasksLoads = true;
  static PCONV_INLINE Lanes lanes_of(uint16_t bits) { return bits; }
  // sum + a * b in these lanes, elsewhere sum.
  static PCONV_INLINE Reg fma_lanes(Reg a, Reg b, Reg sum, Lanes lanes) {
    return _mm512_mask3_fmadd_ps(a, b, sum, lanes);
  }
  // v with one lane zero, unless `lane` lies outside.
  static PCONV_INLINE Reg clear_lane(Reg v, int lane) {
    return _mm512_maskz_mov_ps(static_cast<Lanes>(~lanes(lane, lane + 1)), v);
  }
  // The other lanes are zero and their memory is not touched.
  static PCONV_INLINE Reg load_lanes(const float* p, Lanes lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
  static PCONV_INLINE void store_lanes(float* p, Reg v, Lanes lanes) { _mm512_mask_storeu_ps(p, lanes, v); }

  // Lane i takes lane i-1 of v, lane 0 the last lane of `below`.
  static PCONV_INLINE Reg shift_up(Reg v, Reg below) { return align<15>(v, below); }
  // Lane i takes lane i+1 of v, the last lane the first of `above`.
  static PCONV_INLINE Reg shift_down(Reg v, Reg above) { return align<1>(above, v); }
  static PCONV_INLINE float first(Reg v) { return _mm512_cvtss_f32(v); }

  // Whole maps in a few vectors (map3x3.inl, tiny3x3.inl), every other input (dwdirect.inl).
  static constexpr bool kPicksLanes = true;
  using Index = __m512i;
  // Lane i of permute_lanes(low, lane_index(n), high, lanes) is lane n + i of the two side by side, 0 <= n <= kLanes,
  // where `lanes` has it, else 0.
  static PCONV_INLINE Index lane_index(int n) {
    return _mm512_add_epi32(_mm512_set1_epi32(n),
                            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  }
  static PCONV_INLINE Reg permute_lanes(Reg low, Index index, Reg high, Lanes lanes) {
    return _mm512_maskz_permutex2var_ps(lanes, low, index, high);
  }

  static PCONV_INLINE Index load_index(const int32_t* p) { return _mm512_loadu_si512(p); }
  static PCONV_INLINE Reg permute(Reg low, Index index, Reg high) { return _mm512_permutex2var_ps(low, index, high); }
  static PCONV_INLINE Index select(Index a, Index b, Lanes b_lanes) { return _mm512_mask_mov_epi32(a, b_lanes, b); }
  // Four floats, again and again; lane i / 4 in lane i; lane 4 * i in lane i; the sum of its four in each lane.
  static PCONV_INLINE Reg repeat4(const float* p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
  static PCONV_INLINE Reg each4(Reg v) { return _mm512_permutexvar_ps(_mm512_srli_epi32(lane_index(0), 2), v); }
  static PCONV_INLINE Reg every4th(Reg v) { return _mm512_permutexvar_ps(_mm512_slli_epi32(lane_index(0), 2), v); }
  static PCONV_INLINE Reg add_fours(Reg v) {
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0xb1));
    return _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e));
  }

  // Vectors of four floats, for a lone output (scatter.inl). The multiply-add is a whole vector's: that of __m128 would
  // need the FMA extension, which AVX-512 does not imply.
  static constexpr bool kSumsFours = true;
  using Four = __m128;
  static PCONV_INLINE Four load_four(const float* p) { return _mm_loadu_ps(p); }
  static PCONV_INLINE void store_four(float* p, Four v) { _mm_storeu_ps(p, v); }
  static PCONV_INLINE Four fma_four(Four a, Four b, Four sum) {
    return _mm512_castps512_ps128(
        _mm512_fmadd_ps(_mm512_zextps128_ps512(a), _mm512_zextps128_ps512(b), _mm512_zextps128_ps512(sum)));
  }

  // Lanes 0, 2, 4, ... and 1, 3, 5, ... of two vectors side by side.
  static PCONV_INLINE void deinterleave(Reg low, Reg high, Reg* even, Reg* odd) {
    const __m512i lane = lane_index(0), twice = _mm512_add_epi32(lane, lane);
    *even = _mm512_permutex2var_ps(low, twice, high);
    *odd = _mm512_permutex2var_ps(low, _mm512_add_epi32(twice, _mm512_set1_epi32(1)), high);
  }

  template <int kCount>
  struct Weights {
    Reg w[kCount];
    PCONV_INLINE explicit Weights(const float* p) {
      for (int i = 0; i < kCount; ++i) w[i] = _mm512_set1_ps(p[i]);
    }
    // sum + weight k * v
    template <int k>
    PCONV_INLINE Reg multiply_add(Reg sum, Reg v) const {
      return _mm512_fmadd_ps(w[k], v, sum);
    }
  };

 private:
  template <int kShift>
  static PCONV_INLINE Reg align(Reg high, Reg low) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(high), _mm512_castps_si512(low), kShift));
  }
};

}  // namespace
}  // namespace avx512
}  // namespace pconv
#endif  // PCONV_KERNELS_SIMD_AVX512_H_
