#include "model.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "checked.h"
#include "op.h"
#include "rules.h"
#include "status.h"

namespace pconv {
namespace {

// UTF-8 without control characters, so that it can be printed anywhere.
bool is_text(const std::string& s) {
  for (size_t i = 0; i < s.size();) {
    const auto byte = [&](size_t at) { return at < s.size() ? static_cast<unsigned char>(s[at]) : 0u; };
    const unsigned c = byte(i);
    const size_t length = c < 0x80                ? 1
                          : c >= 0xc2 && c < 0xe0 ? 2
                          : c >= 0xe0 && c < 0xf0 ? 3
                          : c >= 0xf0 && c < 0xf5 ? 4
                                                  : 0;
    if (length == 0 || c < 0x20 || c == 0x7f) return false;
    for (size_t k = 1; k < length; ++k) {
      if ((byte(i + k) & 0xc0) != 0x80) return false;
    }
    const unsigned second = byte(i + 1);
    if ((c == 0xe0 && second < 0xa0) || (c == 0xed && second > 0x9f) || (c == 0xf0 && second < 0x90) ||
        (c == 0xf4 && second > 0x8f)) {
      return false;  // overlong, a surrogate, or behind the last character
    }
    const bool separator = c == 0xe2 && second == 0x80 && (byte(i + 2) == 0xa8 || byte(i + 2) == 0xa9);
    if (separator || (c == 0xc2 && second < 0xa0)) return false;  // of lines and paragraphs; C1 controls
    i += length;
  }
  return true;
}

pconv_status check_name(const char* what, const std::string& name) {
  if (name.empty()) return fail(PCONV_INVALID_ARGUMENT, "name of %s: is empty", what);
  if (name.size() > kMaxNameBytes) {
    return fail(PCONV_INVALID_ARGUMENT, "name of %s: has %zu bytes, at most %zu are allowed", what, name.size(),
                kMaxNameBytes);
  }
  if (!is_text(name)) return fail(PCONV_INVALID_ARGUMENT, "name of %s: is no UTF-8 text of one line", what);
  return PCONV_OK;
}

pconv_status check_input(const ModelInput& input) {
  if (const pconv_status s = check_name("an input", input.name)) return s;
  const Shape& shape = input.shape;
  const char* name = input.name.c_str();
  if (shape.rank < 0 || shape.rank > kMaxRank) {
    return fail(PCONV_INVALID_ARGUMENT, "input \"%s\": rank %d, allowed 0 to %d", name, shape.rank, kMaxRank);
  }
  CheckedSize count = checked(1);
  for (int i = 0; i < shape.rank; ++i) {
    if (shape.dims[i] < 1 || shape.dims[i] > kMaxDim) {
      return fail(PCONV_INVALID_ARGUMENT, "input \"%s\": dims[%d] is %" PRId64 ", allowed 1 to %" PRId64, name, i,
                  shape.dims[i], kMaxDim);
    }
    count = count * checked(shape.dims[i]);
  }
  if (!count.at_most(kMaxTensorFloats)) {
    return fail(PCONV_INVALID_ARGUMENT, "input \"%s\": has more than %" PRId64 " numbers", name, kMaxTensorFloats);
  }
  if (input.free_dims >> shape.rank != 0) {
    return fail(PCONV_INVALID_ARGUMENT, "input \"%s\": free_dims names a dim behind rank %d", name, shape.rank);
  }
  return PCONV_OK;
}

// infer_shape, with the node's name in front of the text.
pconv_status infer_named(int index, const Node& node, const std::vector<Shape>& shapes, Shape* output) {
  std::vector<Shape> inputs;
  for (const int value : node.inputs) inputs.push_back(shapes[static_cast<size_t>(value)]);
  const pconv_status s = infer_shape(node, inputs.data(), output);
  if (s == PCONV_OK) return s;
  char reason[320];
  std::snprintf(reason, sizeof(reason), "%s", last_error());
  return fail(s, "node %d \"%.100s\" (%s): %s", index, node.name.c_str(), node.op->name, reason);
}

}  // namespace

pconv_status check_inputs(const Model& model, const std::vector<Shape>& shapes) {
  for (size_t i = 0; i < model.inputs.size(); ++i) {
    const ModelInput& input = model.inputs[i];
    const char* name = input.name.c_str();
    if (const pconv_status s = check_shape(name, shapes[i])) return s;  // the product of dims that are free
    if (shapes[i].rank != input.shape.rank) {
      return fail(PCONV_INVALID_ARGUMENT, "input \"%s\": has %d dims, the network takes %d", name, shapes[i].rank,
                  input.shape.rank);
    }
    for (int d = 0; d < input.shape.rank; ++d) {
      const int64_t got = shapes[i].dims[d], made_for = input.shape.dims[d];
      const bool is_free = (input.free_dims >> d & 1) != 0;
      if (got == made_for || (is_free && got >= 1 && got <= kMaxDim)) continue;
      if (is_free) {
        return fail(PCONV_INVALID_ARGUMENT, "input \"%s\": dims[%d] is %" PRId64 ", allowed 1 to %" PRId64, name, d,
                    got, kMaxDim);
      }
      return fail(PCONV_INVALID_ARGUMENT, "input \"%s\": dims[%d] is %" PRId64 ", the network takes %" PRId64, name, d,
                  got, made_for);
    }
  }
  return PCONV_OK;
}

pconv_status infer_shapes(const Model& model, const std::vector<Shape>& inputs, std::vector<Shape>* shapes) {
  *shapes = inputs;
  for (size_t i = 0; i < model.nodes.size(); ++i) {
    Shape output;
    if (const pconv_status s = infer_named(static_cast<int>(i), model.nodes[i], *shapes, &output)) return s;
    shapes->push_back(output);
  }
  return PCONV_OK;
}

pconv_status add_input(Model* model, ModelInput input) {
  if (!model->nodes.empty())
    return fail(PCONV_INVALID_ARGUMENT, "input \"%s\": inputs come before nodes", input.name.c_str());
  if (model->inputs.size() == kMaxEnds) return fail(PCONV_INVALID_ARGUMENT, "inputs: more than %zu", kMaxEnds);
  if (const pconv_status s = check_input(input)) return s;
  model->shapes.push_back(input.shape);
  model->inputs.push_back(std::move(input));
  return PCONV_OK;
}

pconv_status add_node(Model* model, Node node) {
  const auto index = static_cast<int>(model->nodes.size());
  if (index == kMaxNodes) return fail(PCONV_INVALID_ARGUMENT, "nodes: more than %d", kMaxNodes);
  if (const pconv_status s = check_name("a node", node.name)) return s;
  for (const int value : node.inputs) {
    if (value < 0 || value >= model->n_values()) {
      return fail(PCONV_INVALID_ARGUMENT, "node %d \"%.100s\": reads value %d, there are %d before it", index,
                  node.name.c_str(), value, model->n_values());
    }
  }
  node.output = model->n_values();
  Shape output;
  if (const pconv_status s = infer_named(index, node, model->shapes, &output)) return s;
  node.first_data = model->n_data;
  for (const Data& data : node.data) model->data_numbers.emplace(data.identity(), model->n_data++);
  model->nodes.push_back(std::move(node));
  model->shapes.push_back(output);
  return PCONV_OK;
}

pconv_status add_output(Model* model, ModelOutput output) {
  if (model->outputs.size() == kMaxEnds) return fail(PCONV_INVALID_ARGUMENT, "outputs: more than %zu", kMaxEnds);
  if (const pconv_status s = check_name("an output", output.name)) return s;
  if (output.value < 0 || output.value >= model->n_values()) {
    return fail(PCONV_INVALID_ARGUMENT, "output \"%s\": is value %d, there are %d", output.name.c_str(), output.value,
                model->n_values());
  }
  model->outputs.push_back(std::move(output));
  return PCONV_OK;
}

pconv_status check_choice(const Model& model, size_t index, const Choice& choice) {
  if (choice.node < 0 || static_cast<size_t>(choice.node) >= model.nodes.size() ||
      model.nodes[static_cast<size_t>(choice.node)].find(Role::kLayer) == nullptr) {
    return fail(PCONV_INVALID_ARGUMENT, "choice %zu: node %d is no conv", index, choice.node);
  }
  if (const pconv_status s = check_name("an ISA in a choice", choice.isa)) return s;
  if (const pconv_status s = check_name("a ukernel in a choice", choice.ukernel)) return s;
  for (const int64_t size : {choice.n, choice.h, choice.w}) {
    if (size >= 1 && size <= kMaxDim) continue;
    return fail(PCONV_INVALID_ARGUMENT, "choice %zu: a map of %" PRId64 ", allowed 1 to %" PRId64, index, size,
                kMaxDim);
  }
  return PCONV_OK;
}

pconv_status add_choice(Model* model, Choice choice) {
  if (const pconv_status s = check_choice(*model, model->choices.size(), choice)) return s;
  model->choices.push_back(std::move(choice));
  return PCONV_OK;
}

pconv_status check_whole(const Model& model) {
  if (model.inputs.empty()) return fail(PCONV_INVALID_ARGUMENT, "model: has no input");
  if (model.outputs.empty()) return fail(PCONV_INVALID_ARGUMENT, "model: has no output");
  if (model.single_output && model.outputs.size() != 1) {
    return fail(PCONV_INVALID_ARGUMENT, "model: single_output with %zu outputs", model.outputs.size());
  }
  return PCONV_OK;
}

}  // namespace pconv
