#include "model_builder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "crc32.h"
#include "half.h"
#include "op.h"
#include "pack.h"
#include "spare_weights.h"
#include "status.h"
#include "write_packed.h"

namespace pconv {
namespace {

// Nothing finite becomes infinite.
pconv_status check_halves(const char* name, const float* values, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (std::fabs(values[i]) > kLargestHalf && !std::isinf(values[i])) {
      return fail(PCONV_INVALID_ARGUMENT, "data \"%s\": %g at %zu is beyond fp16's largest number, 65504", name,
                  static_cast<double>(values[i]), i);
    }
  }
  return PCONV_OK;
}

pconv_status take_layer(const pconv_node_data& from, Data* to) {
  std::unique_ptr<pconv_packed> layer;
  if (from.as_fp16 == 0) {
    if (const pconv_status s = copy_layer(*from.layer, &layer)) return s;
  } else {
    PackedView view = from.layer->view;
    std::vector<float> weights(view.header.n_weights);
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = view.weight(i);
    if (const pconv_status s = check_halves(from.name, weights.data(), weights.size())) return s;
    view.header.weight_type = PCONV_PACKED_FP16;
    const std::vector<unsigned char> bytes = write_packed(view, weights.data());
    if (const pconv_status s = read_packed(bytes.data(), bytes.size(), &layer)) return s;
  }
  to->layer = std::move(layer);
  return PCONV_OK;
}

pconv_status take_tensor(const pconv_node_data& from, Data* to) {
  const auto count = static_cast<size_t>(from.count);
  if (from.as_fp16 != 0) {
    if (const pconv_status s = check_halves(from.name, from.values, count)) return s;
  }
  const std::shared_ptr<float[]> values(new float[count + 1]);
  const auto rounded = [](float v) { return half_to_float(float_to_half(v)); };
  std::copy(from.values, from.values + count, values.get());
  if (from.as_fp16 != 0) std::transform(values.get(), values.get() + count, values.get(), rounded);
  to->owner = values;
  to->values = values.get();
  to->count = from.count;
  to->is_fp16 = from.as_fp16 != 0;
  return PCONV_OK;
}

const void* memory_of(const Data& data) {
  if (data.layer != nullptr) return data.layer->storage.get();
  return data.values;
}

size_t memory_bytes(const Data& data) {
  return data.layer != nullptr ? data.layer->n_bytes : static_cast<size_t>(data.count) * sizeof(float);
}

bool is_equal(const Data& a, const Data& b) {
  return (a.layer != nullptr) == (b.layer != nullptr) && a.is_fp16 == b.is_fp16 && memory_bytes(a) == memory_bytes(b) &&
         std::memcmp(memory_of(a), memory_of(b), memory_bytes(a)) == 0;
}

// Where the builder has equal data, that.
void share(pconv_builder* builder, Data* data) {
  const uint32_t sum = crc32(0, memory_of(*data), memory_bytes(*data));
  const auto [begin, end] = builder->data.equal_range(sum);
  const auto known = std::find_if(begin, end, [&](const auto& entry) { return is_equal(entry.second, *data); });
  if (known == end) {
    builder->data.emplace(sum, *data);
    return;
  }
  const Role role = data->role;
  *data = known->second;
  data->role = role;
}

pconv_status take_data(pconv_builder* builder, const pconv_node_data& from, Data* data) {
  if (!find_role(from.name, &data->role)) {
    return fail(PCONV_INVALID_ARGUMENT, "data \"%s\": no operator has such data", from.name);
  }
  if ((data->role == Role::kLayer) != (from.layer != nullptr)) {
    return fail(PCONV_INVALID_ARGUMENT, "data \"%s\": a layer comes as `layer`, a tensor as `values`", from.name);
  }
  if (const pconv_status s = from.layer != nullptr ? take_layer(from, data) : take_tensor(from, data)) return s;
  share(builder, data);
  return PCONV_OK;
}

}  // namespace

pconv_status build_node(pconv_builder* builder, const pconv_node_desc& desc) {
  Node node = {};
  node.op = find_op(desc.op);
  if (node.op == nullptr)
    return fail(PCONV_INVALID_ARGUMENT, "op: \"%.60s\" is none of this build's operators", desc.op);
  node.name = desc.name;
  node.inputs.assign(desc.inputs, desc.inputs + desc.n_inputs);
  node.ints.assign(desc.ints, desc.ints + desc.n_ints);
  node.floats.assign(desc.floats, desc.floats + desc.n_floats);
  node.data.resize(static_cast<size_t>(desc.n_data));
  for (int i = 0; i < desc.n_data; ++i) {
    if (const pconv_status s = take_data(builder, desc.data[i], &node.data[static_cast<size_t>(i)])) return s;
  }
  return add_node(builder->model.get(), std::move(node));
}

}  // namespace pconv
