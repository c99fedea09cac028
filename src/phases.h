// Sizes of image rows that are split into phases (kernels/split_row.inl).
#ifndef PCONV_PHASES_H_
#define PCONV_PHASES_H_

#include "checked.h"
#include "pconv/pconv.h"

namespace pconv {

// Floats of one phase of a padded row.
inline CheckedSize phase_floats(const pconv_conv_desc& c, int64_t out_w, int64_t lanes) {
  return (checked(out_w) + checked((c.kernel_w - 1) * c.dilation_w / c.stride_w))
      .round_up(static_cast<uint64_t>(lanes));
}

// Bytes of all phases of the rows that out_rows output rows read.
inline CheckedSize phase_bytes(const pconv_conv_desc& c, int64_t out_w, int64_t out_rows, int64_t lanes) {
  const CheckedSize rows =
      checked(out_rows - 1) * checked(c.stride_h) + checked(c.kernel_h - 1) * checked(c.dilation_h) + checked(1);
  return rows * checked(c.stride_w) * phase_floats(c, out_w, lanes) * checked(sizeof(float));
}

}  // namespace pconv
#endif  // PCONV_PHASES_H_
