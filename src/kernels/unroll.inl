// What the bodies unroll with. Included by isa.cpp inside the ISA's unnamed namespace.

template <int... kIndex, class F>
PCONV_INLINE void static_for(std::integer_sequence<int, kIndex...>, F f) {
  (f(std::integral_constant<int, kIndex>{}), ...);
}
// Calls f(integral_constant<int, 0>), ..., f(integral_constant<int, kCount - 1>), unrolled.
template <int kCount, class F>
PCONV_INLINE void static_for(F f) {
  static_for(std::make_integer_sequence<int, kCount>{}, f);
}

// The same value, of which the compiler does not know the origin: it is computed here, and neither merged with others
// nor made part of an address.
template <class T>
PCONV_INLINE T opaque(T x) {
  __asm__("" : "+r"(x));
  return x;
}

// Taps of the mask below tap `end`, so the place of tap `end` among the kept weights.
constexpr int taps_before(uint32_t mask, int end) {
  int n = 0;
  for (int t = 0; t < end; ++t) n += (mask >> t) & 1;
  return n;
}
