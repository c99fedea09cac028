// Where every value of a network lies when it is run: values that are parts of others, written over others, or the
// caller's outputs take no memory of their own.
#ifndef PCONV_GRAPH_PLACES_H_
#define PCONV_GRAPH_PLACES_H_

#include <vector>

#include "arena.h"
#include "model.h"

namespace pconv {

// A tensor of a step: `offset` floats behind the start of the arena, or of an input, output or data.
struct Place {
  pconv_base base = PCONV_ARENA;
  int index = 0;  // of the input or output; of the node whose data it is
  int64_t offset = 0;
  int64_t step = 0;  // as Tensor::step
};

// A copy of a value to where its reader wants it.
struct Move {
  int node;  // that makes the value, or reads it; behind the last node: an output
  int value;
  Place from, to;
};

struct Places {
  std::vector<Place> values;
  std::vector<bool> runs;   // by node: has work to do
  std::vector<Move> moves;  // by node: a node's come instead of its run
  Arena arena;
};

// Nodes that no output needs have no place and do not run. `pooled`: find_pooled_convs(); such a convolution writes the
// value of the pooling, which itself does not run. INVALID_ARGUMENT: too much memory.
pconv_status plan_places(const Model& model, const std::vector<Shape>& shapes, const std::vector<int>& pooled,
                         Places* places);

}  // namespace pconv
#endif  // PCONV_GRAPH_PLACES_H_
