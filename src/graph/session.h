// A model planned for input shapes: steps in order, each with its tensors, and the memory of activations.
#ifndef PCONV_GRAPH_SESSION_H_
#define PCONV_GRAPH_SESSION_H_

#include <atomic>
#include <memory>
#include <vector>

#include "model.h"
#include "op.h"
#include "places.h"
#include "plan.h"

namespace pconv {

struct Step {
  int node;      // whose run it is, or on whose behalf it copies; of a copy to an output the node that made it, or -1
  bool is_copy;  // of input 0 to the output
  std::vector<Place> input_places;
  std::vector<Tensor> inputs;  // as placed; addresses of the caller's tensors are those of the last call
  Place output_place;
  Tensor output;
  std::unique_ptr<pconv_plan> plan;  // of a convolution
  int max_pool;  // as in pconv_plan_options: the output is that of the pooling behind the convolution
};

// Memory from the system, aligned to kTileAlign.
struct FreeAligned {
  void operator()(float* p) const;
};

struct SessionOptions {
  std::vector<Shape> inputs;
  const char* isa = nullptr;
  std::vector<Choice> choices;
};

}  // namespace pconv

struct pconv_session {
  std::shared_ptr<pconv::Model> model;
  const pconv::Isa* isa = nullptr;
  std::vector<pconv::Shape> shapes;  // of every value
  std::vector<pconv::Step> steps;
  pconv::Arena arena_plan;
  std::unique_ptr<float[], pconv::FreeAligned> arena;
  int64_t weight_bytes = 0, scratch_bytes = 0;
  std::atomic<bool> running{false};
};

namespace pconv {

pconv_status plan_session(const std::shared_ptr<Model>& model, const SessionOptions& options,
                          std::unique_ptr<pconv_session>* session);
pconv_status run_session(pconv_session* session, const pconv_session_args& args);

// Copies between tensors of one shape.
void copy_tensor(const Tensor& from, const Tensor& to, int n_threads);

}  // namespace pconv
#endif  // PCONV_GRAPH_SESSION_H_
