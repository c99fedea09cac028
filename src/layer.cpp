// Reading the parts of a packed layer.
#include "layer.h"

#include <cstring>

namespace pconv {
namespace {

float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 31, fraction = half & 0x3ff;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | (fraction << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (fraction << 13);
  } else {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // denormal or zero, exact
    std::memcpy(&bits, &magnitude, sizeof(bits));
    bits |= sign;
  }
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace

float PackedView::weight(uint64_t index) const {
  if (header.weight_type == PCONV_PACKED_FP16) return half_to_float(static_cast<const uint16_t*>(weights)[index]);
  return static_cast<const float*>(weights)[index];
}

pconv_conv_desc desc_of(const pconv_packed_header& h) {
  return {h.out_channels, h.in_channels, h.groups,  h.kernel_h, h.kernel_w,   h.stride_h, h.stride_w,
          h.dilation_h,   h.dilation_w,  h.pad_top, h.pad_left, h.pad_bottom, h.pad_right};
}

int64_t Prepacked::bytes() const {
  return static_cast<int64_t>(weights.size() * sizeof(float) + offsets.size() * sizeof(int32_t) +
                              runs.size() * sizeof(Run) + filters.size() * sizeof(FilterProgram) +
                              cost_before.size() * sizeof(int64_t) + planes.size() * sizeof(Plane) +
                              plane_begin.size() * sizeof(int64_t) + scatter_runs.size() * sizeof(ScatterRun) +
                              scatter.size() * sizeof(ScatterProgram) + depthwise_taps.size() * sizeof(DepthwiseTap) +
                              depthwise.size() * sizeof(DepthwiseFilter));
}

}  // namespace pconv
