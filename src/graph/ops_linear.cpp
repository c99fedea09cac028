// linear: y = x * weight^T + bias over the last dim.
#include <cinttypes>

#include "checked.h"
#include "rules.h"
#include "scratch.h"

namespace pconv {
namespace {

pconv_status infer_linear(const Node& node, const Shape* inputs, Shape* output) {
  const Shape& x = inputs[0];
  if (const pconv_status s = check_rank(x, 1, kMaxRank)) return s;
  const int64_t in = x.dims[x.rank - 1];
  const Data &weight = *node.find(Role::kWeight), *bias = node.find(Role::kBias);
  if (in < 1 || weight.count < in || weight.count % in != 0) {
    return fail(PCONV_INVALID_ARGUMENT, "weight: got %" PRId64 " floats, allowed are multiples of the input's %" PRId64,
                weight.count, in);
  }
  const int64_t out = weight.count / in;
  if (bias != nullptr && bias->count != out) {
    return fail(PCONV_INVALID_ARGUMENT, "bias: got %" PRId64 " floats, needed are %" PRId64, bias->count, out);
  }
  *output = x;
  output->dims[x.rank - 1] = out;
  return check_activation(node, *output);
}

// Cuts the outputs into tasks, or the rows where these are many more.
void run_rows(const LinearArgs& args, const OpCall& call) {
  const int64_t out = args.out_end;
  const double floats = static_cast<double>(args.in) * static_cast<double>(args.rows);
  const auto each = static_cast<int64_t>(std::min(floats, static_cast<double>(kMaxTensorFloats)));
  if (out >= args.rows) {
    for_ranges(out, each, call.n_threads, [&](int64_t begin, int64_t end) {
      LinearArgs piece = args;
      piece.out_begin = begin, piece.out_end = end;
      call.table.ops->linear(piece);
    });
    return;
  }
  for_ranges(args.rows, args.in * out, call.n_threads, [&](int64_t begin, int64_t end) {
    LinearArgs piece = args;
    piece.x += begin * args.x_step, piece.y += begin * args.y_step;
    piece.rows = end - begin;
    call.table.ops->linear(piece);
  });
}

// A single row whose floats lie apart is computed in scratch.
pconv_status run_scattered(LinearArgs args, const OpCall& call) {
  const Tensor &x = call.inputs[0], &y = call.output;
  const int64_t floats = args.in + args.out_end;
  auto* row = reinterpret_cast<float*>(thread_scratch(static_cast<size_t>(floats) * sizeof(float)));
  if (row == nullptr) return fail(PCONV_OUT_OF_MEMORY, "scratch: could not allocate %" PRId64 " floats", floats);
  for (int64_t i = 0; i < args.in; ++i) row[i] = x.data[i * x.step];
  args.x = row, args.y = row + args.in;
  run_rows(args, call);
  for (int64_t o = 0; o < args.out_end; ++o) y.data[o * y.step] = args.y[o];
  return PCONV_OK;
}

pconv_status run_linear(const OpCall& call) {
  const Tensor &x = call.inputs[0], &y = call.output;
  if (y.shape.count() == 0) return PCONV_OK;
  const NodeActivation activation(call.node);
  const Data* bias = call.node.find(Role::kBias);
  LinearArgs args = {};
  args.in = x.shape.dims[x.shape.rank - 1];
  args.weights = call.node.find(Role::kWeight)->values;
  args.bias = bias != nullptr ? bias->values : nullptr;
  args.out_end = y.shape.dims[y.shape.rank - 1];
  args.activation = activation.all;
  args.x_step = args.in, args.y_step = args.out_end;
  if (x.shape.rank == 1) {
    args.rows = 1;
    if (!x.contiguous() || !y.contiguous()) return run_scattered(args, call);
  } else if (x.shape.rank == 2) {
    args.rows = x.shape.dims[0];
    args.x_step = x.step, args.y_step = y.step;
  } else {
    args.rows = x.shape.inner(1) / args.in;
  }
  const bool whole = x.shape.rank <= 2 || (x.contiguous() && y.contiguous());
  if (whole && x.shape.rank > 2) args.rows *= x.shape.dims[0];
  for (int64_t part = 0; part < (whole ? 1 : x.shape.dims[0]); ++part) {
    args.x = x.data + part * x.step, args.y = y.data + part * y.step;
    run_rows(args, call);
  }
  finish(activation, call);
  return PCONV_OK;
}

}  // namespace

namespace rules {
const OpRule linear = {infer_linear, run_linear, nullptr};
}  // namespace rules

}  // namespace pconv
