// Weights once: a planned layer of a model keeps its weights in the form that its ukernel reads, and the packed bytes
// keep the rest. Bring the weights back when another ukernel or a file wants them.
#ifndef PCONV_GRAPH_SPARE_WEIGHTS_H_
#define PCONV_GRAPH_SPARE_WEIGHTS_H_

#include "layer.h"

namespace pconv {

// Drops the weights of the packed bytes if a prepacked form gives them back, bit for bit, and the forms that no plan
// uses. Nobody else may use the layer meanwhile; plans may run.
void spare_weights(pconv_packed* packed);
// The opposite; nothing where they are there.
pconv_status restore_weights(pconv_packed* packed);
// A copy of the layer, its weights included.
pconv_status copy_layer(const pconv_packed& packed, std::unique_ptr<pconv_packed>* copy);

}  // namespace pconv
#endif  // PCONV_GRAPH_SPARE_WEIGHTS_H_
