// C API entry points of models and builders: check pointers, hand over to the parts.
#include <cstdlib>
#include <cstring>

#include "api_common.h"
#include "guarded.h"
#include "model_builder.h"
#include "model_file.h"
#include "op.h"
#include "spare_weights.h"
#include "status.h"

namespace pconv {
namespace {

pconv_status write_with_choices(const pconv_model* model, const pconv_choice* choices, int n_choices, Bytes* bytes) {
  std::vector<Choice> list;
  if (const pconv_status s = read_choices(*model->model, choices, n_choices, &list)) return s;
  return write_model(model->model.get(), list, bytes);
}

pconv_status read_as_model(const void* bytes, size_t n_bytes, pconv_model** model) {
  std::shared_ptr<Model> read;
  if (const pconv_status s = read_model(static_cast<const unsigned char*>(bytes), n_bytes, &read)) return s;
  *model = new pconv_model{std::move(read)};
  return PCONV_OK;
}

// What it would take dense, in fp32.
int64_t dense_bytes(const Data& data) {
  if (data.layer == nullptr) return data.count * static_cast<int64_t>(sizeof(float));
  const pconv_conv_desc c = desc_of(data.layer->view.header);
  const int64_t weights = c.out_channels * (c.in_channels / c.groups) * c.kernel_h * c.kernel_w;
  const int64_t biases = data.layer->view.bias != nullptr ? c.out_channels : 0;
  return (weights + biases) * static_cast<int64_t>(sizeof(float));
}

int64_t index_bytes(const pconv_packed_header& h) {
  const uint64_t weights = h.n_weights * (h.weight_type == PCONV_PACKED_FP16 ? 2 : 4);
  const uint64_t biases = (h.flags & PCONV_PACKED_HAS_BIAS) != 0 ? uint64_t{h.out_channels} * 4 : 0;
  return static_cast<int64_t>(h.total_bytes - weights - biases);
}

// The first data that lies where data `index` of a node lies, or -1: that is this one.
int shared_with(const Model& model, const Node& node, size_t index) {
  const int first = model.data_numbers.at(node.data[index].identity());
  return first == node.first_data + static_cast<int>(index) ? -1 : first;
}

void add_sizes(const Data& data, pconv_model_info* info) {
  if (data.layer != nullptr) {
    info->layer_bytes += stored_bytes(data);
    info->index_bytes += index_bytes(data.layer->view.header);
  } else {
    info->tensor_bytes += stored_bytes(data);
  }
  info->dense_bytes += dense_bytes(data);
}

pconv_value_info value_info(const Model& model, const std::string& name, int value, uint32_t free_dims) {
  const Shape& shape = model.shapes[static_cast<size_t>(value)];
  return {name.c_str(), value, c_shape(shape, 0), free_dims};
}

pconv_status check_node_desc(const pconv_node_desc& node) {
  if (node.name == nullptr || node.op == nullptr) return null_argument("node.name, node.op");
  if (const pconv_status s = check_items("node.inputs", node.inputs, node.n_inputs)) return s;
  if (const pconv_status s = check_items("node.ints", node.ints, node.n_ints)) return s;
  if (const pconv_status s = check_items("node.floats", node.floats, node.n_floats)) return s;
  if (const pconv_status s = check_items("node.data", node.data, node.n_data)) return s;
  for (int i = 0; i < node.n_data; ++i) {
    const pconv_node_data& data = node.data[i];
    if (data.name == nullptr) return null_argument("node.data[i].name");
    if (data.layer == nullptr && data.values == nullptr) return null_argument("node.data[i].values");
    if (data.count < 0 || data.count > kMaxTensorFloats) {
      return fail(PCONV_INVALID_ARGUMENT, "data \"%.60s\": count %lld is not possible", data.name,
                  static_cast<long long>(data.count));
    }
  }
  return PCONV_OK;
}

}  // namespace
}  // namespace pconv

using pconv::check_index;
using pconv::fail;
using pconv::guarded;
using pconv::null_argument;

pconv_status pconv_read_model(const void* bytes, size_t n_bytes, pconv_model** model) {
  if (bytes == nullptr) return null_argument("bytes");
  if (model == nullptr) return null_argument("model");
  return guarded([&] {
    // A copy, so that nobody changes the bytes while they are checked.
    const auto* from = static_cast<const unsigned char*>(bytes);
    const pconv::Bytes copy(from, from + n_bytes);
    return pconv::read_as_model(copy.data(), copy.size(), model);
  });
}

pconv_status pconv_load_model(const char* path, pconv_model** model) {
  if (path == nullptr) return null_argument("path");
  if (model == nullptr) return null_argument("model");
  return guarded([&] {
    pconv::Bytes bytes;
    if (const pconv_status s = pconv::read_model_file(path, &bytes)) return s;
    return pconv::read_as_model(bytes.data(), bytes.size(), model);
  });
}

void pconv_free_model(pconv_model* model) { delete model; }

pconv_status pconv_write_model(const pconv_model* model, const pconv_choice* choices, int n_choices, void** bytes,
                               size_t* n_bytes) {
  if (model == nullptr) return null_argument("model");
  if (bytes == nullptr || n_bytes == nullptr) return null_argument("bytes, n_bytes");
  return guarded([&] {
    pconv::Bytes written;
    if (const pconv_status s = pconv::write_with_choices(model, choices, n_choices, &written)) return s;
    *bytes = std::malloc(written.size());
    if (*bytes == nullptr) return fail(PCONV_OUT_OF_MEMORY, "memory: an allocation failed");
    std::memcpy(*bytes, written.data(), written.size());
    *n_bytes = written.size();
    return PCONV_OK;
  });
}

void pconv_free_bytes(void* bytes) { std::free(bytes); }

pconv_status pconv_save_model(const pconv_model* model, const pconv_choice* choices, int n_choices, const char* path) {
  if (model == nullptr) return null_argument("model");
  if (path == nullptr) return null_argument("path");
  return guarded([&] {
    pconv::Bytes written;
    if (const pconv_status s = pconv::write_with_choices(model, choices, n_choices, &written)) return s;
    return pconv::write_file(path, written);
  });
}

pconv_status pconv_query_model(const pconv_model* model, pconv_model_info* info) {
  if (model == nullptr) return null_argument("model");
  if (info == nullptr) return null_argument("info");
  pconv::Model& m = *model->model;
  const std::lock_guard<std::mutex> lock(m.planning);
  *info = {};
  info->n_inputs = static_cast<int>(m.inputs.size());
  info->n_nodes = static_cast<int>(m.nodes.size());
  info->n_outputs = static_cast<int>(m.outputs.size());
  info->n_choices = static_cast<int>(m.choices.size());
  info->single_output = m.single_output ? 1 : 0;
  for (const pconv::Node& node : m.nodes) {
    for (size_t i = 0; i < node.data.size(); ++i) {
      if (pconv::shared_with(m, node, i) < 0) pconv::add_sizes(node.data[i], info);
    }
  }
  return PCONV_OK;
}

pconv_status pconv_get_input(const pconv_model* model, int index, pconv_value_info* info) {
  if (model == nullptr) return null_argument("model");
  if (info == nullptr) return null_argument("info");
  const pconv::Model& m = *model->model;
  if (const pconv_status s = check_index("index", index, m.inputs.size())) return s;
  const pconv::ModelInput& input = m.inputs[static_cast<size_t>(index)];
  *info = pconv::value_info(m, input.name, index, input.free_dims);
  return PCONV_OK;
}

pconv_status pconv_get_output(const pconv_model* model, int index, pconv_value_info* info) {
  if (model == nullptr) return null_argument("model");
  if (info == nullptr) return null_argument("info");
  const pconv::Model& m = *model->model;
  if (const pconv_status s = check_index("index", index, m.outputs.size())) return s;
  const pconv::ModelOutput& output = m.outputs[static_cast<size_t>(index)];
  *info = pconv::value_info(m, output.name, output.value, 0);
  return PCONV_OK;
}

pconv_status pconv_get_node(const pconv_model* model, int index, pconv_node_info* info) {
  if (model == nullptr) return null_argument("model");
  if (info == nullptr) return null_argument("info");
  const pconv::Model& m = *model->model;
  if (const pconv_status s = check_index("index", index, m.nodes.size())) return s;
  const pconv::Node& node = m.nodes[static_cast<size_t>(index)];
  const auto count = [](const auto& items) { return static_cast<int>(items.size()); };
  *info = {node.name.c_str(),  node.op->name,    node.inputs.data(),
           count(node.inputs), node.output,      pconv::c_shape(m.shapes[static_cast<size_t>(node.output)], 0),
           node.ints.data(),   count(node.ints), node.floats.data(),
           count(node.floats), count(node.data)};
  return PCONV_OK;
}

pconv_status pconv_get_data(const pconv_model* model, int node, int index, pconv_data_info* info) {
  if (model == nullptr) return null_argument("model");
  if (info == nullptr) return null_argument("info");
  pconv::Model& m = *model->model;
  if (const pconv_status s = check_index("node", node, m.nodes.size())) return s;
  const std::lock_guard<std::mutex> lock(m.planning);
  const std::vector<pconv::Data>& all = m.nodes[static_cast<size_t>(node)].data;
  if (const pconv_status s = check_index("index", index, all.size())) return s;
  const pconv::Data& data = all[static_cast<size_t>(index)];
  *info = {};
  info->name = pconv::role_name(data.role);
  info->values = data.values;
  info->count = data.count;
  info->is_fp16 = data.layer != nullptr ? data.layer->view.header.weight_type == PCONV_PACKED_FP16 : data.is_fp16;
  info->shared_with = pconv::shared_with(m, m.nodes[static_cast<size_t>(node)], static_cast<size_t>(index));
  info->bytes = pconv::stored_bytes(data);
  info->has_layer = data.layer != nullptr;
  return data.layer != nullptr ? pconv_query_packed(data.layer.get(), &info->layer) : PCONV_OK;
}

pconv_status pconv_copy_layer(const pconv_model* model, int node, pconv_packed** layer) {
  if (model == nullptr) return null_argument("model");
  if (layer == nullptr) return null_argument("layer");
  pconv::Model& m = *model->model;
  if (const pconv_status s = check_index("node", node, m.nodes.size())) return s;
  const pconv::Data* data = m.nodes[static_cast<size_t>(node)].find(pconv::Role::kLayer);
  if (data == nullptr) return fail(PCONV_INVALID_ARGUMENT, "node: %d has no layer", node);
  return guarded([&] {
    const std::lock_guard<std::mutex> lock(m.planning);
    std::unique_ptr<pconv_packed> copy;
    const pconv_status s = pconv::copy_layer(*data->layer, &copy);
    if (s == PCONV_OK) *layer = copy.release();
    return s;
  });
}

pconv_status pconv_get_choice(const pconv_model* model, int index, pconv_choice* choice) {
  if (model == nullptr) return null_argument("model");
  if (choice == nullptr) return null_argument("choice");
  const std::vector<pconv::Choice>& choices = model->model->choices;
  if (const pconv_status s = check_index("index", index, choices.size())) return s;
  const pconv::Choice& c = choices[static_cast<size_t>(index)];
  *choice = {c.node, c.isa.c_str(), c.ukernel.c_str(), c.n, c.h, c.w};
  return PCONV_OK;
}

pconv_status pconv_new_builder(pconv_builder** builder) {
  if (builder == nullptr) return null_argument("builder");
  return guarded([&] { return *builder = new pconv_builder, PCONV_OK; });
}

void pconv_free_builder(pconv_builder* builder) { delete builder; }

pconv_status pconv_add_input(pconv_builder* builder, const char* name, const pconv_shape* shape, uint32_t free_dims,
                             int* value) {
  if (builder == nullptr) return null_argument("builder");
  if (name == nullptr || shape == nullptr || value == nullptr) return null_argument("name, shape, value");
  return guarded([&] {
    pconv::ModelInput input = {name, {}, free_dims};
    if (const pconv_status s = pconv::read_shape(*shape, &input.shape)) return s;
    if (const pconv_status s = pconv::add_input(builder->model.get(), std::move(input))) return s;
    *value = builder->model->n_values() - 1;
    return PCONV_OK;
  });
}

pconv_status pconv_add_node(pconv_builder* builder, const pconv_node_desc* node, int* value) {
  if (builder == nullptr) return null_argument("builder");
  if (node == nullptr || value == nullptr) return null_argument("node, value");
  if (const pconv_status s = pconv::check_node_desc(*node)) return s;
  return guarded([&] {
    if (const pconv_status s = pconv::build_node(builder, *node)) return s;
    *value = builder->model->n_values() - 1;
    return PCONV_OK;
  });
}

pconv_status pconv_add_output(pconv_builder* builder, const char* name, int value) {
  if (builder == nullptr) return null_argument("builder");
  if (name == nullptr) return null_argument("name");
  return guarded([&] { return pconv::add_output(builder->model.get(), {name, value}); });
}

pconv_status pconv_finish_model(pconv_builder* builder, int single_output, pconv_model** model) {
  if (builder == nullptr) return null_argument("builder");
  if (model == nullptr) return null_argument("model");
  return guarded([&] {
    builder->model->single_output = single_output != 0;
    if (const pconv_status s = pconv::check_whole(*builder->model)) return s;
    pconv_builder fresh;
    *model = new pconv_model{builder->model};
    *builder = std::move(fresh);
    return PCONV_OK;
  });
}
