// Runs the steps of a session one after another; each spreads its own work over the threads.

#include "clock.h"
#include "pool.h"
#include "session.h"
#include "status.h"
#include "strided_copy.h"
#include "validate.h"

namespace pconv {
namespace {

class Running {
 public:
  explicit Running(std::atomic<bool>* flag) : flag_(*flag), mine_(!flag->exchange(true)) {}
  ~Running() {
    if (mine_) flag_.store(false);
  }
  bool mine() const { return mine_; }

 private:
  std::atomic<bool>& flag_;
  const bool mine_;
};

uint64_t bytes_of(const Shape& shape) { return static_cast<uint64_t>(shape.count()) * sizeof(float); }

// Output `index` shares no memory with inputs and earlier outputs.
pconv_status check_output(const pconv_session& session, const pconv_session_args& args, size_t index) {
  const Model& model = *session.model;
  const auto bytes = [&](size_t i) { return bytes_of(session.shapes[static_cast<size_t>(model.outputs[i].value)]); };
  const char* name = model.outputs[index].name.c_str();
  for (size_t i = 0; i < model.inputs.size(); ++i) {
    if (!overlap(args.inputs[i], bytes_of(session.shapes[i]), args.outputs[index], bytes(index))) continue;
    return fail(PCONV_INVALID_ARGUMENT, "outputs[%zu] (\"%s\"): overlaps inputs[%zu]", index, name, i);
  }
  for (size_t i = 0; i < index; ++i) {
    if (!overlap(args.outputs[i], bytes(i), args.outputs[index], bytes(index))) continue;
    return fail(PCONV_INVALID_ARGUMENT, "outputs[%zu] (\"%s\"): overlaps outputs[%zu]", index, name, i);
  }
  return PCONV_OK;
}

pconv_status check_args(const pconv_session& session, const pconv_session_args& args) {
  const Model& model = *session.model;
  if (const pconv_status s = check_threads(args.n_threads)) return s;
  for (size_t i = 0; i < model.inputs.size(); ++i) {
    if (args.inputs[i] != nullptr || session.shapes[i].count() == 0) continue;
    return fail(PCONV_INVALID_ARGUMENT, "inputs[%zu] (\"%s\"): is null", i, model.inputs[i].name.c_str());
  }
  for (size_t i = 0; i < model.outputs.size(); ++i) {
    if (args.outputs[i] == nullptr && session.shapes[static_cast<size_t>(model.outputs[i].value)].count() > 0) {
      return fail(PCONV_INVALID_ARGUMENT, "outputs[%zu] (\"%s\"): is null", i, model.outputs[i].name.c_str());
    }
    if (const pconv_status s = check_output(session, args, i)) return s;
  }
  return PCONV_OK;
}

// The addresses of the caller's tensors.
void bind(const pconv_session_args& args, const Place& place, Tensor* tensor) {
  if (place.base == PCONV_INPUT) tensor->data = const_cast<float*>(args.inputs[place.index]) + place.offset;
  if (place.base == PCONV_OUTPUT) tensor->data = args.outputs[place.index] + place.offset;
}

pconv_status run_step(const pconv_session& session, const Step& step, int n_threads) {
  if (step.is_copy) {
    copy_tensor(step.inputs[0], step.output, n_threads);
    return PCONV_OK;
  }
  const Node& node = session.model->nodes[static_cast<size_t>(step.node)];
  return node.op->run({node, step.inputs.data(), step.output, *session.isa->table, step.plan.get(), n_threads});
}

}  // namespace

void copy_tensor(const Tensor& from, const Tensor& to, int n_threads) {
  const int64_t parts = from.shape.rank > 0 ? from.shape.dims[0] : 1;
  StridedCopy copy = {};
  copy.add(parts, from.step, to.step);
  copy.add(from.shape.part(), 1, 1);
  copy.run(from.data, to.data, n_threads);
}

pconv_status run_session(pconv_session* session, const pconv_session_args& args) {
  const Running running(&session->running);
  if (!running.mine()) return fail(PCONV_INVALID_ARGUMENT, "session: is running in another thread");
  if (const pconv_status s = check_args(*session, args)) return s;
  const int n_threads = args.n_threads > 0 ? args.n_threads : default_threads();
  const KeepAwake awake(n_threads);
  double* seconds = args.step_seconds;
  for (Step& step : session->steps) {
    const double start = seconds != nullptr ? seconds_now() : 0;
    for (size_t i = 0; i < step.inputs.size(); ++i) bind(args, step.input_places[i], &step.inputs[i]);
    bind(args, step.output_place, &step.output);
    if (const pconv_status s = run_step(*session, step, n_threads)) return s;
    if (seconds != nullptr) *seconds++ = seconds_now() - start;
  }
  return PCONV_OK;
}

}  // namespace pconv
