// What the operators of src/graph/ops_*.cpp share: checks of attributes and shapes, activations, tasks.
#ifndef PCONV_GRAPH_RULES_H_
#define PCONV_GRAPH_RULES_H_

#include <algorithm>
#include <cstdint>

#include "kernels/tensor_ops.h"
#include "op.h"
#include "pool.h"
#include "status.h"

namespace pconv {

// The part of an operator that a file defines; op.cpp puts it behind its row of ops.def.
struct OpRule {
  decltype(OpInfo::infer) infer;
  decltype(OpInfo::run) run;
  decltype(OpInfo::view) view;
  unsigned writes_over = 0;
  bool joins_inputs = false;
};
namespace rules {
#define PCONV_OP(id, name, least, most, ints, floats, data) extern const OpRule name;
#include "ops.def"
#undef PCONV_OP
}  // namespace rules

// ---- checks --------------------------------------------------------------------------------------------------------

// Sizes that nobody has in earnest, and whose sums and products with others fit.
constexpr int64_t kMaxSide = int64_t{1} << 30;

// Dims that are not negative, of at most kMaxTensorFloats floats even where one of them is zero.
pconv_status check_shape(const char* what, const Shape& shape);
pconv_status check_rank(const Shape& shape, int least, int most);  // of input 0
// Attribute `index` of ints.
pconv_status check_int(const Node& node, int index, int64_t low, int64_t high);
pconv_status check_ints(const Node& node, int first, int end, int64_t low, int64_t high);
// Attribute 0, alpha, beta and slopes; `output` is what they act on.
pconv_status check_activation(const Node& node, const Shape& output);

// ---- activations ---------------------------------------------------------------------------------------------------

// A node's activation: either one function for all floats, or `all` is none and slopes go by channel, dims[1].
struct NodeActivation {
  Activation all;
  const float* slopes;

  explicit NodeActivation(const Node& node);
};
// y = activation(x), of equal shapes; y may be x.
void activate(const NodeActivation& activation, const Tensor& x, const Tensor& y, const OpCall& call);
// What an operator whose kernels know only functions for all floats does at the end.
void finish(const NodeActivation& activation, const OpCall& call);

// ---- tasks ---------------------------------------------------------------------------------------------------------

inline int64_t count_tasks(int64_t n, int64_t floats_each, int n_threads) {
  if (n_threads == 1) return 1;
  const double floats = static_cast<double>(n) * static_cast<double>(floats_each);
  const double tasks = std::min(floats / static_cast<double>(kTaskFloats), 1.0 * kTasksPerThread * n_threads);
  return std::min(std::max<int64_t>(static_cast<int64_t>(tasks), 1), n);
}

// Calls body(begin, end) for ranges that together are [0, n), on several threads where that pays.
template <class Body>
void for_ranges(int64_t n, int64_t floats_each, int n_threads, const Body& body) {
  if (n <= 0) return;
  struct Context {
    const Body& body;
    int64_t n, n_tasks;
  } context = {body, n, count_tasks(n, floats_each, n_threads)};
  parallel_for(
      context.n_tasks, n_threads,
      [](void* pointer, int64_t index) noexcept {
        const auto& c = *static_cast<const Context*>(pointer);
        const auto place = [&](int64_t i) { return c.n / c.n_tasks * i + std::min(i, c.n % c.n_tasks); };
        c.body(place(index), place(index + 1));
      },
      &context);
}

// The same for `units` of each of some parts: body(part, begin, end).
template <class Body>
void for_parts(int64_t parts, int64_t units, int64_t floats_each, int n_threads, const Body& body) {
  for_ranges(parts * units, floats_each, n_threads, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t part = begin / units, from = begin - part * units, n = std::min(units - from, end - begin);
      body(part, from, from + n);
      begin += n;
    }
  });
}

// How many parts a tensor has, as its step sees it.
inline int64_t parts_of(const Shape& shape) { return shape.rank == 0 ? 1 : shape.dims[0]; }

// Planes of the last two dims of an input and an output of the same leading dims: parts of some planes each. Parts
// without gaps are one.
struct Planes {
  int64_t parts, planes;
  int64_t in, out;            // floats of a plane
  int64_t in_step, out_step;  // from part to part

  Planes(const Tensor& x, const Tensor& y);
};

}  // namespace pconv
#endif  // PCONV_GRAPH_RULES_H_
