// One operator for known shapes, without a network around it.
#ifndef PCONV_GRAPH_SINGLE_OP_H_
#define PCONV_GRAPH_SINGLE_OP_H_

#include <memory>
#include <vector>

#include "op.h"
#include "pconv/ops.h"

struct pconv_op {
  pconv::Node node;
  std::vector<pconv::Tensor> inputs;  // without their data
  pconv::Tensor output;
  const pconv::IsaTable* table;
};

namespace pconv {

// Checks all of `desc`.
pconv_status make_op(const pconv_op_desc& desc, std::unique_ptr<pconv_op>* op);
// Checks pointers, overlaps and n_threads.
pconv_status run_op(const pconv_op& op, const float* const* inputs, float* output, int n_threads);

}  // namespace pconv
#endif  // PCONV_GRAPH_SINGLE_OP_H_
