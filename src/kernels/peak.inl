// Multiply-adds on independent registers: the ISA's FMA peak, which benches divide by. Included by isa.cpp.

double peak(int64_t iterations, float* sink) noexcept {
  Vec::Reg sum[Vec::kPeakSums];
  for (auto& s : sum) s = Vec::broadcast(1.0f);
  Vec::Reg a = Vec::broadcast(sink[0]), b = Vec::broadcast(sink[1]);
  for (int64_t i = 0; i < iterations; ++i) {
    for (auto& s : sum) s = Vec::fma(a, b, s);
    asm volatile("" ::: "memory");  // keeps the loop: the compiler may not fold rounds into one another
  }
  Vec::Reg total = Vec::zero();
  for (auto& s : sum) total = Vec::add(total, s);
  sink[2] = Vec::first(total);
  return 2.0 * Vec::kLanes * Vec::kPeakSums * static_cast<double>(iterations);
}
