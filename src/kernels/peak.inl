// Multiply-adds on independent registers: the ISA's FMA peak, which benches divide by. Included by isa.cpp.

double peak(int64_t iterations, float* values) noexcept {
  static_assert(Vec::kPeakSums + 2 <= kPeakValues, "one value a sum and two factors");
  Vec::Reg sum[Vec::kPeakSums];
  const Vec::Reg a = Vec::broadcast(values[kPeakValues - 2]), b = Vec::broadcast(values[kPeakValues - 1]);
  static_for<Vec::kPeakSums>([&](auto i) PCONV_INLINE_LAMBDA { sum[i] = Vec::broadcast(values[i]); });
  for (int64_t k = 0; k < iterations; ++k) {
    static_for<Vec::kPeakSums>([&](auto i) PCONV_INLINE_LAMBDA { sum[i] = Vec::fma(sum[i], a, b); });
  }
  Vec::Reg total = Vec::zero();
  static_for<Vec::kPeakSums>([&](auto i) PCONV_INLINE_LAMBDA { total = Vec::add(total, sum[i]); });
  values[0] = Vec::first(total);
  return 2.0 * Vec::kLanes * Vec::kPeakSums * static_cast<double>(iterations);
}
