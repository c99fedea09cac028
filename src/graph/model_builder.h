// A model from a caller's nodes: copies their data, equal data once.
#ifndef PCONV_GRAPH_MODEL_BUILDER_H_
#define PCONV_GRAPH_MODEL_BUILDER_H_

#include <unordered_map>

#include "model.h"

struct pconv_builder {
  std::shared_ptr<pconv::Model> model = std::make_shared<pconv::Model>();
  std::unordered_multimap<uint32_t, pconv::Data> data;  // by checksum
};

namespace pconv {

// Pointers have been checked.
pconv_status build_node(pconv_builder* builder, const pconv_node_desc& desc);

}  // namespace pconv
#endif  // PCONV_GRAPH_MODEL_BUILDER_H_
