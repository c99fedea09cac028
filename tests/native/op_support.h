// One operator with its tensors, as the tests of operators make and run it.
#ifndef PCONV_TESTS_NATIVE_OP_SUPPORT_H_
#define PCONV_TESTS_NATIVE_OP_SUPPORT_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pconv/ops.h"
#include "support.h"

namespace pconv_test {

using Dims = std::vector<int64_t>;
using Floats = std::vector<float>;

inline int64_t count(const Dims& dims) {
  int64_t n = 1;
  for (const int64_t d : dims) n *= d;
  return n;
}
// Floats of one of the parts that a tensor's step parts.
inline int64_t part(const Dims& dims) { return dims.empty() ? 1 : count(Dims(dims.begin() + 1, dims.end())); }

inline Floats random_floats(Rng& rng, int64_t n) {
  Floats x(static_cast<size_t>(n));
  for (float& f : x) f = static_cast<float>(rng.unit() * 8 - 4);
  return x;
}

// A layer that keeps every weight, with a bias.
inline Layer dense_layer(Rng& rng, const pconv_conv_desc& conv) {
  Layer layer;
  layer.conv = conv;
  layer.weights = random_floats(rng, conv.out_channels * layer.group_in() * layer.taps());
  layer.bias = random_floats(rng, conv.out_channels);
  return layer;
}

struct OpData {
  const char* name;
  Floats values;
};

// An operator and the dims of its inputs.
struct OpCase {
  std::string op;
  std::vector<Dims> inputs;
  std::vector<int64_t> ints;
  Floats floats;
  std::vector<OpData> data;
  std::string isa;

  std::string text() const {
    std::string s = isa + " " + op;
    for (const Dims& dims : inputs) {
      s += " [";
      for (const int64_t d : dims) s += format("%lld,", static_cast<long long>(d));
      s += "]";
    }
    s += " ints";
    for (const int64_t i : ints) s += format(" %lld", static_cast<long long>(i));
    s += " floats";
    for (const float f : floats) s += format(" %g", static_cast<double>(f));
    for (const OpData& d : data) s += format(" %s:%zu", d.name, d.values.size());
    return s;
  }
};

struct FreeOp {
  void operator()(pconv_op* op) const { pconv_free_op(op); }
};
using Op = std::unique_ptr<pconv_op, FreeOp>;

inline std::vector<pconv_op_data> c_data(const OpCase& c) {
  std::vector<pconv_op_data> data;
  for (const OpData& d : c.data) data.push_back({d.name, d.values.data(), static_cast<int64_t>(d.values.size())});
  return data;
}

// What the arguments hold must outlive the description.
inline pconv_op_desc describe(const OpCase& c, const std::vector<pconv_shape>& shapes,
                              const std::vector<pconv_op_data>& data) {
  pconv_op_desc desc{};
  desc.op = c.op.c_str();
  desc.inputs = shapes.data(), desc.n_inputs = static_cast<int>(shapes.size());
  desc.ints = c.ints.data(), desc.n_ints = static_cast<int>(c.ints.size());
  desc.floats = c.floats.data(), desc.n_floats = static_cast<int>(c.floats.size());
  desc.data = data.data(), desc.n_data = static_cast<int>(data.size());
  desc.isa = c.isa.empty() ? nullptr : c.isa.c_str();
  return desc;
}

// `gap`: floats between the parts of every input, and two more between those of the output.
inline pconv_status make(const OpCase& c, int64_t gap, Op* op) {
  std::vector<pconv_shape> shapes;
  for (const Dims& dims : c.inputs) {
    pconv_shape shape{};
    shape.rank = static_cast<int>(dims.size());
    std::copy(dims.begin(), dims.end(), shape.dims);
    shape.step = gap > 0 ? part(dims) + gap : 0;
    shapes.push_back(shape);
  }
  const std::vector<pconv_op_data> data = c_data(c);
  pconv_op_desc desc = describe(c, shapes, data);
  pconv_op* made = nullptr;
  pconv_status status = pconv_make_op(&desc, &made);
  if (status == PCONV_OK && gap > 0) {
    pconv_shape output{};
    pconv_get_op_output(made, &output);
    pconv_free_op(made);
    desc.output_step = part(Dims(output.dims, output.dims + output.rank)) + gap + 2;
    status = pconv_make_op(&desc, &made);
  }
  if (status == PCONV_OK) op->reset(made);
  return status;
}

inline pconv_shape output_of(const Op& op) {
  pconv_shape shape{};
  REQUIRE(pconv_get_op_output(op.get(), &shape) == PCONV_OK, "%s", pconv_last_error());
  return shape;
}
inline Dims dims_of(const pconv_shape& shape) { return Dims(shape.dims, shape.dims + shape.rank); }

constexpr float kCanary = 12345.0f;

// A tensor between pages without access, its gaps full of canaries.
class GuardedTensor {
 public:
  GuardedTensor(const Dims& dims, int64_t step, bool at_end)
      : part_(part(dims)),
        step_(step),
        parts_(dims.empty() ? 1 : dims[0]),
        extent_(count(dims) > 0 ? (parts_ - 1) * step_ + part_ : 0),
        floats_(static_cast<size_t>(extent_), at_end) {
    std::fill(data(), data() + extent_, kCanary);
  }
  float* data() const { return floats_.data(); }
  void write(const Floats& values) {
    for (size_t i = 0; i < values.size(); ++i) data()[place(i)] = values[i];
  }
  Floats read() const {
    Floats values(static_cast<size_t>(extent_ > 0 ? parts_ * part_ : 0));
    for (size_t i = 0; i < values.size(); ++i) values[i] = data()[place(i)];
    return values;
  }
  bool gaps_are_whole() const {
    for (int64_t i = 0; i < extent_; ++i) {
      if (i % step_ >= part_ && data()[i] != kCanary) return false;
    }
    return true;
  }

 private:
  int64_t place(size_t i) const {
    const auto at = static_cast<int64_t>(i);
    return at / part_ * step_ + at % part_;
  }
  int64_t part_, step_, parts_, extent_;
  Guarded floats_;
};

// One run between guards; gaps of the output are checked. `over` >= 0: written over that input.
inline Floats run_guarded(const OpCase& c, const std::vector<Floats>& inputs, int64_t gap, bool at_end, int n_threads,
                          int over = -1) {
  set_context(c.text() +
              format(" gap=%lld at_end=%d threads=%d over=%d", static_cast<long long>(gap), at_end, n_threads, over));
  Op op;
  REQUIRE(make(c, over < 0 ? gap : 0, &op) == PCONV_OK, "%s", pconv_last_error());
  const pconv_shape shape = output_of(op);
  std::vector<std::unique_ptr<GuardedTensor>> tensors;
  std::vector<const float*> pointers;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const int64_t step = part(c.inputs[i]) + (over < 0 ? gap : 0);
    tensors.push_back(std::make_unique<GuardedTensor>(c.inputs[i], step, at_end));
    tensors.back()->write(inputs[i]);
    pointers.push_back(tensors.back()->data());
  }
  const GuardedTensor own(dims_of(shape), std::max<int64_t>(shape.step, 1), at_end);
  const GuardedTensor& output = over < 0 ? own : *tensors[static_cast<size_t>(over)];
  const pconv_status status = pconv_run_op(op.get(), pointers.data(), output.data(), n_threads);
  REQUIRE(status == PCONV_OK, "%s", pconv_last_error());
  CHECK(output.gaps_are_whole(), "something was written between the parts of the output");
  return output.read();
}

inline bool same_bits(const Floats& a, const Floats& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
  }
  return true;
}

// Calls add(isa) for those of this build; a test of an ISA that this CPU does not have is skipped.
inline void add_for_isas(const char* name, void (*body)(const std::string& isa)) {
  pconv_isa_info info{};
  for (int i = 0; pconv_list_isa(i, &info); ++i) {
    if (!options().isa.empty() && options().isa != info.name) continue;
    state().tests.push_back({format("%s/%s", name, info.name), [info, body] {
                               if (!info.supported) throw Skip{"this CPU does not have it"};
                               body(info.name);
                             }});
  }
}

// The activations of tensor_ops.h in float64.
inline double activation_in_double(int64_t kind, double alpha, double beta, double x) {
  switch (kind) {
    case 1:
      return x < alpha ? alpha : x > beta ? beta : x;
    case 2:
    case 3:
      return x > 0 ? x : alpha * x;
    case 4:
      return 1 / (1 + std::exp(-x));
    case 5:
      return x / (1 + std::exp(-x));
    case 6:
      return std::min(std::max(x + 3, 0.0), 6.0) / 6;
    case 7:
      return x * std::min(std::max(x + 3, 0.0), 6.0) / 6;
    case 8:
      return std::tanh(x);
    case 9:
      return x * std::erfc(-x / std::sqrt(2.0)) / 2;
    case 10:
      return x / (1 + std::exp(-2 * std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case 11:
      return x > 0 ? x : alpha * std::expm1(x);
    default:
      return x;
  }
}

}  // namespace pconv_test
#endif  // PCONV_TESTS_NATIVE_OP_SUPPORT_H_
