#include "pooled_convs.h"

#include <algorithm>

#include "cache_sizes.h"
#include "op.h"
#include "rules.h"
#include "validate.h"

namespace pconv {
namespace {

// Smaller maps stay in the caches until they are pooled, and there the ukernel with the better rows counts
// (docs/PERFORMANCE.md).
constexpr int64_t kLeastFloats = int64_t{1} << 20;
// Rows of a strip, at most, which should stay in L2.
constexpr int64_t kStripRows = 8;

// 2x2, side by side, nothing padded.
bool pools_squares(const Node& node, const Shape& from, const Shape& to) {
  if (node.op != find_op("max_pool") || from.rank != 4) return false;
  const std::vector<int64_t> squares = {2, 2, 2, 2, 1, 1, 0, 0};
  return std::equal(squares.begin(), squares.end(), node.ints.begin()) && to.dims[2] == from.dims[2] / 2 &&
         to.dims[3] == from.dims[3] / 2;
}

// A plan for such a layer can pool, whatever its map.
bool can_pool(const Node& node, const Shape& output) {
  if (node.op != find_op("conv") || node.inputs.size() > 1 || output.inner(1) < kLeastFloats) return false;
  const int64_t strip_floats = output.dims[1] * kStripRows * output.dims[3];
  if (strip_floats > kL2Bytes / static_cast<int64_t>(sizeof(float))) return false;
  const NodeActivation activation(node);
  const bool in_plan = activation.all.kind == ActivationKind::kClamp || activation.all.kind == ActivationKind::kNone;
  const pconv_conv_desc c = desc_of(node.find(Role::kLayer)->layer->view.header);
  return in_plan && activation.slopes == nullptr && c.in_channels > c.groups && c.kernel_h == 3 && c.kernel_w == 3 &&
         c.stride_h == 1 && c.stride_w == 1 && c.dilation_h == 1 && c.dilation_w == 1;
}

}  // namespace

std::vector<int> find_pooled_convs(const Model& model, const std::vector<Shape>& shapes) {
  const auto n_values = static_cast<size_t>(model.n_values());
  std::vector<int> readers(n_values, 0), pooled(model.nodes.size(), kNotPooled);
  for (const ModelOutput& output : model.outputs) ++readers[static_cast<size_t>(output.value)];
  for (const Node& node : model.nodes) {
    for (const int value : node.inputs) ++readers[static_cast<size_t>(value)];
  }
  for (size_t j = 0; j < model.nodes.size(); ++j) {
    const Node& pool = model.nodes[j];
    if (pool.inputs.empty()) continue;
    const auto value = static_cast<size_t>(pool.inputs[0]);
    const int maker = model.node_of(pool.inputs[0]);
    if (maker < 0 || readers[value] != 1) continue;
    if (!pools_squares(pool, shapes[value], shapes[static_cast<size_t>(model.value_of(static_cast<int>(j)))])) continue;
    if (can_pool(model.nodes[static_cast<size_t>(maker)], shapes[value]))
      pooled[static_cast<size_t>(maker)] = static_cast<int>(j);
  }
  return pooled;
}

}  // namespace pconv
