// IEEE binary16, as weights are stored.
#ifndef PCONV_HALF_H_
#define PCONV_HALF_H_

#include <cstdint>

namespace pconv {

constexpr float kLargestHalf = 65504.0f;

float half_to_float(uint16_t half);
// The nearest, ties to even; beyond 65504 infinite where the nearest would be; NaN stays NaN. What half_to_float gave
// comes back bit for bit.
uint16_t float_to_half(float value);

}  // namespace pconv
#endif  // PCONV_HALF_H_
