// Packed bytes from their parts: the one place that lays the sections of docs/FORMAT.md out for writing.
#ifndef PCONV_WRITE_PACKED_H_
#define PCONV_WRITE_PACKED_H_

#include <vector>

#include "layer.h"

namespace pconv {

// The bytes of a layer with the structure and bias of `view` (of its header the version and the fields of the layer)
// and these weights, one for each of its n_weights. They are rounded to header.weight_type.
std::vector<unsigned char> write_packed(const PackedView& view, const float* weights);

}  // namespace pconv
#endif  // PCONV_WRITE_PACKED_H_
