// Checks of arguments, before anything is allocated. The bytes of packed layers are checked in validate_packed.cpp.
#include "validate.h"

#include <cinttypes>
#include <limits>

#include "checked.h"
#include "status.h"

namespace pconv {
namespace {

pconv_status check_range(const char* name, int64_t got, int64_t low, int64_t high) {
  if (got >= low && got <= high) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "%s: got %" PRId64 ", allowed %" PRId64 " to %" PRId64, name, got, low, high);
}

struct Range {
  const char* name;
  int64_t got, low, high;
};

template <size_t kCount>
pconv_status check_ranges(const Range (&ranges)[kCount]) {
  for (const Range& r : ranges) {
    if (const pconv_status s = check_range(r.name, r.got, r.low, r.high)) return s;
  }
  return PCONV_OK;
}

// Bytes of an fp32 tensor n x c x h x w.
CheckedSize tensor_bytes(int64_t n, int64_t c, int64_t h, int64_t w) {
  return checked(n) * checked(c) * checked(h) * checked(w) * checked(sizeof(float));
}

// Output size along one axis.
pconv_status output_size(const char* axis, int64_t in, int64_t pad_a, int64_t pad_b, int64_t kernel, int64_t stride,
                         int64_t dilation, int64_t* out) {
  const int64_t padded = in + pad_a + pad_b;  // each below 2^31
  const int64_t window = dilation * (kernel - 1) + 1;
  if (padded < window) {
    return fail(PCONV_INVALID_ARGUMENT, "%s: the padded input has %" PRId64 ", the kernel needs at least %" PRId64,
                axis, padded, window);
  }
  *out = (padded - window) / stride + 1;
  return PCONV_OK;
}

// `out` windows along one axis: where the last one ends, in inputs behind the first.
pconv_status check_windows(const char* out_name, int64_t in, int64_t out, int64_t pad, int64_t kernel, int64_t stride,
                           int64_t dilation) {
  const int64_t end = (out - 1) * stride + (kernel - 1) * dilation + 1 - pad;  // each product below 2^47
  if (end <= in + 2 * kMaxGeometry) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT,
              "%s: %" PRId64 " windows reach %" PRId64 " behind the input, allowed are %" PRId64, out_name, out,
              end - in, 2 * kMaxGeometry);
}

}  // namespace

bool overlap(const void* a, uint64_t a_bytes, const void* b, uint64_t b_bytes) {
  const auto x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
  return x < y + b_bytes && y < x + a_bytes;
}

pconv_status check_threads(int n_threads) {
  if (n_threads >= 0 && n_threads <= kMaxThreads) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "n_threads: got %d, allowed 0 to %d", n_threads, kMaxThreads);
}

pconv_status validate_desc(const pconv_conv_desc& c) {
  const Range ranges[] = {
      {"out_channels", c.out_channels, 1, kMaxChannels},
      {"in_channels", c.in_channels, 1, kMaxChannels},
      {"groups", c.groups, 1, kMaxChannels},
      {"kernel_h", c.kernel_h, 1, kMaxKernel},
      {"kernel_w", c.kernel_w, 1, kMaxKernel},
      {"stride_h", c.stride_h, 1, kMaxGeometry},
      {"stride_w", c.stride_w, 1, kMaxGeometry},
      {"dilation_h", c.dilation_h, 1, kMaxGeometry},
      {"dilation_w", c.dilation_w, 1, kMaxGeometry},
      {"pad_top", c.pad_top, 0, kMaxGeometry},
      {"pad_left", c.pad_left, 0, kMaxGeometry},
      {"pad_bottom", c.pad_bottom, 0, kMaxGeometry},
      {"pad_right", c.pad_right, 0, kMaxGeometry},
  };
  if (const pconv_status s = check_ranges(ranges)) return s;
  if (c.in_channels % c.groups != 0 || c.out_channels % c.groups != 0) {
    return fail(PCONV_INVALID_ARGUMENT,
                "groups: %" PRId64 " must divide in_channels %" PRId64 " and out_channels %" PRId64, c.groups,
                c.in_channels, c.out_channels);
  }
  if (const pconv_status s = check_range("in_channels / groups", c.in_channels / c.groups, 1, kMaxGroupChannels))
    return s;
  const CheckedSize weights =
      checked(c.out_channels) * checked(c.in_channels / c.groups) * checked(c.kernel_h) * checked(c.kernel_w);
  if (!weights.at_most(kMaxWeights)) {
    return fail(PCONV_INVALID_ARGUMENT, "weights: out_channels x in_channels / groups x kernel is more than %" PRId64,
                kMaxWeights);
  }
  return PCONV_OK;
}

pconv_status validate_map(const pconv_conv_desc& conv, int64_t n, int64_t h, int64_t w, int64_t* out_h,
                          int64_t* out_w) {
  if (const pconv_status s = check_range("n", n, 0, kMaxMapSide)) return s;
  if (const pconv_status s = check_range("h", h, 1, kMaxMapSide)) return s;
  if (const pconv_status s = check_range("w", w, 1, kMaxMapSide)) return s;
  if (const pconv_status s =
          output_size("h", h, conv.pad_top, conv.pad_bottom, conv.kernel_h, conv.stride_h, conv.dilation_h, out_h)) {
    return s;
  }
  if (const pconv_status s =
          output_size("w", w, conv.pad_left, conv.pad_right, conv.kernel_w, conv.stride_w, conv.dilation_w, out_w)) {
    return s;
  }
  const uint64_t limit = std::numeric_limits<ptrdiff_t>::max();
  if (!tensor_bytes(n > 0 ? n : 1, conv.in_channels, h, w).at_most(limit) ||
      !tensor_bytes(n > 0 ? n : 1, conv.out_channels, *out_h, *out_w).at_most(limit)) {
    return fail(PCONV_INVALID_ARGUMENT,
                "n, h, w: an input of %" PRId64 " x %" PRId64 " x %" PRId64 " x %" PRId64
                " or its output has too many bytes",
                n, conv.in_channels, h, w);
  }
  return PCONV_OK;
}

pconv_status validate_max_pool(const pconv_max_pool_args& a) {
  const Range ranges[] = {
      {"planes", a.planes, 0, kMaxMapSide},
      {"h", a.h, 1, kMaxMapSide},
      {"w", a.w, 1, kMaxMapSide},
      {"out_h", a.out_h, 1, kMaxMapSide},
      {"out_w", a.out_w, 1, kMaxMapSide},
      {"kernel_h", a.kernel_h, 1, kMaxGeometry},
      {"kernel_w", a.kernel_w, 1, kMaxGeometry},
      {"stride_h", a.stride_h, 1, kMaxGeometry},
      {"stride_w", a.stride_w, 1, kMaxGeometry},
      {"dilation_h", a.dilation_h, 1, kMaxGeometry},
      {"dilation_w", a.dilation_w, 1, kMaxGeometry},
      {"pad_top", a.pad_top, 0, kMaxGeometry},
      {"pad_left", a.pad_left, 0, kMaxGeometry},
  };
  if (const pconv_status s = check_ranges(ranges)) return s;
  if (const pconv_status s = check_windows("out_h", a.h, a.out_h, a.pad_top, a.kernel_h, a.stride_h, a.dilation_h)) {
    return s;
  }
  if (const pconv_status s = check_windows("out_w", a.w, a.out_w, a.pad_left, a.kernel_w, a.stride_w, a.dilation_w)) {
    return s;
  }
  if (const pconv_status s = check_threads(a.n_threads)) return s;
  const uint64_t limit = std::numeric_limits<ptrdiff_t>::max();
  const CheckedSize x_bytes = tensor_bytes(1, a.planes, a.h, a.w);
  const CheckedSize y_bytes = tensor_bytes(1, a.planes, a.out_h, a.out_w);
  if (!x_bytes.at_most(limit) || !y_bytes.at_most(limit)) {
    return fail(PCONV_INVALID_ARGUMENT,
                "planes, h, w: an input of %" PRId64 " x %" PRId64 " x %" PRId64 " or its output has too many bytes",
                a.planes, a.h, a.w);
  }
  if (a.planes == 0) return PCONV_OK;
  if (a.x == nullptr) return fail(PCONV_INVALID_ARGUMENT, "x: is null");
  if (a.y == nullptr) return fail(PCONV_INVALID_ARGUMENT, "y: is null");
  if (overlap(a.x, x_bytes.value(), a.y, y_bytes.value())) return fail(PCONV_INVALID_ARGUMENT, "y: overlaps x");
  return PCONV_OK;
}

pconv_status validate_run(const pconv_plan& plan, const pconv_run_args& args) {
  if (const pconv_status s = check_threads(args.n_threads)) return s;
  if (!(args.clamp_min <= args.clamp_max)) {
    return fail(PCONV_INVALID_ARGUMENT, "clamp: got min %g and max %g, allowed min <= max, neither NaN",
                static_cast<double>(args.clamp_min), static_cast<double>(args.clamp_max));
  }
  if (plan.n == 0) return PCONV_OK;
  if (args.x == nullptr) return fail(PCONV_INVALID_ARGUMENT, "x: is null");
  if (args.y == nullptr) return fail(PCONV_INVALID_ARGUMENT, "y: is null");
  const uint64_t x_bytes = tensor_bytes(plan.n, plan.conv.in_channels, plan.h, plan.w).value();
  const uint64_t y_bytes = tensor_bytes(plan.n, plan.conv.out_channels, plan.y_h(), plan.y_w()).value();
  if (overlap(args.x, x_bytes, args.y, y_bytes)) return fail(PCONV_INVALID_ARGUMENT, "y: overlaps x");
  if (args.residual != nullptr && plan.pool > 1) {
    return fail(PCONV_INVALID_ARGUMENT, "residual: the plan pools its outputs, need NULL");
  }
  if (args.residual != nullptr && args.residual != args.y && overlap(args.residual, y_bytes, args.y, y_bytes)) {
    return fail(PCONV_INVALID_ARGUMENT, "y: overlaps residual without being the same array");
  }
  return PCONV_OK;
}

}  // namespace pconv
