// reshape, flatten, permute, constant: the same values in another shape.
#include <cinttypes>
#include <cstring>

#include "checked.h"
#include "rules.h"
#include "strided_copy.h"

namespace pconv {
namespace {

// ---- reshape, flatten ------------------------------------------------------------------------------------------

// 0 copies that dim of the input, and one dim may be -1: what the others leave.
pconv_status infer_reshape(const Node& node, const Shape* inputs, Shape* output) {
  const Shape& x = inputs[0];
  if (node.ints.size() > static_cast<size_t>(kMaxRank)) {
    return fail(PCONV_INVALID_ARGUMENT, "dims: got %zu, allowed 0 to %d", node.ints.size(), kMaxRank);
  }
  output->rank = static_cast<int>(node.ints.size());
  int open = -1;
  for (int i = 0; i < output->rank; ++i) {
    const int64_t dim = node.ints[static_cast<size_t>(i)];
    if (dim < -1 || (dim == -1 && open >= 0) || (dim == 0 && i >= x.rank)) {
      return fail(PCONV_INVALID_ARGUMENT,
                  "dims: got %" PRId64 " at %d, allowed are sizes, 0 for a dim of the input, and -1 once", dim, i);
    }
    output->dims[i] = dim == 0 ? x.dims[i] : dim == -1 ? 1 : dim;
    if (dim == -1) open = i;
  }
  if (const pconv_status s = check_shape("dims", *output)) return s;
  const int64_t have = x.count(), known = output->count();
  const bool fits = open < 0 ? have == known : known > 0 && have % known == 0;
  if (!fits) {
    return fail(PCONV_INVALID_ARGUMENT, "dims: %" PRId64 " floats do not fit into dims of %" PRId64, have, known);
  }
  if (open >= 0) output->dims[open] = have / known;
  return PCONV_OK;
}

pconv_status infer_flatten(const Node& node, const Shape* inputs, Shape* output) {
  const Shape& x = inputs[0];
  const int64_t last = std::max(x.rank - 1, 0);
  if (const pconv_status s = check_int(node, 0, 0, last)) return s;
  if (const pconv_status s = check_int(node, 1, node.ints[0], last)) return s;
  for (int i = 0; i < std::max(x.rank, 1); ++i) {
    const int64_t dim = x.rank > 0 ? x.dims[i] : 1;
    if (i <= node.ints[0] || i > node.ints[1]) {
      output->dims[output->rank++] = dim;
    } else {
      output->dims[output->rank - 1] *= dim;  // check_shape has let the whole product through
    }
  }
  return PCONV_OK;
}

// Where both have parts with gaps, piece by piece.
pconv_status run_reshape(const OpCall& call) {
  const Tensor &x = call.inputs[0], &y = call.output;
  const int64_t n = y.shape.count();
  if (n == 0) return PCONV_OK;
  const int64_t in = x.contiguous() ? n : x.shape.inner(1), out = y.contiguous() ? n : y.shape.inner(1);
  if (in == out) {
    StridedCopy copy;
    copy.add(n / in, x.step, y.step);
    copy.add(in, 1, 1);
    copy.run(x.data, y.data, call.n_threads);
    return PCONV_OK;
  }
  for (int64_t at = 0; at < n;) {
    const int64_t piece = std::min(in - at % in, out - at % out);
    std::memcpy(y.data + at / out * y.step + at % out, x.data + at / in * x.step + at % in,
                static_cast<size_t>(piece) * sizeof(float));
    at += piece;
  }
  return PCONV_OK;
}

bool view_reshape(const Node&, const Tensor& x, const Shape& output, int64_t* offset, int64_t* step) {
  *offset = 0;
  *step = output.inner(output.rank > 0 ? 1 : 0);
  if (x.contiguous()) return true;
  *step = x.step;
  return output.rank > 0 && output.dims[0] == x.shape.dims[0];
}

// ---- permute ---------------------------------------------------------------------------------------------------

pconv_status infer_permute(const Node& node, const Shape* inputs, Shape* output) {
  const Shape& x = inputs[0];
  if (node.ints.size() != static_cast<size_t>(x.rank)) {
    return fail(PCONV_INVALID_ARGUMENT, "dims: got %zu, needed are the %d of the input", node.ints.size(), x.rank);
  }
  bool seen[kMaxRank] = {};
  output->rank = x.rank;
  for (int i = 0; i < x.rank; ++i) {
    const int64_t dim = node.ints[static_cast<size_t>(i)];
    if (dim < 0 || dim >= x.rank || seen[dim]) {
      return fail(PCONV_INVALID_ARGUMENT, "dims: got %" PRId64 " at %d, allowed is each of 0 to %d once", dim, i,
                  x.rank - 1);
    }
    seen[dim] = true;
    output->dims[i] = x.dims[dim];
  }
  return PCONV_OK;
}

pconv_status run_permute(const OpCall& call) {
  const Tensor &x = call.inputs[0], &y = call.output;
  if (y.shape.count() == 0) return PCONV_OK;
  StridedCopy copy;
  for (int i = 0; i < y.shape.rank; ++i) {
    const auto dim = static_cast<int>(call.node.ints[static_cast<size_t>(i)]);
    copy.add(y.shape.dims[i], dim == 0 ? x.step : x.shape.inner(dim + 1), i == 0 ? y.step : y.shape.inner(i + 1));
  }
  copy.run(x.data, y.data, call.n_threads);
  return PCONV_OK;
}

// Only dims of 1 change their place.
bool view_permute(const Node& node, const Tensor& x, const Shape& output, int64_t* offset, int64_t* step) {
  int64_t before = -1;
  for (const int64_t dim : node.ints) {
    if (x.shape.dims[dim] == 1) continue;
    if (dim < before) return false;
    before = dim;
  }
  if (!x.contiguous() && node.ints[0] != 0) return false;
  return view_reshape(node, x, output, offset, step);
}

// ---- constant --------------------------------------------------------------------------------------------------

pconv_status infer_constant(const Node& node, const Shape*, Shape* output) {
  if (node.ints.size() > static_cast<size_t>(kMaxRank)) {
    return fail(PCONV_INVALID_ARGUMENT, "dims: got %zu, allowed 0 to %d", node.ints.size(), kMaxRank);
  }
  for (const int64_t dim : node.ints) output->dims[output->rank++] = dim;
  if (const pconv_status s = check_shape("dims", *output)) return s;
  const Data& value = *node.find(Role::kValue);
  if (value.count == output->count()) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "value: got %" PRId64 " floats, needed are %" PRId64, value.count,
              output->count());
}

}  // namespace

namespace rules {
const OpRule reshape = {infer_reshape, run_reshape, view_reshape};
const OpRule flatten = {infer_flatten, run_reshape, view_reshape};
const OpRule permute = {infer_permute, run_permute, view_permute};
const OpRule constant = {infer_constant, nullptr, nullptr};
}  // namespace rules

}  // namespace pconv
