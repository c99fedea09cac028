// Packing, reading and unpacking of layers. Arguments have been validated; std::bad_alloc passes to the API.
#ifndef PCONV_PACK_H_
#define PCONV_PACK_H_

#include <memory>

#include "layer.h"

namespace pconv {

pconv_status pack_weights(const pconv_conv_desc& conv, const float* weights, const float* bias,
                          std::unique_ptr<pconv_packed>* packed);
// Copies n_bytes hostile bytes and validates the copy.
pconv_status read_packed(const void* bytes, size_t n_bytes, std::unique_ptr<pconv_packed>* packed);
// Dense OIHW weights; bias may be null.
void unpack_weights(const PackedView& view, float* weights, float* bias);

}  // namespace pconv
#endif  // PCONV_PACK_H_
