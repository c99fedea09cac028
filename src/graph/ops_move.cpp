// concat, slice, pad, pixel_shuffle: values that only change their place.
#include <cinttypes>

#include "checked.h"
#include "rules.h"
#include "strided_copy.h"

namespace pconv {
namespace {

// Floats from one index of a dim to the next.
int64_t stride_of(const Tensor& t, int dim) { return dim == 0 ? t.step : t.shape.inner(dim + 1); }

pconv_status check_dim(const Node& node, int index, const Shape& shape) {
  if (const pconv_status s = check_rank(shape, 1, kMaxRank)) return s;
  return check_int(node, index, 0, shape.rank - 1);
}

// ---- concat ----------------------------------------------------------------------------------------------------

pconv_status infer_concat(const Node& node, const Shape* inputs, Shape* output) {
  if (const pconv_status s = check_dim(node, 0, inputs[0])) return s;
  const int dim = static_cast<int>(node.ints[0]);
  *output = inputs[0];
  for (size_t i = 1; i < node.inputs.size(); ++i) {
    Shape rest = inputs[i];
    if (rest.rank == output->rank) rest.dims[dim] = output->dims[dim];
    if (rest != *output) {
      return fail(PCONV_INVALID_ARGUMENT, "input %zu: its dims beside dim %d are not those of input 0", i, dim);
    }
    output->dims[dim] += inputs[i].dims[dim];  // each at most kMaxTensorFloats, at most 1024 of them
  }
  return PCONV_OK;
}

pconv_status run_concat(const OpCall& call) {
  const int dim = static_cast<int>(call.node.ints[0]);
  float* target = call.output.data;
  for (size_t i = 0; i < call.node.inputs.size(); ++i) {
    const Tensor& x = call.inputs[i];
    StridedCopy copy;
    for (int d = 0; d < x.shape.rank; ++d) copy.add(x.shape.dims[d], stride_of(x, d), stride_of(call.output, d));
    copy.run(x.data, target, call.n_threads);
    target += x.shape.dims[dim] * stride_of(call.output, dim);
  }
  return PCONV_OK;
}

// ---- slice -----------------------------------------------------------------------------------------------------

// As in Python: negative ones count from the end, and what lies outside is cut.
struct Range {
  int64_t begin, count;

  Range(const Node& node, int64_t size) {
    const auto place = [size](int64_t i) { return i < 0 ? std::max<int64_t>(i + size, 0) : std::min(i, size); };
    begin = place(node.ints[1]);
    const int64_t end = place(node.ints[2]), step = node.ints[3];
    count = end > begin ? (end - begin - 1) / step + 1 : 0;
  }
};

pconv_status infer_slice(const Node& node, const Shape* inputs, Shape* output) {
  if (const pconv_status s = check_dim(node, 0, inputs[0])) return s;
  if (const pconv_status s = check_int(node, 3, 1, kMaxTensorFloats)) return s;
  *output = inputs[0];
  int64_t& dim = output->dims[node.ints[0]];
  dim = Range(node, dim).count;
  return PCONV_OK;
}

int64_t slice_offset(const Node& node, const Tensor& x) {
  const int dim = static_cast<int>(node.ints[0]);
  return Range(node, x.shape.dims[dim]).begin * stride_of(x, dim);
}

pconv_status run_slice(const OpCall& call) {
  const Tensor& x = call.inputs[0];
  if (call.output.shape.count() == 0) return PCONV_OK;
  StridedCopy copy;
  for (int d = 0; d < x.shape.rank; ++d) {
    const int64_t step = d == call.node.ints[0] ? call.node.ints[3] : 1;
    copy.add(call.output.shape.dims[d], step * stride_of(x, d), stride_of(call.output, d));
  }
  copy.run(x.data + slice_offset(call.node, x), call.output.data, call.n_threads);
  return PCONV_OK;
}

// Some of the parts, or the same piece of each.
bool view_slice(const Node& node, const Tensor& x, const Shape& output, int64_t* offset, int64_t* step) {
  const int64_t dim = node.ints[0], by = node.ints[3];
  if (output.count() == 0) return false;
  if (dim > 0 && by != 1 && output.dims[dim] > 1) return false;
  for (int d = 1; d < dim; ++d) {
    if (x.shape.dims[d] != 1) return false;
  }
  *offset = slice_offset(node, x);
  *step = dim == 0 && output.dims[0] > 1 ? x.step * by : x.step;
  return true;
}

// ---- pad -------------------------------------------------------------------------------------------------------

pconv_status infer_pad(const Node& node, const Shape* inputs, Shape* output) {
  *output = inputs[0];
  if (node.ints.size() != 2 * static_cast<size_t>(output->rank)) {
    return fail(PCONV_INVALID_ARGUMENT, "dims: got %zu numbers, needed are two for each of %d dims", node.ints.size(),
                output->rank);
  }
  for (int i = 0; i < output->rank; ++i) {
    int64_t kept = inputs[0].dims[i];
    for (const int64_t by : {node.ints[2 * static_cast<size_t>(i)], node.ints[2 * static_cast<size_t>(i) + 1]}) {
      if (by < -kMaxSide || by > kMaxSide) {
        return fail(PCONV_INVALID_ARGUMENT, "dims: got %" PRId64 " for dim %d, allowed %" PRId64 " to %" PRId64, by, i,
                    -kMaxSide, kMaxSide);
      }
      output->dims[i] += by;
      kept += std::min<int64_t>(by, 0);
    }
    if (kept < 0) {
      return fail(PCONV_INVALID_ARGUMENT, "dims: dim %d has %" PRId64 ", more would be cut off", i, inputs[0].dims[i]);
    }
  }
  return PCONV_OK;
}

void fill(const Tensor& y, float value, int n_threads) {
  const int64_t floats = y.shape.inner(y.shape.rank > 0 ? 1 : 0);
  for_parts(parts_of(y.shape), floats, 1, n_threads, [&](int64_t part, int64_t begin, int64_t end) {
    std::fill(y.data + part * y.step + begin, y.data + part * y.step + end, value);
  });
}

pconv_status run_pad(const OpCall& call) {
  const Tensor &x = call.inputs[0], &y = call.output;
  StridedCopy copy;
  int64_t from = 0, to = 0;
  bool pads = false, empty = false;
  for (int d = 0; d < x.shape.rank; ++d) {
    const int64_t before = call.node.ints[2 * static_cast<size_t>(d)];
    const int64_t first = std::max<int64_t>(-before, 0), end = std::min(x.shape.dims[d], y.shape.dims[d] - before);
    const int64_t kept = std::max<int64_t>(end - first, 0);
    pads = pads || kept < y.shape.dims[d];
    empty = empty || kept == 0;
    from += first * stride_of(x, d), to += (first + before) * stride_of(y, d);
    copy.add(kept, stride_of(x, d), stride_of(y, d));
  }
  if (pads) fill(y, call.node.floats[0], call.n_threads);
  if (!empty) copy.run(x.data + from, y.data + to, call.n_threads);
  return PCONV_OK;
}

// ---- pixel_shuffle ---------------------------------------------------------------------------------------------

pconv_status infer_pixel_shuffle(const Node& node, const Shape* inputs, Shape* output) {
  if (const pconv_status s = check_rank(inputs[0], 3, kMaxRank)) return s;
  if (const pconv_status s = check_int(node, 0, 1, 1 << 10)) return s;
  const int64_t factor = node.ints[0];
  *output = inputs[0];
  int64_t* const last = output->dims + output->rank - 3;  // channels, rows, columns
  if (last[0] % (factor * factor) != 0) {
    return fail(PCONV_INVALID_ARGUMENT, "input 0: %" PRId64 " channels are no multiple of factor * factor, %" PRId64,
                last[0], factor * factor);
  }
  last[0] /= factor * factor, last[1] *= factor, last[2] *= factor;
  return PCONV_OK;
}

// [...][c][i][j][h][w] -> [...][c][h][i][w][j]
pconv_status run_pixel_shuffle(const OpCall& call) {
  const Tensor &x = call.inputs[0], &y = call.output;
  const int rank = x.shape.rank, c = rank - 3;
  const int64_t factor = call.node.ints[0], h = x.shape.dims[rank - 2], w = x.shape.dims[rank - 1];
  const int64_t of_x = stride_of(x, c), width = w * factor;  // of_x: of a channel
  StridedCopy copy;
  for (int d = 0; d < c; ++d) copy.add(x.shape.dims[d], stride_of(x, d), stride_of(y, d));
  copy.add(y.shape.dims[c], of_x * factor * factor, stride_of(y, c));
  copy.add(h, w, factor * width);
  copy.add(factor, of_x * factor, width);
  copy.add(w, 1, factor);
  copy.add(factor, of_x, 1);
  copy.run(x.data, y.data, call.n_threads);
  return PCONV_OK;
}

}  // namespace

namespace rules {
const OpRule concat = {infer_concat, run_concat, nullptr, 0, true};
const OpRule slice = {infer_slice, run_slice, view_slice};
const OpRule pad = {infer_pad, run_pad, nullptr};
const OpRule pixel_shuffle = {infer_pixel_shuffle, run_pixel_shuffle, nullptr};
}  // namespace rules

}  // namespace pconv
