// activate, add, sub, mul.
#include <cinttypes>
#include <cstring>

#include "rules.h"

namespace pconv {
namespace {

pconv_status infer_activate(const Node& node, const Shape* inputs, Shape* output) {
  *output = inputs[0];
  return check_activation(node, *output);
}

pconv_status run_activate(const OpCall& call) {
  activate(NodeActivation(call.node), call.inputs[0], call.output, call);
  return PCONV_OK;
}

// As numpy broadcasts: dims are compared from the last one on, and a dim of 1 or none at all is repeated.
pconv_status infer_binary(const Node& node, const Shape* inputs, Shape* output) {
  const Shape &a = inputs[0], &b = inputs[1];
  output->rank = std::max(a.rank, b.rank);
  for (int i = 0; i < output->rank; ++i) {
    const int in_a = i - (output->rank - a.rank), in_b = i - (output->rank - b.rank);
    const int64_t of_a = in_a < 0 ? 1 : a.dims[in_a], of_b = in_b < 0 ? 1 : b.dims[in_b];
    if (of_a != of_b && of_a != 1 && of_b != 1) {
      return fail(PCONV_INVALID_ARGUMENT,
                  "inputs: dim %d of the output would be %" PRId64 " and %" PRId64 ", allowed are equal ones or 1", i,
                  of_a, of_b);
    }
    output->dims[i] = of_a == 1 ? of_b : of_a;
  }
  if (const pconv_status s = check_shape("output", *output)) return s;
  return check_activation(node, *output);
}

// Floats from one to the next along each dim of the output; 0 where the tensor is repeated.
void strides_of(const Tensor& t, const Shape& output, int64_t* strides) {
  for (int i = 0; i < output.rank; ++i) {
    const int own = i - (output.rank - t.shape.rank);
    strides[i] = own < 0 || t.shape.dims[own] == 1 ? 0 : own == 0 ? t.step : t.shape.inner(own + 1);
  }
}

// The loops of an operation of two tensors: as few as there can be, the last one for the kernel.
struct Loops {
  int n = 0;
  int64_t dims[kMaxRank + 1], a[kMaxRank + 1], b[kMaxRank + 1], y[kMaxRank + 1];

  Loops(const Tensor& of_a, const Tensor& of_b, const Tensor& output) {
    const Shape& shape = output.shape;
    int64_t a_strides[kMaxRank], b_strides[kMaxRank], y_strides[kMaxRank];
    strides_of(of_a, shape, a_strides);
    strides_of(of_b, shape, b_strides);
    strides_of(output, shape, y_strides);
    for (int i = 0; i < shape.rank; ++i) {
      if (shape.dims[i] != 1) add(shape.dims[i], a_strides[i], b_strides[i], y_strides[i]);
    }
    if (n == 0 || a[n - 1] > 1 || b[n - 1] > 1 || y[n - 1] != 1) append(1, 1, 1, 1);
  }
  int64_t outer() const {
    int64_t product = 1;
    for (int i = 0; i < n - 1; ++i) product *= dims[i];
    return product;
  }
  int64_t inner() const { return dims[n - 1]; }

 private:
  void append(int64_t dim, int64_t of_a, int64_t of_b, int64_t of_y) {
    dims[n] = dim, a[n] = of_a, b[n] = of_b, y[n] = of_y;
    ++n;
  }
  // Joined with the loop before where both walk on without a gap.
  void add(int64_t dim, int64_t of_a, int64_t of_b, int64_t of_y) {
    if (n == 0 || a[n - 1] != of_a * dim || b[n - 1] != of_b * dim || y[n - 1] != of_y * dim) {
      return append(dim, of_a, of_b, of_y);
    }
    dims[n - 1] *= dim, a[n - 1] = of_a, b[n - 1] = of_b, y[n - 1] = of_y;
  }
};

template <BinaryKind kKind>
pconv_status run_binary(const OpCall& call) {
  if (call.output.shape.count() == 0) return PCONV_OK;
  const NodeActivation activation(call.node);
  const Tensor &a = call.inputs[0], &b = call.inputs[1], &y = call.output;
  const Loops loops(a, b, y);
  const int last = loops.n - 1;
  for_parts(loops.outer(), loops.inner(), 1, call.n_threads, [&](int64_t outer, int64_t begin, int64_t end) {
    int64_t of_a = begin * loops.a[last], of_b = begin * loops.b[last], of_y = begin;
    for (int i = last - 1; i >= 0; --i) {
      const int64_t at = outer % loops.dims[i];
      outer /= loops.dims[i];
      of_a += at * loops.a[i], of_b += at * loops.b[i], of_y += at * loops.y[i];
    }
    call.table.ops->binary({a.data + of_a, b.data + of_b, y.data + of_y, end - begin, static_cast<int>(loops.a[last]),
                            static_cast<int>(loops.b[last]), kKind, activation.all});
  });
  finish(activation, call);
  return PCONV_OK;
}

}  // namespace

namespace rules {
const OpRule activate = {infer_activate, run_activate, nullptr, 0b1};
const OpRule add = {infer_binary, run_binary<BinaryKind::kAdd>, nullptr, 0b11};
const OpRule sub = {infer_binary, run_binary<BinaryKind::kSub>, nullptr, 0b11};
const OpRule mul = {infer_binary, run_binary<BinaryKind::kMul>, nullptr, 0b11};
}  // namespace rules

}  // namespace pconv
