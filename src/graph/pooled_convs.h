// Convolutions whose outputs only a max pooling reads: one step computes both, strip by strip, so that a large map is
// neither written nor read again.
#ifndef PCONV_GRAPH_POOLED_CONVS_H_
#define PCONV_GRAPH_POOLED_CONVS_H_

#include <vector>

#include "model.h"

namespace pconv {

constexpr int kNotPooled = -1;

// By node: of such a convolution the pooling, otherwise kNotPooled.
std::vector<int> find_pooled_convs(const Model& model, const std::vector<Shape>& shapes);

}  // namespace pconv
#endif  // PCONV_GRAPH_POOLED_CONVS_H_
