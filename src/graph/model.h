// A network in memory: validated, immutable but for where the weights of its layers lie (spare_weights.h).
#ifndef PCONV_GRAPH_MODEL_H_
#define PCONV_GRAPH_MODEL_H_

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "node.h"
#include "pconv/network.h"

namespace pconv {

// Limits of docs/FORMAT.md.
constexpr int64_t kMaxDim = int64_t{1} << 30;
constexpr size_t kMaxNameBytes = 4096;
constexpr int kMaxNodes = 1 << 16;
constexpr size_t kMaxEnds = 1024;  // inputs, and outputs

struct ModelInput {
  std::string name;
  Shape shape;
  uint32_t free_dims = 0;
};

struct ModelOutput {
  std::string name;
  int value = 0;
};

struct Choice {
  int node = 0;
  std::string isa, ukernel;
  int64_t n = 0, h = 0, w = 0;
};

struct Model {
  std::vector<ModelInput> inputs;
  std::vector<Node> nodes;  // in an order in which they can run; node i makes value inputs.size() + i
  std::vector<ModelOutput> outputs;
  std::vector<Choice> choices;
  std::vector<Shape> shapes;  // of every value, for the inputs' own shapes
  bool single_output = false;
  int n_data = 0;                                     // of all nodes
  std::unordered_map<const void*, int> data_numbers;  // of the first data that lie there, by Data::identity()
  std::mutex planning;                                // held by whoever reads or moves the weights of layers

  int n_values() const { return static_cast<int>(inputs.size() + nodes.size()); }
  int value_of(int node) const { return static_cast<int>(inputs.size()) + node; }
  int node_of(int value) const { return value - static_cast<int>(inputs.size()); }  // negative: an input
};

// Whether inputs may have these shapes.
pconv_status check_inputs(const Model& model, const std::vector<Shape>& shapes);
// The shapes of all values for inputs of these shapes. The text of a failure names the node.
pconv_status infer_shapes(const Model& model, const std::vector<Shape>& inputs, std::vector<Shape>* shapes);

// Each checks what it adds and leaves the model as it was if that is refused. Texts name what is wrong.
pconv_status add_input(Model* model, ModelInput input);
// `node` has everything but its output.
pconv_status add_node(Model* model, Node node);
pconv_status add_output(Model* model, ModelOutput output);
pconv_status check_choice(const Model& model, size_t index, const Choice& choice);
pconv_status add_choice(Model* model, Choice choice);
pconv_status check_whole(const Model& model);  // at the end

}  // namespace pconv

struct pconv_model {
  std::shared_ptr<pconv::Model> model;
};
#endif  // PCONV_GRAPH_MODEL_H_
