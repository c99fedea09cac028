#include "rules.h"

#include <cinttypes>
#include <cmath>
#include <cstring>

#include "checked.h"

namespace pconv {
namespace {

// The name at `index` of a list such as "kernel_h,kernel_w".
struct Name {
  const char* text;
  int length;

  Name(const char* names, int index) : text(names) {
    for (; index > 0 && std::strchr(text, ',') != nullptr; --index) text = std::strchr(text, ',') + 1;
    length = static_cast<int>(std::strcspn(text, ",."));
  }
};

void activate_channels(const float* slopes, const Tensor& x, const Tensor& y, const OpCall& call) {
  const int64_t channels = y.shape.dims[1], floats = y.shape.inner(2);
  for_parts(y.shape.dims[0], channels, floats, call.n_threads, [&](int64_t part, int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const Activation leaky = {ActivationKind::kLeakyRelu, slopes[c], 0.0f};
      call.table.ops->activate(
          {x.data + part * x.step + c * floats, y.data + part * y.step + c * floats, floats, leaky});
    }
  });
}

// Work of an activation, in floats that are only moved.
int64_t cost_of(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kSigmoid:
    case ActivationKind::kSilu:
    case ActivationKind::kTanh:
    case ActivationKind::kGelu:
    case ActivationKind::kGeluTanh:
    case ActivationKind::kElu:
      return 4;
    default:
      return 1;
  }
}

}  // namespace

pconv_status check_shape(const char* what, const Shape& shape) {
  if (shape.rank < 0 || shape.rank > kMaxRank) {
    return fail(PCONV_INVALID_ARGUMENT, "%s: got rank %d, allowed 0 to %d", what, shape.rank, kMaxRank);
  }
  CheckedSize floats = checked(1);
  for (int i = 0; i < shape.rank; ++i) {
    if (shape.dims[i] < 0) {
      return fail(PCONV_INVALID_ARGUMENT, "%s: dim %d is %" PRId64 ", allowed 0 or more", what, i, shape.dims[i]);
    }
    floats = floats * checked(std::max<int64_t>(shape.dims[i], 1));
  }
  if (floats.at_most(static_cast<uint64_t>(kMaxTensorFloats))) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "%s: more than %" PRId64 " floats", what, kMaxTensorFloats);
}

pconv_status check_rank(const Shape& shape, int least, int most) {
  if (shape.rank >= least && shape.rank <= most) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "input 0: got rank %d, allowed %d to %d", shape.rank, least, most);
}

pconv_status check_int(const Node& node, int index, int64_t low, int64_t high) {
  const int64_t got = node.ints[static_cast<size_t>(index)];
  if (got >= low && got <= high) return PCONV_OK;
  const Name name(node.op->ints, index);
  return fail(PCONV_INVALID_ARGUMENT, "%.*s: got %" PRId64 ", allowed %" PRId64 " to %" PRId64, name.length, name.text,
              got, low, high);
}

pconv_status check_ints(const Node& node, int first, int end, int64_t low, int64_t high) {
  for (int i = first; i < end; ++i) {
    if (const pconv_status s = check_int(node, i, low, high)) return s;
  }
  return PCONV_OK;
}

pconv_status check_activation(const Node& node, const Shape& output) {
  if (const pconv_status s = check_int(node, 0, 0, kActivationKinds - 1)) return s;
  const auto kind = static_cast<ActivationKind>(node.ints[0]);
  const float alpha = node.floats[0], beta = node.floats[1];
  if (std::isnan(alpha)) return fail(PCONV_INVALID_ARGUMENT, "alpha: is NaN");
  if (std::isnan(beta)) return fail(PCONV_INVALID_ARGUMENT, "beta: is NaN");
  if (kind == ActivationKind::kClamp && alpha > beta) {
    return fail(PCONV_INVALID_ARGUMENT, "alpha: got %g and beta %g, allowed alpha <= beta for a clamp",
                static_cast<double>(alpha), static_cast<double>(beta));
  }
  const Data* slope = node.find(Role::kSlope);
  if (kind != ActivationKind::kPrelu) {
    return slope == nullptr ? PCONV_OK : fail(PCONV_INVALID_ARGUMENT, "slope: is there without a prelu activation");
  }
  if (slope == nullptr) return fail(PCONV_INVALID_ARGUMENT, "slope: is missing, a prelu activation needs it");
  if (slope->count == 1) return PCONV_OK;
  if (output.rank < 2) {
    return fail(PCONV_INVALID_ARGUMENT, "slope: got %" PRId64 " floats, allowed 1 for an output of rank %d",
                slope->count, output.rank);
  }
  if (slope->count == output.dims[1]) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "slope: got %" PRId64 " floats, allowed 1 or the channels, %" PRId64,
              slope->count, output.dims[1]);
}

NodeActivation::NodeActivation(const Node& node)
    : all{static_cast<ActivationKind>(node.ints[0]), node.floats[0], node.floats[1]}, slopes(nullptr) {
  if (all.kind != ActivationKind::kPrelu) return;
  const Data& slope = *node.find(Role::kSlope);
  if (slope.count == 1) {
    all = {ActivationKind::kLeakyRelu, slope.values[0], 0.0f};
  } else {
    all = {ActivationKind::kNone, 0.0f, 0.0f};
    slopes = slope.values;
  }
}

void activate(const NodeActivation& activation, const Tensor& x, const Tensor& y, const OpCall& call) {
  if (y.shape.count() == 0) return;
  if (activation.slopes != nullptr) return activate_channels(activation.slopes, x, y, call);
  const bool whole = x.contiguous() && y.contiguous();
  const int64_t parts = whole ? 1 : parts_of(y.shape), floats = y.shape.count() / parts;
  for_parts(parts, floats, cost_of(activation.all.kind), call.n_threads, [&](int64_t part, int64_t begin, int64_t end) {
    const float* from = x.data + part * x.step + begin;
    call.table.ops->activate({from, y.data + part * y.step + begin, end - begin, activation.all});
  });
}

void finish(const NodeActivation& activation, const OpCall& call) {
  if (activation.slopes != nullptr) activate(activation, call.output, call.output, call);
}

Planes::Planes(const Tensor& x, const Tensor& y) {
  const int rank = x.shape.rank, last = y.shape.rank;
  in = x.shape.inner(rank - 2), out = y.shape.inner(last - 2);
  parts = x.shape.dims[0];
  planes = 1;
  for (int i = 1; i < rank - 2; ++i) planes *= x.shape.dims[i];
  in_step = x.step, out_step = y.step;
  if (x.contiguous() && y.contiguous()) planes *= parts, parts = 1;
}

}  // namespace pconv
