// max_pool, avg_pool, adaptive_avg_pool, mean.
#include <cinttypes>

#include "checked.h"
#include "max_pool.h"
#include "rules.h"
#include "scratch.h"
#include "validate.h"

namespace pconv {
namespace {

// Rows and columns of planes that windows can be over.
pconv_status check_planes(const Shape& x) {
  if (const pconv_status s = check_rank(x, 3, kMaxRank)) return s;
  for (int i = 0; i < 2; ++i) {
    const int64_t size = x.dims[x.rank - 2 + i];
    if (size < 1 || size > kMaxSide) {
      return fail(PCONV_INVALID_ARGUMENT, "input 0: got planes with a side of %" PRId64 ", allowed 1 to %" PRId64, size,
                  kMaxSide);
    }
  }
  return PCONV_OK;
}

// ---- windows ---------------------------------------------------------------------------------------------------

struct Windows {
  int64_t kernel, stride, dilation, pad;
};

// How many windows an axis has, as torch counts: with `ceil` also one that reaches behind the padding, if it begins
// before that.
pconv_status count_windows(const char* axis, int64_t size, const Windows& w, bool ceil, int64_t* n) {
  const int64_t window = (w.kernel - 1) * w.dilation + 1;  // all at most kMaxGeometry, but for `size`
  if (w.pad > w.kernel / 2) {
    return fail(PCONV_INVALID_ARGUMENT, "pad_%s: got %" PRId64 ", allowed is half of the kernel, %" PRId64, axis, w.pad,
                w.kernel / 2);
  }
  const int64_t room = size + 2 * w.pad - window + (ceil ? w.stride - 1 : 0);
  if (room < 0) {
    return fail(PCONV_INVALID_ARGUMENT, "kernel_%s: a window of %" PRId64 " does not fit into %" PRId64 " with padding",
                axis, window, size + 2 * w.pad);
  }
  *n = room / w.stride + 1;
  if (ceil && (*n - 1) * w.stride >= size + w.pad) --*n;
  return PCONV_OK;
}

pconv_status infer_windows(const Shape& x, const Windows& rows, const Windows& columns, bool ceil, Shape* output) {
  *output = x;
  int64_t* const last = output->dims + output->rank - 2;
  if (const pconv_status s = count_windows("h", last[0], rows, ceil, &last[0])) return s;
  return count_windows("w", last[1], columns, ceil, &last[1]);
}

// ---- max_pool --------------------------------------------------------------------------------------------------

pconv_status infer_max_pool(const Node& node, const Shape* inputs, Shape* output) {
  if (const pconv_status s = check_planes(inputs[0])) return s;
  if (const pconv_status s = check_ints(node, 0, 6, 1, kMaxGeometry)) return s;
  if (const pconv_status s = check_ints(node, 6, 8, 0, kMaxGeometry)) return s;
  if (const pconv_status s = check_int(node, 8, 0, 1)) return s;
  const std::vector<int64_t>& a = node.ints;
  return infer_windows(inputs[0], {a[0], a[2], a[4], a[6]}, {a[1], a[3], a[5], a[7]}, a[8] != 0, output);
}

pconv_status run_max_pool(const OpCall& call) {
  const Tensor &x = call.inputs[0], &y = call.output;
  if (y.shape.count() == 0) return PCONV_OK;
  const std::vector<int64_t>& a = call.node.ints;
  const int rank = x.shape.rank;
  const Planes planes(x, y);
  for (int64_t part = 0; part < planes.parts; ++part) {
    const pconv_max_pool_args args = {x.data + part * planes.in_step,
                                      y.data + part * planes.out_step,
                                      planes.planes,
                                      x.shape.dims[rank - 2],
                                      x.shape.dims[rank - 1],
                                      y.shape.dims[rank - 2],
                                      y.shape.dims[rank - 1],
                                      a[0],
                                      a[1],
                                      a[2],
                                      a[3],
                                      a[4],
                                      a[5],
                                      a[6],
                                      a[7],
                                      nullptr,
                                      call.n_threads};
    if (const pconv_status s = max_pool(args, call.table)) return s;
  }
  return PCONV_OK;
}

// ---- avg_pool --------------------------------------------------------------------------------------------------

pconv_status infer_avg_pool(const Node& node, const Shape* inputs, Shape* output) {
  if (const pconv_status s = check_planes(inputs[0])) return s;
  if (const pconv_status s = check_ints(node, 0, 4, 1, kMaxGeometry)) return s;
  if (const pconv_status s = check_ints(node, 4, 6, 0, kMaxGeometry)) return s;
  if (const pconv_status s = check_ints(node, 6, 8, 0, 1)) return s;
  if (const pconv_status s = check_int(node, 8, -kMaxSide, kMaxSide)) return s;
  const std::vector<int64_t>& a = node.ints;
  return infer_windows(inputs[0], {a[0], a[2], 1, a[4]}, {a[1], a[3], 1, a[5]}, a[6] != 0, output);
}

void average(const Planes& planes, AvgPoolArgs args, const Tensor& x, const Tensor& y, const OpCall& call) {
  const int rank = x.shape.rank;
  args.h = x.shape.dims[rank - 2], args.w = x.shape.dims[rank - 1];
  args.out_h = y.shape.dims[rank - 2], args.out_w = y.shape.dims[rank - 1];
  const int64_t floats = std::max(planes.in, planes.out * args.kernel_h);
  for_parts(planes.parts, planes.planes, floats, call.n_threads, [&](int64_t part, int64_t begin, int64_t end) {
    AvgPoolArgs piece = args;
    piece.x = x.data + part * planes.in_step + begin * planes.in;
    piece.y = y.data + part * planes.out_step + begin * planes.out;
    piece.planes = end - begin;
    call.table.ops->avg_pool(piece);
  });
}

pconv_status run_avg_pool(const OpCall& call) {
  const Tensor &x = call.inputs[0], &y = call.output;
  if (y.shape.count() == 0) return PCONV_OK;
  const std::vector<int64_t>& a = call.node.ints;
  AvgPoolArgs args = {};
  args.kernel_h = a[0], args.kernel_w = a[1], args.stride_h = a[2], args.stride_w = a[3];
  args.pad_h = a[4], args.pad_w = a[5];
  args.count_include_pad = a[7] != 0;
  args.divisor = a[8];
  average(Planes(x, y), args, x, y, call);
  return PCONV_OK;
}

// ---- adaptive_avg_pool -----------------------------------------------------------------------------------------

pconv_status infer_adaptive_avg_pool(const Node& node, const Shape* inputs, Shape* output) {
  if (const pconv_status s = check_planes(inputs[0])) return s;
  if (const pconv_status s = check_ints(node, 0, 2, 1, kMaxSide)) return s;
  *output = inputs[0];
  output->dims[output->rank - 2] = node.ints[0], output->dims[output->rank - 1] = node.ints[1];
  return PCONV_OK;
}

// Output i of `out` is the mean of the inputs [i * in / out, (i + 1) * in / out), rounded outwards.
struct Adaptive {
  int64_t begin, end;

  Adaptive(int64_t i, int64_t in, int64_t out) : begin(i * in / out), end(div_up((i + 1) * in, out)) {}
};

void adapt_plane(const float* x, int64_t h, int64_t w, float* y, int64_t out_h, int64_t out_w) {
  for (int64_t i = 0; i < out_h; ++i) {
    const Adaptive rows(i, h, out_h);
    for (int64_t j = 0; j < out_w; ++j) {
      const Adaptive columns(j, w, out_w);
      float sum = 0.0f;
      for (int64_t r = rows.begin; r < rows.end; ++r) {
        for (int64_t c = columns.begin; c < columns.end; ++c) sum += x[r * w + c];
      }
      *y++ = sum / static_cast<float>((rows.end - rows.begin) * (columns.end - columns.begin));
    }
  }
}

pconv_status run_sums(const OpCall& call, int n_dims);

pconv_status run_adaptive_avg_pool(const OpCall& call) {
  const Tensor &x = call.inputs[0], &y = call.output;
  if (y.shape.count() == 0) return PCONV_OK;
  const int rank = x.shape.rank;
  const int64_t h = x.shape.dims[rank - 2], w = x.shape.dims[rank - 1];
  const int64_t out_h = call.node.ints[0], out_w = call.node.ints[1];
  if (out_h == 1 && out_w == 1) return run_sums(call, 2);
  const Planes planes(x, y);
  if (h % out_h == 0 && w % out_w == 0) {
    AvgPoolArgs args = {};
    args.kernel_h = args.stride_h = h / out_h, args.kernel_w = args.stride_w = w / out_w;
    average(planes, args, x, y, call);
    return PCONV_OK;
  }
  for_parts(planes.parts, planes.planes, std::max(planes.in, planes.out), call.n_threads,
            [&](int64_t part, int64_t begin, int64_t end) {
              for (int64_t p = begin; p < end; ++p) {
                adapt_plane(x.data + part * planes.in_step + p * planes.in, h, w,
                            y.data + part * planes.out_step + p * planes.out, out_h, out_w);
              }
            });
  return PCONV_OK;
}

// ---- mean ------------------------------------------------------------------------------------------------------

pconv_status infer_mean(const Node& node, const Shape* inputs, Shape* output) {
  const Shape& x = inputs[0];
  if (const pconv_status s = check_rank(x, 1, kMaxRank)) return s;
  if (const pconv_status s = check_int(node, 0, 1, x.rank)) return s;
  if (const pconv_status s = check_int(node, 1, 0, 1)) return s;
  const int first = x.rank - static_cast<int>(node.ints[0]);
  *output = x;
  for (int i = first; i < x.rank; ++i) output->dims[i] = 1;
  if (node.ints[1] == 0) output->rank = first;
  return PCONV_OK;
}

// The sum of a whole tensor: of each part, and of these; the same bits wherever the parts lie.
pconv_status run_sum_of_parts(const OpCall& call, float scale) {
  const Tensor& x = call.inputs[0];
  const int64_t parts = x.shape.dims[0], floats = x.shape.inner(1);
  auto* sums = reinterpret_cast<float*>(thread_scratch(static_cast<size_t>(parts) * sizeof(float)));
  if (sums == nullptr) return fail(PCONV_OUT_OF_MEMORY, "scratch: could not allocate %" PRId64 " floats", parts);
  for_ranges(parts, floats, call.n_threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) call.table.ops->sum({x.data + i * x.step, sums + i, 1, floats, 1.0f});
  });
  call.table.ops->sum({sums, call.output.data, 1, parts, scale});
  return PCONV_OK;
}

// Means over the last n_dims dims.
pconv_status run_sums(const OpCall& call, int n_dims) {
  const Tensor &x = call.inputs[0], &y = call.output;
  if (y.shape.count() == 0) return PCONV_OK;
  const int first = x.shape.rank - n_dims;
  const int64_t floats = x.shape.inner(first);
  const auto scale = static_cast<float>(1.0 / static_cast<double>(floats));  // of nothing: infinity, times 0 is NaN
  if (first == 0 && (x.shape.rank > 1 || !x.contiguous())) return run_sum_of_parts(call, scale);
  int64_t parts = 1, planes = 1, y_step = 0;
  for (int i = 0; i < first; ++i) planes *= x.shape.dims[i];
  if (first > 0 && !(x.contiguous() && y.contiguous())) parts = x.shape.dims[0], planes /= parts, y_step = y.step;
  for_parts(parts, planes, floats, call.n_threads, [&](int64_t part, int64_t begin, int64_t end) {
    const float* from = x.data + part * x.step + begin * floats;
    call.table.ops->sum({from, y.data + part * y_step + begin, end - begin, floats, scale});
  });
  return PCONV_OK;
}

pconv_status run_mean(const OpCall& call) { return run_sums(call, static_cast<int>(call.node.ints[0])); }

}  // namespace

namespace rules {
const OpRule max_pool = {infer_max_pool, run_max_pool, nullptr};
const OpRule avg_pool = {infer_avg_pool, run_avg_pool, nullptr};
const OpRule adaptive_avg_pool = {infer_adaptive_avg_pool, run_adaptive_avg_pool, nullptr};
const OpRule mean = {infer_mean, run_mean, nullptr};
}  // namespace rules

}  // namespace pconv
