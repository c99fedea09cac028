// The forms of a layer's weights that general ukernels read: streams of taps for blocks of filters, or kernels by
// channel and taps.
#ifndef PCONV_PREPACK_TAPS_H_
#define PCONV_PREPACK_TAPS_H_

#include <memory>

#include "dispatch.h"
#include "layer.h"

namespace pconv {

// May `block` filters that follow each other in the packed layer run together? Only where they keep the same kernels:
// a filter must not read a channel that it has no kernel for.
bool block_fits(const pconv_packed& packed, int64_t block);
// By the layer's masks.
ChannelPlanes channel_planes(const pconv_packed& packed, bool shift_columns);
// Filters that run together in a scatter ukernel: as many as have their sums in L1, units of nearly the same size.
int64_t scatter_unit(const pconv_conv_desc& conv, const KernelInfo& kernel);
// shift_columns: a tap column that reads padding for the first output of a row, and for every other output what another
// column reads for the output before, has no planes of its own. For scatter ukernels that mask loads, where planes hold
// whole rows of outputs; others ignore it.
std::shared_ptr<const Prepacked> prepack_taps(const pconv_packed& packed, const Ukernel& ukernel, bool shift_columns);

}  // namespace pconv
#endif  // PCONV_PREPACK_TAPS_H_
