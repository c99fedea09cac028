// C API entry points of sessions: check pointers, hand over to the parts.
#include "api_common.h"
#include "guarded.h"
#include "session.h"
#include "status.h"

namespace pconv {
namespace {

pconv_place c_place(const Place& place, const Tensor& tensor) {
  return {place.base, place.index, place.offset, c_shape(tensor.shape, place.step)};
}

// Multiply-adds with kept weights.
int64_t macs(const Step& step) {
  if (step.plan == nullptr) return 0;
  return step.plan->n * step.plan->out_h * step.plan->out_w * step.plan->nnz;
}

pconv_status read_options(const Model& model, const pconv_session_options* from, SessionOptions* to) {
  for (const ModelInput& input : model.inputs) to->inputs.push_back(input.shape);
  if (from == nullptr || from->choices == nullptr) to->choices = model.choices;
  if (from == nullptr) return PCONV_OK;
  to->isa = from->isa;
  for (size_t i = 0; from->inputs != nullptr && i < to->inputs.size(); ++i) {
    if (const pconv_status s = read_shape(from->inputs[i], &to->inputs[i])) return s;
  }
  return read_choices(model, from->choices, from->n_choices, &to->choices);
}

}  // namespace
}  // namespace pconv

using pconv::check_index;
using pconv::guarded;
using pconv::null_argument;

pconv_status pconv_plan_model(const pconv_model* model, const pconv_session_options* options, pconv_session** session) {
  if (model == nullptr) return null_argument("model");
  if (session == nullptr) return null_argument("session");
  return guarded([&] {
    pconv::SessionOptions read;
    if (const pconv_status s = pconv::read_options(*model->model, options, &read)) return s;
    std::unique_ptr<pconv_session> result;
    const pconv_status s = pconv::plan_session(model->model, read, &result);
    if (s == PCONV_OK) *session = result.release();
    return s;
  });
}

void pconv_free_session(pconv_session* session) { delete session; }

pconv_status pconv_infer_shapes(const pconv_model* model, const pconv_shape* inputs, pconv_shape* shapes) {
  if (model == nullptr) return null_argument("model");
  if (inputs == nullptr || shapes == nullptr) return null_argument("inputs, shapes");
  return guarded([&] {
    const pconv::Model& m = *model->model;
    std::vector<pconv::Shape> given(m.inputs.size()), found;
    for (size_t i = 0; i < given.size(); ++i) {
      if (const pconv_status s = pconv::read_shape(inputs[i], &given[i])) return s;
    }
    if (const pconv_status s = pconv::check_inputs(m, given)) return s;
    if (const pconv_status s = pconv::infer_shapes(m, given, &found)) return s;
    for (size_t i = 0; i < found.size(); ++i) shapes[i] = pconv::c_shape(found[i], 0);
    return PCONV_OK;
  });
}

pconv_status pconv_query_session(const pconv_session* session, pconv_session_info* info) {
  if (session == nullptr) return null_argument("session");
  if (info == nullptr) return null_argument("info");
  constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  *info = {static_cast<int>(session->steps.size()),
           session->arena_plan.floats * kFloat,
           session->arena_plan.live_floats * kFloat,
           session->weight_bytes,
           session->scratch_bytes,
           session->isa->name};
  return PCONV_OK;
}

pconv_status pconv_get_session_output(const pconv_session* session, int index, pconv_shape* shape) {
  if (session == nullptr) return null_argument("session");
  if (shape == nullptr) return null_argument("shape");
  const std::vector<pconv::ModelOutput>& outputs = session->model->outputs;
  if (const pconv_status s = check_index("index", index, outputs.size())) return s;
  *shape = pconv::c_shape(session->shapes[static_cast<size_t>(outputs[static_cast<size_t>(index)].value)], 0);
  return PCONV_OK;
}

pconv_status pconv_get_step(const pconv_session* session, int index, pconv_step_info* info) {
  if (session == nullptr) return null_argument("session");
  if (info == nullptr) return null_argument("info");
  if (const pconv_status s = check_index("index", index, session->steps.size())) return s;
  const pconv::Step& step = session->steps[static_cast<size_t>(index)];
  const pconv::Node* node = step.node >= 0 ? &session->model->nodes[static_cast<size_t>(step.node)] : nullptr;
  *info = {step.node,
           node != nullptr ? node->name.c_str() : "",
           step.is_copy ? "copy" : node->op->name,
           step.plan != nullptr ? step.plan->ukernel->name : nullptr,
           pconv::macs(step),
           step.max_pool,
           static_cast<int>(step.inputs.size()),
           pconv::c_place(step.output_place, step.output)};
  return PCONV_OK;
}

pconv_status pconv_get_step_input(const pconv_session* session, int step, int index, pconv_place* place) {
  if (session == nullptr) return null_argument("session");
  if (place == nullptr) return null_argument("place");
  if (const pconv_status s = check_index("step", step, session->steps.size())) return s;
  const pconv::Step& of = session->steps[static_cast<size_t>(step)];
  if (const pconv_status s = check_index("index", index, of.inputs.size())) return s;
  *place = pconv::c_place(of.input_places[static_cast<size_t>(index)], of.inputs[static_cast<size_t>(index)]);
  return PCONV_OK;
}

pconv_status pconv_run_session(pconv_session* session, const pconv_session_args* args) {
  if (session == nullptr) return null_argument("session");
  if (args == nullptr) return null_argument("args");
  if (args->inputs == nullptr || args->outputs == nullptr) return null_argument("args.inputs, args.outputs");
  return guarded([&] { return pconv::run_session(session, *args); });
}
