// C API entry points of single operators: check pointers, hand over to the parts.
#include <algorithm>

#include "guarded.h"
#include "op.h"
#include "single_op.h"

using pconv::guarded;
using pconv::null_argument;

int pconv_list_op(int index, pconv_op_info* info) {
  const pconv::OpInfo* op = pconv::op_at(index);
  if (info == nullptr || op == nullptr) return 0;
  *info = {op->name, op->least_inputs, op->most_inputs, op->ints, op->floats, op->data};
  return 1;
}

pconv_status pconv_make_op(const pconv_op_desc* desc, pconv_op** op) {
  if (desc == nullptr) return null_argument("desc");
  if (op == nullptr) return null_argument("op");
  return guarded([&] {
    std::unique_ptr<pconv_op> result;
    const pconv_status s = pconv::make_op(*desc, &result);
    if (s == PCONV_OK) *op = result.release();
    return s;
  });
}

void pconv_free_op(pconv_op* op) { delete op; }

pconv_status pconv_get_op_output(const pconv_op* op, pconv_shape* shape) {
  if (op == nullptr) return null_argument("op");
  if (shape == nullptr) return null_argument("shape");
  *shape = {};
  shape->rank = op->output.shape.rank;
  std::copy(op->output.shape.dims, op->output.shape.dims + shape->rank, shape->dims);
  shape->step = op->output.step;
  return PCONV_OK;
}

pconv_status pconv_run_op(const pconv_op* op, const float* const* inputs, float* output, int n_threads) {
  if (op == nullptr) return null_argument("op");
  if (inputs == nullptr && !op->inputs.empty()) return null_argument("inputs");
  return guarded([&] { return pconv::run_op(*op, inputs, output, n_threads); });
}
