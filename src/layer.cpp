// Reading the parts of a packed layer.
#include "layer.h"

#include "half.h"

namespace pconv {

float PackedView::weight(uint64_t index) const {
  if (header.weight_type == PCONV_PACKED_FP16) return half_to_float(static_cast<const uint16_t*>(weights)[index]);
  return static_cast<const float*>(weights)[index];
}

pconv_conv_desc desc_of(const pconv_packed_header& h) {
  return {h.out_channels, h.in_channels, h.groups,  h.kernel_h, h.kernel_w,   h.stride_h, h.stride_w,
          h.dilation_h,   h.dilation_w,  h.pad_top, h.pad_left, h.pad_bottom, h.pad_right};
}

int64_t Prepacked::bytes() const {
  return static_cast<int64_t>(
      weights.size() * sizeof(float) + offsets.size() * sizeof(int32_t) + channels.size() * sizeof(uint16_t) +
      runs.size() * sizeof(Run) + filters.size() * sizeof(FilterProgram) + cost_before.size() * sizeof(int64_t) +
      planes.size() * sizeof(Plane) + plane_begin.size() * sizeof(int64_t) + scatter_runs.size() * sizeof(ScatterRun) +
      scatter.size() * sizeof(ScatterProgram) + depthwise_taps.size() * sizeof(DepthwiseTap) +
      depthwise.size() * sizeof(DepthwiseFilter));
}

}  // namespace pconv
