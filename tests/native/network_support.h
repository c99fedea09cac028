// Random networks whose values are known: every node is run on its own, in memory of its own, as it is added.
#ifndef PCONV_TESTS_NATIVE_NETWORK_SUPPORT_H_
#define PCONV_TESTS_NATIVE_NETWORK_SUPPORT_H_

#include <cstring>
#include <string>
#include <vector>

#include "op_support.h"
#include "pconv/network.h"

namespace pconv_test {

struct FreeModel {
  void operator()(pconv_model* m) const { pconv_free_model(m); }
};
struct FreeSession {
  void operator()(pconv_session* s) const { pconv_free_session(s); }
};
struct FreeBuilder {
  void operator()(pconv_builder* b) const { pconv_free_builder(b); }
};
using Model = std::unique_ptr<pconv_model, FreeModel>;
using Session = std::unique_ptr<pconv_session, FreeSession>;
using Builder = std::unique_ptr<pconv_builder, FreeBuilder>;
using Bytes = std::vector<unsigned char>;

inline pconv_shape c_shape(const Dims& dims) {
  pconv_shape shape{};
  shape.rank = static_cast<int>(dims.size());
  std::copy(dims.begin(), dims.end(), shape.dims);
  return shape;
}

// A network under construction, for one ISA, and what its values are for one set of inputs.
class Network {
 public:
  struct Value {
    Dims dims;
    Floats floats;
  };

  Network(Rng& rng, std::string isa) : rng_(rng), isa_(std::move(isa)) {
    pconv_builder* builder = nullptr;
    REQUIRE(pconv_new_builder(&builder) == PCONV_OK, "%s", pconv_last_error());
    builder_.reset(builder);
  }

  int input(const Dims& dims, uint32_t free_dims = 0) {
    const pconv_shape shape = c_shape(dims);
    const std::string name = format("input%zu", values_.size());
    int value = -1;
    REQUIRE(pconv_add_input(builder_.get(), name.c_str(), &shape, free_dims, &value) == PCONV_OK, "%s",
            pconv_last_error());
    values_.push_back({dims, random_floats(rng_, count(dims))});
    ++n_inputs_;
    return value;
  }

  // The value, or -1 where the operator does not take these inputs.
  int node(const std::string& op, const std::vector<int>& inputs, const std::vector<int64_t>& ints,
           const Floats& floats = {}, const std::vector<OpData>& data = {}) {
    OpCase c = {op, {}, ints, floats, data, isa_};
    for (const int i : inputs) c.inputs.push_back(values_[static_cast<size_t>(i)].dims);
    Op made;
    if (make(c, 0, &made) != PCONV_OK) return -1;
    std::vector<pconv_node_data> items;
    for (const OpData& d : data) {
      items.push_back({d.name, d.values.data(), static_cast<int64_t>(d.values.size()), nullptr, 0});
    }
    const int value = add(op, inputs, ints, floats, items);
    pconv_shape shape{};
    REQUIRE(pconv_get_op_output(made.get(), &shape) == PCONV_OK, "%s", pconv_last_error());
    Value y = {Dims(shape.dims, shape.dims + shape.rank), {}};
    y.floats.assign(static_cast<size_t>(count(y.dims)), kNaN);
    std::vector<const float*> from;
    for (const int i : inputs) from.push_back(values_[static_cast<size_t>(i)].floats.data());
    REQUIRE(pconv_run_op(made.get(), from.data(), y.floats.data(), 1) == PCONV_OK, "%s", pconv_last_error());
    values_.push_back(std::move(y));
    return value;
  }

  int constant(const Dims& dims) {
    Value y = {dims, random_floats(rng_, count(dims))};
    const std::vector<pconv_node_data> data = {{"value", y.floats.data(), count(dims), nullptr, 0}};
    const int value = add("constant", {}, dims, {}, data);
    values_.push_back(std::move(y));
    return value;
  }

  // residual: a value, or -1. The activation must be none or a clamp.
  int conv(int x, int residual, const Layer& layer, float low, float high, bool as_fp16 = false) {
    const Value& in = values_[static_cast<size_t>(x)];
    const Packed packed = pack(layer);
    int64_t out_h = 0, out_w = 0;
    if (in.dims.size() != 4 || in.dims[1] != layer.conv.in_channels ||
        pconv_get_output_size(packed.get(), in.dims[2], in.dims[3], &out_h, &out_w) != PCONV_OK) {
      return -1;
    }
    const Dims dims = {in.dims[0], layer.conv.out_channels, out_h, out_w};
    if (residual >= 0 && values_[static_cast<size_t>(residual)].dims != dims) return -1;
    std::vector<int> inputs = {x};
    if (residual >= 0) inputs.push_back(residual);
    const int value = add("conv", inputs, {1}, {low, high}, {{"layer", nullptr, 0, packed.get(), as_fp16 ? 1 : 0}});
    const Plan p = plan(packed, {in.dims[0], in.dims[2], in.dims[3], PCONV_NCHW, isa_, ""});
    Value y = {dims, Floats(static_cast<size_t>(count(dims)), kNaN)};
    const float* const plus = residual >= 0 ? values_[static_cast<size_t>(residual)].floats.data() : nullptr;
    run(p, {in.floats.data(), plus, y.floats.data(), low, high, 1});
    values_.push_back(std::move(y));
    return value;
  }

  void output(int value) {
    const std::string name = format("output%zu", outputs_.size());
    REQUIRE(pconv_add_output(builder_.get(), name.c_str(), value) == PCONV_OK, "%s", pconv_last_error());
    outputs_.push_back(value);
  }

  Model finish() {
    pconv_model* model = nullptr;
    REQUIRE(pconv_finish_model(builder_.get(), 0, &model) == PCONV_OK, "%s", pconv_last_error());
    return Model(model);
  }

  const Value& value(int i) const { return values_[static_cast<size_t>(i)]; }
  int n_values() const { return static_cast<int>(values_.size()); }

  // Runs the session and compares every output bit for bit.
  void check(pconv_session* session, int n_threads) const {
    std::vector<const float*> inputs;
    for (int i = 0; i < n_inputs_; ++i) inputs.push_back(value(i).floats.data());
    std::vector<Floats> got;
    std::vector<float*> outputs;
    for (const int v : outputs_) got.emplace_back(value(v).floats.size(), kNaN);
    for (Floats& floats : got) outputs.push_back(floats.data());
    const pconv_session_args args = {inputs.data(), outputs.data(), n_threads, nullptr};
    REQUIRE(pconv_run_session(session, &args) == PCONV_OK, "%s", pconv_last_error());
    for (size_t i = 0; i < got.size(); ++i) {
      const Floats& want = value(outputs_[i]).floats;
      const bool same = std::memcmp(got[i].data(), want.data(), want.size() * sizeof(float)) == 0;
      CHECK(same, "output %zu (value %d of %d) is another one, %d threads", i, outputs_[i], n_values(), n_threads);
    }
  }

 private:
  int add(const std::string& op, const std::vector<int>& inputs, const std::vector<int64_t>& ints, const Floats& floats,
          const std::vector<pconv_node_data>& data) {
    const std::string name = format("%s%zu", op.c_str(), values_.size());
    const auto n = [](const auto& items) { return static_cast<int>(items.size()); };
    const pconv_node_desc desc = {name.c_str(), op.c_str(),    inputs.data(), n(inputs),   ints.data(),
                                  n(ints),      floats.data(), n(floats),     data.data(), n(data)};
    int value = -1;
    REQUIRE(pconv_add_node(builder_.get(), &desc, &value) == PCONV_OK, "%s", pconv_last_error());
    REQUIRE(value == n_values(), "value %d, expected %d", value, n_values());
    return value;
  }

  Rng& rng_;
  std::string isa_;
  Builder builder_;
  std::vector<Value> values_;
  std::vector<int> outputs_;
  int n_inputs_ = 0;
};

inline Session plan_session(const Model& model, const char* isa) {
  const pconv_session_options options = {nullptr, isa, nullptr, 0};
  pconv_session* session = nullptr;
  REQUIRE(pconv_plan_model(model.get(), &options, &session) == PCONV_OK, "%s", pconv_last_error());
  return Session(session);
}

inline Bytes write(const Model& model) {
  void* bytes = nullptr;
  size_t n = 0;
  REQUIRE(pconv_write_model(model.get(), nullptr, 0, &bytes, &n) == PCONV_OK, "%s", pconv_last_error());
  const auto* from = static_cast<const unsigned char*>(bytes);
  Bytes copy(from, from + n);
  pconv_free_bytes(bytes);
  return copy;
}

inline Model read(const Bytes& bytes) {
  pconv_model* model = nullptr;
  REQUIRE(pconv_read_model(bytes.data(), bytes.size(), &model) == PCONV_OK, "%s", pconv_last_error());
  return Model(model);
}

// A layer with random weights, of which so many kernels are left; 3x3 kernels keep four taps.
inline Layer random_layer(Rng& rng, int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t groups,
                          double kept) {
  Layer layer;
  const int64_t pad = kernel / 2;
  layer.conv = {out, in, groups, kernel, kernel, stride, stride, 1, 1, pad, pad, pad, pad};
  layer.weights.assign(static_cast<size_t>(out * (in / groups) * kernel * kernel), 0.0f);
  const uint32_t masks[] = {0x03a, 0x0b8, 0x0b2, 0x09a};
  for (int64_t k = 0; k < out * (in / groups); ++k) {
    if (groups == 1 && !rng.chance(kept)) continue;
    const uint32_t mask = kernel == 3 ? rng.pick(masks) : ~0u;
    for (int64_t t = 0; t < kernel * kernel; ++t) {
      if ((mask >> (t % 32)) & 1)
        layer.weights[static_cast<size_t>(k * kernel * kernel + t)] = static_cast<float>(rng.unit() - 0.5);
    }
  }
  if (rng.chance(0.7)) layer.bias = random_floats(rng, out);
  return layer;
}

// Adds an operator that some of the values take. False: this time none did.
inline bool add_random_node(Rng& rng, Network* net) {
  const auto any = [&] { return static_cast<int>(rng.between(0, net->n_values() - 1)); };
  const int x = any(), other = any();
  const Dims dims = net->value(x).dims;
  const auto rank = static_cast<int64_t>(dims.size());
  const auto act = [&] { return rng.between(0, 11) == 3 ? 0 : rng.pick({0, 0, 1, 4, 5, 7, 8}); };
  switch (rng.between(0, 23)) {
    case 0:
    case 1:
    case 2:
    case 3: {
      if (rank != 4) return false;
      const int64_t in = dims[1], kernel = rng.pick({1, 3, 3, 5});
      const bool depthwise = rng.chance(0.25);
      const int64_t out = depthwise || rng.chance(0.3) ? in : rng.between(1, 24);
      const Layer layer = random_layer(rng, in, out, kernel, rng.pick({1, 1, 2}), depthwise ? in : 1, 0.4);
      const int residual = rng.pick({-1, -1, other, x});  // the layer's own input is one, too
      return net->conv(x, residual, layer, 0.0f, rng.chance(0.5) ? 6.0f : kInf) >= 0;
    }
    case 4:
      return net->node("activate", {x}, {rng.pick({1, 2, 4, 5, 6, 7, 8, 9, 10, 11})}, {0.1f, 0.9f}) >= 0;
    case 5:
    case 6:
      return net->node(rng.pick({"add", "sub"}), {x, other}, {act()}, {-2.0f, 2.0f}) >= 0;
    case 7:
      return net->node("mul", {x, other}, {4}, {0.0f, 0.0f}) >= 0;
    case 8:
      return net->node("max_pool", {x}, {2, 2, 2, 2, 1, 1, 0, 0, rng.between(0, 1)}) >= 0;
    case 9:
      return net->node("avg_pool", {x}, {3, 3, rng.between(1, 2), 2, 1, 1, 0, 1, 0}) >= 0;
    case 10:
      return net->node("mean", {x}, {rng.between(1, 2), rng.between(0, 1)}) >= 0;
    case 11:
    case 12: {
      std::vector<int> parts = {x, other};
      if (rng.chance(0.5)) parts.push_back(any());
      return net->node("concat", parts, {rng.between(0, 1)}) >= 0;
    }
    case 13: {
      if (rank < 2) return false;
      const int64_t dim = rng.between(0, 1), size = dims[static_cast<size_t>(dim)], start = rng.between(0, size - 1);
      return net->node("slice", {x}, {dim, start, rng.between(start + 1, size), rng.pick({1, 1, 2})}) >= 0;
    }
    case 14:
      if (rank == 4 && dims[2] * dims[3] > 1000) return false;
      return net->node("upsample", {x}, {rng.between(0, 1), 0, 0, 0}, {2.0f, 2.0f}) >= 0;
    case 15:
      return net->node("pixel_shuffle", {x}, {2}) >= 0;
    case 16:
      return net->node("flatten", {x}, {std::min<int64_t>(1, rank - 1), rank - 1}) >= 0;
    case 17: {
      if (rank < 1 || dims.back() > 400) return false;
      const int64_t in = dims.back(), out = rng.between(1, 9);
      std::vector<OpData> data = {{"weight", random_floats(rng, out * in)}};
      if (rng.chance(0.7)) data.push_back({"bias", random_floats(rng, out)});
      return net->node("linear", {x}, {act()}, {-2.0f, 2.0f}, data) >= 0;
    }
    case 18:
      return net->node("softmax", {x}, {rng.between(0, std::max<int64_t>(0, rank - 1)), rng.between(0, 1)}) >= 0;
    case 19: {
      if (rank != 4) return false;
      const int64_t side = rng.between(0, 2);
      return net->node("pad", {x}, {0, 0, rng.between(0, 1), 0, side, 1, rng.between(-1, 1), 2}, {0.5f}) >= 0;
    }
    case 20:
      return net->node("adaptive_avg_pool", {x}, {rng.between(1, 4), rng.between(1, 4)}) >= 0;
    case 21: {
      if (rank < 2) return false;
      return net->node("activate", {x}, {3}, {0.0f, 0.0f}, {{"slope", random_floats(rng, dims[1])}}) >= 0;
    }
    case 22:  // others drop or add dims: of those, shapes of five and six dims come, too
      if (rank < 1) return false;
      return rng.chance(0.5) ? net->node("reshape", {x}, {0, 1, -1}) >= 0 : net->node("concat", {x}, {0}) >= 0;
    default: {
      std::vector<int64_t> order(dims.size());
      for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
      for (size_t i = order.size(); i > 1; --i)
        std::swap(order[i - 1], order[static_cast<size_t>(rng.between(0, static_cast<int64_t>(i) - 1))]);
      return net->node("permute", {x}, order) >= 0;
    }
  }
}

inline void fill_random_network(Rng& rng, Network* net, int n_nodes) {
  const int64_t n = rng.between(1, 3);
  net->input({n, rng.between(1, 8), rng.between(3, 20), rng.between(3, 20)});
  if (rng.chance(0.3)) net->input({n, rng.between(1, 4), rng.between(3, 9), rng.between(3, 9)});
  for (int tries = 0; net->n_values() < n_nodes && tries < 40 * n_nodes; ++tries) {
    if (rng.chance(0.03)) {
      net->constant({1, rng.between(1, 4), 1, 1});
    } else {
      add_random_node(rng, net);
    }
  }
  const int64_t n_outputs = rng.between(1, 4);
  for (int64_t i = 0; i < n_outputs; ++i) {
    // Mostly late values: others leave much of the network unused.
    const int last = net->n_values() - 1;
    net->output(rng.chance(0.7) ? static_cast<int>(rng.between(std::max(0, last - 4), last))
                                : static_cast<int>(rng.between(0, last)));
  }
}

}  // namespace pconv_test
#endif  // PCONV_TESTS_NATIVE_NETWORK_SUPPORT_H_
