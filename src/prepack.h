// The form of a layer's weights that one ukernel reads, built by the plan and shared by all plans of the layer.
#ifndef PCONV_PREPACK_H_
#define PCONV_PREPACK_H_

#include <memory>

#include "dispatch.h"
#include "layer.h"

namespace pconv {

// Work of a filter beside its kernels (start, shifts, stores), in kernels; measured on AVX-512, see PERFORMANCE.md.
constexpr int64_t kFilterCostInKernels = 4;

// Can every mask of the layer be covered by a manifest pattern within `taps`?
bool taps_cover(const pconv_packed& packed, uint32_t taps);
std::shared_ptr<const Prepacked> prepack(const pconv_packed& packed, const Ukernel& ukernel, PrepackOptions options);

}  // namespace pconv
#endif  // PCONV_PREPACK_H_
