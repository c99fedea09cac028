#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "pooled_convs.h"
#include "rules.h"
#include "session.h"
#include "spare_weights.h"
#include "status.h"

namespace pconv {

void FreeAligned::operator()(float* p) const { std::free(p); }

namespace {

class SessionPlanner {
 public:
  SessionPlanner(const std::shared_ptr<Model>& model, const SessionOptions& options, pconv_session* session)
      : model_(*model), options_(options), session_(*session) {
    session_.model = model;
  }

  pconv_status plan() {
    if (const pconv_status s = check_inputs(model_, options_.inputs)) return s;
    if (const pconv_status s = find_isa(options_.isa, &session_.isa)) return s;
    if (const pconv_status s = infer_shapes(model_, options_.inputs, &session_.shapes)) return s;
    pooled_ = find_pooled_convs(model_, session_.shapes);
    if (const pconv_status s = plan_places(model_, session_.shapes, pooled_, &places_)) return s;
    make_steps();
    if (const pconv_status s = make_arena()) return s;
    set_data();
    const std::lock_guard<std::mutex> lock(model_.planning);
    const pconv_status status = plan_layers();
    spare_layers();  // whatever came of it: weights exist once
    if (status == PCONV_OK) count_weights();
    return status;
  }

 private:
  void make_steps() {
    size_t move = 0;
    const auto n_nodes = static_cast<int>(model_.nodes.size());
    for (int i = 0; i <= n_nodes; ++i) {
      for (; move < places_.moves.size() && places_.moves[move].node == i; ++move) add_copy(places_.moves[move]);
      if (i < n_nodes && places_.runs[static_cast<size_t>(i)]) add_run(i);
    }
  }

  Tensor tensor(int value, const Place& place) const {
    return {nullptr, session_.shapes[static_cast<size_t>(value)], place.step};
  }

  void add_copy(const Move& move) {
    Step step = {};
    step.node = move.node < static_cast<int>(model_.nodes.size()) ? move.node : model_.node_of(move.value);
    step.is_copy = true;
    step.input_places.push_back(move.from);
    step.inputs.push_back(tensor(move.value, move.from));
    step.output_place = move.to;
    step.output = tensor(move.value, move.to);
    session_.steps.push_back(std::move(step));
  }

  void add_run(int i) {
    Step step = {};
    step.node = i;
    const auto place = [&](int value) { return places_.values[static_cast<size_t>(value)]; };
    for (const int value : model_.nodes[static_cast<size_t>(i)].inputs) {
      step.input_places.push_back(place(value));
      step.inputs.push_back(tensor(value, place(value)));
    }
    const int pooling = pooled_[static_cast<size_t>(i)];
    step.max_pool = pooling != kNotPooled ? 2 : 0;
    const int value = model_.value_of(pooling != kNotPooled ? pooling : i);
    step.output_place = place(value);
    step.output = tensor(value, step.output_place);
    session_.steps.push_back(std::move(step));
  }

  pconv_status make_arena() {
    session_.arena_plan = places_.arena;
    const int64_t floats = places_.arena.floats;
    if (floats == 0) return PCONV_OK;
    void* memory = nullptr;
    if (floats > INT64_MAX / 8 ||
        posix_memalign(&memory, kTileAlign, static_cast<size_t>(floats) * sizeof(float)) != 0) {
      return fail(PCONV_OUT_OF_MEMORY, "arena: could not allocate %" PRId64 " numbers for activations", floats);
    }
    session_.arena.reset(static_cast<float*>(memory));
    return PCONV_OK;
  }

  // The addresses of everything that does not come with a call.
  void set_data() {
    const auto set = [&](const Place& place, Tensor* tensor) {
      if (place.base == PCONV_ARENA) tensor->data = session_.arena.get() + place.offset;
      if (place.base != PCONV_DATA) return;
      // Constants are only read.
      const Data* data = model_.nodes[static_cast<size_t>(place.index)].find(Role::kValue);
      tensor->data = const_cast<float*>(data->values) + place.offset;
    };
    for (Step& step : session_.steps) {
      for (size_t i = 0; i < step.inputs.size(); ++i) set(step.input_places[i], &step.inputs[i]);
      set(step.output_place, &step.output);
    }
  }

  // The ukernel that a choice names for a layer and its input; null: none.
  const char* chosen(int node, const pconv_plan_options& o) const {
    const auto found = chosen_.find({node, o.n, o.h, o.w});
    return found == chosen_.end() ? nullptr : found->second;
  }

  pconv_status plan_layers() {
    for (const Choice& c : options_.choices) {
      if (c.isa == session_.isa->name) chosen_.insert({{c.node, c.n, c.h, c.w}, c.ukernel.c_str()});
    }
    for (Step& step : session_.steps) {
      if (step.is_copy) continue;
      const Node& node = model_.nodes[static_cast<size_t>(step.node)];
      const Data* data = node.find(Role::kLayer);
      if (data == nullptr) continue;
      if (const pconv_status s = plan_layer(data->layer.get(), &step)) {
        char reason[320];
        std::snprintf(reason, sizeof(reason), "%s", last_error());
        return fail(s, "node %d \"%.100s\": %s", step.node, node.name.c_str(), reason);
      }
      session_.scratch_bytes = std::max(session_.scratch_bytes, step.plan->scratch_bytes);
    }
    return PCONV_OK;
  }

  void spare_layers() {
    for (const Step& step : session_.steps) {
      if (step.plan == nullptr) continue;
      spare_weights(model_.nodes[static_cast<size_t>(step.node)].find(Role::kLayer)->layer.get());
    }
  }

  pconv_status plan_layer(pconv_packed* layer, Step* step) {
    const Shape& in = step->inputs[0].shape;
    pconv_plan_options o = {in.dims[0],         in.dims[2], in.dims[3], PCONV_NCHW,
                            session_.isa->name, nullptr,    0,          step->max_pool};
    if (const pconv_status s = restore_weights(layer)) return s;
    o.ukernel = chosen(step->node, o);
    if (o.ukernel != nullptr && make_plan(*layer, o, &step->plan) == PCONV_OK) return PCONV_OK;
    o.ukernel = nullptr;  // none was chosen, this build lacks it, or it cannot pool
    return make_plan(*layer, o, &step->plan);
  }

  // Each form and tensor once, however many nodes share it.
  void count_weights() {
    std::set<const void*> counted;
    const auto add = [&](const void* memory, int64_t bytes) {
      if (counted.insert(memory).second) session_.weight_bytes += bytes;
    };
    for (const Step& step : session_.steps) {
      if (step.plan == nullptr) continue;
      add(step.plan->prepacked.get(), step.plan->prepacked->bytes());
      add(step.plan.get(), step.plan->own_bytes());
      const pconv_packed& layer = *model_.nodes[static_cast<size_t>(step.node)].find(Role::kLayer)->layer;
      add(&layer, static_cast<int64_t>(layer.n_bytes));
    }
    for (const Node& node : model_.nodes) {
      for (const Data& data : node.data) {
        if (data.values != nullptr) add(data.values, data.count * static_cast<int64_t>(sizeof(float)));
      }
    }
  }

  Model& model_;
  const SessionOptions& options_;
  pconv_session& session_;
  std::vector<int> pooled_;  // find_pooled_convs()
  Places places_;
  std::map<std::array<int64_t, 4>, const char*> chosen_;  // (node, n, h, w) -> ukernel, of this ISA
};

}  // namespace

pconv_status plan_session(const std::shared_ptr<Model>& model, const SessionOptions& options,
                          std::unique_ptr<pconv_session>* session) {
  auto fresh = std::make_unique<pconv_session>();
  if (const pconv_status s = SessionPlanner(model, options, fresh.get()).plan()) return s;
  *session = std::move(fresh);
  return PCONV_OK;
}

}  // namespace pconv
