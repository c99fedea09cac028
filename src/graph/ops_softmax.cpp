// softmax over one dim, or its logarithm.
#include "checked.h"
#include "rules.h"

namespace pconv {
namespace {

pconv_status infer_softmax(const Node& node, const Shape* inputs, Shape* output) {
  *output = inputs[0];
  if (const pconv_status s = check_int(node, 0, 0, std::max(output->rank - 1, 0))) return s;
  return check_int(node, 1, 0, 1);
}

// Rows whose floats are neighbours.
void run_rows(const OpCall& call, int64_t n) {
  const Tensor &x = call.inputs[0], &y = call.output;
  const bool whole = x.contiguous() && y.contiguous();
  const int64_t parts = whole ? 1 : parts_of(x.shape), rows = x.shape.count() / parts / n;
  for_parts(parts, rows, 4 * n, call.n_threads, [&](int64_t part, int64_t begin, int64_t end) {
    call.table.ops->softmax({x.data + part * x.step + begin * n, y.data + part * y.step + begin * n, end - begin, n, 0,
                             0, call.node.ints[1] != 0});
  });
}

// Rows side by side, whose floats lie apart.
void run_columns(const OpCall& call, int dim) {
  const Tensor &x = call.inputs[0], &y = call.output;
  const bool whole = dim == 0, log = call.node.ints[1] != 0;
  const int64_t n = x.shape.dims[dim], inner = x.shape.inner(dim + 1);
  const int64_t x_step = whole ? x.step : inner, y_step = whole ? y.step : inner;
  const int64_t parts = whole ? 1 : x.shape.dims[0], rows = x.shape.count() / parts / n;  // of a part
  for_parts(parts, rows, 4 * n, call.n_threads, [&](int64_t part, int64_t begin, int64_t end) {
    while (begin < end) {  // those that lie side by side
      const int64_t plane = begin / inner, column = begin - plane * inner,
                    count = std::min(inner - column, end - begin);
      const int64_t at = plane * n * inner + column;
      const float* from = x.data + (whole ? 0 : part * x.step) + at;
      float* to = y.data + (whole ? 0 : part * y.step) + at;
      call.table.ops->softmax({from, to, count, n, x_step, y_step, log});
      begin += count;
    }
  });
}

pconv_status run_softmax(const OpCall& call) {
  const Tensor& x = call.inputs[0];
  if (x.shape.count() == 0) return PCONV_OK;
  const int dim = static_cast<int>(call.node.ints[0]), last = std::max(x.shape.rank - 1, 0);
  const bool neighbours = dim == last && (x.shape.rank != 1 || (x.contiguous() && call.output.contiguous()));
  if (neighbours) {
    run_rows(call, x.shape.rank > 0 ? x.shape.dims[last] : 1);
  } else {
    run_columns(call, dim);
  }
  return PCONV_OK;
}

}  // namespace

namespace rules {
const OpRule softmax = {infer_softmax, run_softmax, nullptr, 0b1};
}  // namespace rules

}  // namespace pconv
