// What an operator is: its row of ops.def, the rule of its output's shape and how it runs.
#ifndef PCONV_GRAPH_OP_H_
#define PCONV_GRAPH_OP_H_

#include "dispatch.h"
#include "node.h"

namespace pconv {

// A node about to run: shapes have passed the operator's rule, tensors overlap only as its row allows.
struct OpCall {
  const Node& node;
  const Tensor* inputs;
  Tensor output;
  const IsaTable& table;
  const pconv_plan* plan;  // of `conv`, for the shape of inputs[0]; otherwise null
  int n_threads;
};

struct OpInfo {
  uint16_t id;
  const char* name;
  int least_inputs, most_inputs;
  const char *ints, *floats, *data;  // names, as in ops.def
  // Checks attributes, data and shapes of the inputs and says the output's shape. The text of a failure names the
  // attribute or input, what came and what is allowed; the caller puts the node's name in front.
  pconv_status (*infer)(const Node& node, const Shape* inputs, Shape* output);
  pconv_status (*run)(const OpCall& call);  // null: `constant`
  // True: the output is a part of input 0 as it lies in memory, `offset` floats behind its start and with `step`; then
  // nobody has to run it. Of the input only shape and step count. Null: never.
  bool (*view)(const Node& node, const Tensor& input, const Shape& output, int64_t* offset, int64_t* step);
  // Bit i: the output may be written over input i, where that has the output's shape.
  unsigned writes_over;
  bool joins_inputs;  // the output is its inputs, one behind the other along attribute 0
};

// Name of data, as ops.def has it, and back; false: there is none.
const char* role_name(Role role);
bool find_role(const char* name, Role* role);

// By id or name; null: there is none.
const OpInfo* find_op(uint16_t id);
const OpInfo* find_op(const char* name);
const OpInfo* op_at(int index);  // null behind the last
// Checks numbers of inputs, attributes and data against the row, then the operator's own rule.
pconv_status infer_shape(const Node& node, const Shape* inputs, Shape* output);

}  // namespace pconv
#endif  // PCONV_GRAPH_OP_H_
