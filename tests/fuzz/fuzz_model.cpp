// Whatever bytes are given as a model file: they are refused, or the network is read, written, planned and run.
// Built with FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION, so that checksums are not looked at: no fuzzer would guess them.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "pconv/network.h"

namespace {

constexpr int64_t kMostFloats = 1 << 16, kMostWork = 1 << 22, kMostGeometry = 8;

void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "%s: %s\n", what, pconv_last_error());
  std::abort();
}

int64_t count_of(const pconv_shape& shape) {
  int64_t count = 1;
  for (int i = 0; i < shape.rank; ++i) count *= shape.dims[i];
  return count;
}

// What it writes reads back; a network of small tensors runs.
void exercise(const pconv_model* model) {
  pconv_model_info info;
  require(pconv_query_model(model, &info) == PCONV_OK, "query");
  void* bytes = nullptr;
  size_t n = 0;
  require(pconv_write_model(model, nullptr, 0, &bytes, &n) == PCONV_OK, "write");
  pconv_model* again = nullptr;
  require(pconv_read_model(bytes, n, &again) == PCONV_OK, "read what was written");
  pconv_free_bytes(bytes);
  pconv_free_model(again);

  int64_t work = 0;
  for (int i = 0; i < info.n_nodes; ++i) {
    pconv_node_info node;
    require(pconv_get_node(model, i, &node) == PCONV_OK, "node");
    if (count_of(node.shape) > kMostFloats) return;
    int64_t cost = count_of(node.shape) + 1;
    for (int k = 0; k < node.n_data; ++k) {
      pconv_data_info data;
      require(pconv_get_data(model, i, k, &data) == PCONV_OK, "data");
      if (data.has_layer != 0) cost *= data.layer.n_weights / data.layer.conv.out_channels + 1;
      // Wide strides and margins take time: valid, but nothing to wait for.
      const pconv_conv_desc& c = data.layer.conv;
      for (const int64_t size :
           {c.stride_h, c.stride_w, c.dilation_h, c.dilation_w, c.pad_top, c.pad_left, c.pad_bottom, c.pad_right}) {
        if (data.has_layer != 0 && size > kMostGeometry) return;
      }
    }
    // Windows of pools.
    if (node.n_ints >= 8) cost *= node.ints[0] * node.ints[1] + 1;
    work += cost;
    if (work > kMostWork || work < 0) return;
  }
  std::vector<std::vector<float>> memory;
  std::vector<const float*> inputs;
  std::vector<float*> outputs;
  for (int i = 0; i < info.n_inputs; ++i) {
    pconv_value_info value;
    require(pconv_get_input(model, i, &value) == PCONV_OK, "input");
    if (count_of(value.shape) > kMostFloats) return;
    memory.emplace_back(static_cast<size_t>(count_of(value.shape)), 1.0f);
    inputs.push_back(memory.back().data());
  }
  pconv_session* session = nullptr;
  if (pconv_plan_model(model, nullptr, &session) != PCONV_OK) return;  // no ukernel, no memory
  for (int i = 0; i < info.n_outputs; ++i) {
    pconv_shape shape;
    require(pconv_get_session_output(session, i, &shape) == PCONV_OK, "output");
    memory.emplace_back(static_cast<size_t>(count_of(shape)) + 1);
    outputs.push_back(memory.back().data());
  }
  const pconv_session_args args = {inputs.data(), outputs.data(), 1, nullptr};
  require(pconv_run_session(session, &args) == PCONV_OK, "run");
  pconv_free_session(session);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(data, data + size);
  const uint64_t total = size;  // at byte 16 of the header; a fuzzer changes the length all the time
  if (size >= 24) std::memcpy(bytes.data() + 16, &total, sizeof(total));
  pconv_model* model = nullptr;
  if (pconv_read_model(bytes.data(), bytes.size(), &model) == PCONV_OK) exercise(model);
  pconv_free_model(model);
  return 0;
}
