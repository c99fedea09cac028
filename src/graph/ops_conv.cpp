// conv: a packed layer, with the residual of a second input.
#include <cinttypes>
#include <limits>

#include "rules.h"
#include "run.h"
#include "validate.h"

namespace pconv {
namespace {

pconv_status infer_conv(const Node& node, const Shape* inputs, Shape* output) {
  const Shape& x = inputs[0];
  if (const pconv_status s = check_rank(x, 4, 4)) return s;
  const pconv_conv_desc conv = desc_of(node.find(Role::kLayer)->layer->view.header);
  if (x.dims[1] != conv.in_channels) {
    return fail(PCONV_INVALID_ARGUMENT, "input 0: got %" PRId64 " channels, the layer has %" PRId64, x.dims[1],
                conv.in_channels);
  }
  *output = x;
  output->dims[1] = conv.out_channels;
  if (const pconv_status s = validate_map(conv, x.dims[0], x.dims[2], x.dims[3], &output->dims[2], &output->dims[3])) {
    return s;
  }
  if (node.inputs.size() > 1 && inputs[1] != *output) {
    return fail(PCONV_INVALID_ARGUMENT, "input 1: a residual must have the shape of the output");
  }
  return check_activation(node, *output);
}

// Clamps are the plan's; other activations follow in a pass of their own.
pconv_status run_conv(const OpCall& call) {
  if (call.output.shape.count() == 0) return PCONV_OK;
  const NodeActivation activation(call.node);
  const bool clamps = activation.all.kind == ActivationKind::kClamp;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Tensor* residual = call.node.inputs.size() > 1 ? &call.inputs[1] : nullptr;
  RunArgs args = {};
  args.x = call.inputs[0].data, args.x_step = call.inputs[0].step;
  args.y = call.output.data, args.y_step = call.output.step;
  if (residual != nullptr) args.residual = residual->data, args.residual_step = residual->step;
  args.clamp_min = clamps ? activation.all.alpha : -kInfinity;
  args.clamp_max = clamps ? activation.all.beta : kInfinity;
  args.n_threads = call.n_threads;
  if (const pconv_status s = run_plan(*call.plan, args)) return s;
  if (clamps || (activation.all.kind == ActivationKind::kNone && activation.slopes == nullptr)) return PCONV_OK;
  activate(activation, call.output, call.output, call);
  return PCONV_OK;
}

}  // namespace

namespace rules {
const OpRule conv = {infer_conv, run_conv, nullptr, 0b10};  // its residual
}  // namespace rules

}  // namespace pconv
