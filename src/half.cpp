#include "half.h"

#include <cstring>

namespace pconv {
namespace {

template <typename To, typename From>
To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

}  // namespace

float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 31, fraction = half & 0x3ff;
  if (exponent == 31) return bits_of<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0) return bits_of<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // denormal or zero, exact
  return bits_of<float>(sign | bits_of<uint32_t>(magnitude));
}

uint16_t float_to_half(float value) {
  const auto bits = bits_of<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {  // NaN: the upper bits of its payload, which must not all be 0
    const uint32_t payload = (magnitude >> 13) & 0x3ff;
    return static_cast<uint16_t>(sign | 0x7c00u | (payload != 0 ? payload : 0x200u));
  }
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above
  // Denormal halves are multiples of 2^-24: adding 0.5, whose last bit is that, rounds to them.
  if (magnitude < 0x38800000u) {
    return static_cast<uint16_t>(sign | (bits_of<uint32_t>(bits_of<float>(magnitude) + 0.5f) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

}  // namespace pconv
