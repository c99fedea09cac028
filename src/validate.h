// Checks of arguments and bytes. What it lets through is trusted below; dispatch and plan add only what depends on the
// build: names of ISAs and ukernels, layers without a ukernel.
#ifndef PCONV_VALIDATE_H_
#define PCONV_VALIDATE_H_

#include "layer.h"
#include "plan.h"

namespace pconv {

// Limits of docs/FORMAT.md.
constexpr int64_t kMaxChannels = int64_t{1} << 24;
constexpr int64_t kMaxGroupChannels = 65535;
constexpr int64_t kMaxKernel = 32;
constexpr int64_t kMaxGeometry = 65535;  // stride, dilation, padding
constexpr int64_t kMaxWeights = (int64_t{1} << 32) - 1;
constexpr int64_t kMaxMapSide = int64_t{1} << 30;
constexpr int kMaxThreads = 1024;

// Do two pieces of memory share a byte?
bool overlap(const void* a, uint64_t a_bytes, const void* b, uint64_t b_bytes);
pconv_status check_threads(int n_threads);  // 0 .. kMaxThreads

pconv_status validate_desc(const pconv_conv_desc& conv);
// Checks all rules of docs/FORMAT.md and fills the view with pointers into `bytes` (8-byte aligned).
pconv_status validate_packed(const void* bytes, size_t n_bytes, PackedView* view);
// Output size of a convolution over an h x w map. INVALID_ARGUMENT when the kernel does not fit or sizes overflow.
pconv_status validate_map(const pconv_conv_desc& conv, int64_t n, int64_t h, int64_t w, int64_t* out_h, int64_t* out_w);
pconv_status validate_max_pool(const pconv_max_pool_args& args);
pconv_status validate_run(const pconv_plan& plan, const pconv_run_args& args);

}  // namespace pconv
#endif  // PCONV_VALIDATE_H_
