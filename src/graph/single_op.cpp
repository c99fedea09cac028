#include "single_op.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "checked.h"
#include "rules.h"
#include "validate.h"

namespace pconv {
namespace {

pconv_status check_list(const char* name, const void* items, int count, int most) {
  if (count < 0 || count > most) {
    return fail(PCONV_INVALID_ARGUMENT, "n_%s: got %d, allowed 0 to %d", name, count, most);
  }
  if (count > 0 && items == nullptr) return fail(PCONV_INVALID_ARGUMENT, "%s: is null", name);
  return PCONV_OK;
}

// Floats from the first to behind the last.
int64_t extent(const Tensor& t) { return t.shape.count() == 0 ? 0 : (parts_of(t.shape) - 1) * t.step + t.shape.part(); }

// step 0 is that of parts without gaps.
pconv_status set_step(const char* what, int64_t step, Tensor* t) {
  const int64_t least = t->shape.part();
  t->step = step == 0 ? least : step;
  if (t->step < least) {
    return fail(PCONV_INVALID_ARGUMENT, "%s: got a step of %" PRId64 ", its parts have %" PRId64 " floats", what, step,
                least);
  }
  const CheckedSize floats = checked(parts_of(t->shape)) * checked(t->step);
  if (floats.at_most(static_cast<uint64_t>(kMaxTensorFloats))) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "%s: a step of %" PRId64 " spreads it over more than %" PRId64 " floats", what,
              step, kMaxTensorFloats);
}

pconv_status read_input(int index, const pconv_shape& from, Tensor* t) {
  char what[24];
  std::snprintf(what, sizeof(what), "input %d", index);
  t->shape.rank = from.rank;
  if (from.rank >= 0 && from.rank <= kMaxRank) std::copy(from.dims, from.dims + from.rank, t->shape.dims);
  if (const pconv_status s = check_shape(what, t->shape)) return s;
  return set_step(what, from.step, t);
}

pconv_status read_data(const pconv_op_data& from, Data* data) {
  if (from.name == nullptr) return fail(PCONV_INVALID_ARGUMENT, "data: a name is null");
  if (find_role(from.name, &data->role) && data->role != Role::kLayer) {
    data->values = from.values;
    data->count = from.count;
    return PCONV_OK;
  }
  return fail(PCONV_INVALID_ARGUMENT, "data: \"%.40s\" is none of weight, bias, slope, value", from.name);
}

pconv_status find(const char* name, const OpInfo** info) {
  if (name == nullptr) return fail(PCONV_INVALID_ARGUMENT, "op: is null");
  *info = find_op(name);
  if (*info == nullptr) {
    return fail(PCONV_INVALID_ARGUMENT, "op: \"%.40s\" is no operator; pconv_list_op has the names", name);
  }
  if (std::strcmp(name, "conv") == 0) {
    return fail(PCONV_INVALID_ARGUMENT, "op: \"conv\" runs by pconv_plan_conv and pconv_run_plan");
  }
  if ((*info)->run != nullptr) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "op: \"%.40s\" cannot run alone", name);
}

pconv_status read_desc(const pconv_op_desc& desc, pconv_op* op) {
  if (const pconv_status s = find(desc.op, &op->node.op)) return s;
  const OpInfo& info = *op->node.op;
  if (const pconv_status s = check_list("inputs", desc.inputs, desc.n_inputs, info.most_inputs)) return s;
  if (const pconv_status s = check_list("ints", desc.ints, desc.n_ints, 2 * kMaxRank)) return s;
  if (const pconv_status s = check_list("floats", desc.floats, desc.n_floats, 2 * kMaxRank)) return s;
  if (const pconv_status s = check_list("data", desc.data, desc.n_data, kRoles)) return s;
  op->node.ints.assign(desc.ints, desc.ints + desc.n_ints);
  op->node.floats.assign(desc.floats, desc.floats + desc.n_floats);
  op->node.data.resize(static_cast<size_t>(desc.n_data));
  for (int i = 0; i < desc.n_data; ++i) {
    if (const pconv_status s = read_data(desc.data[i], &op->node.data[static_cast<size_t>(i)])) return s;
  }
  op->node.inputs.resize(static_cast<size_t>(desc.n_inputs));
  op->inputs.resize(static_cast<size_t>(desc.n_inputs));
  for (int i = 0; i < desc.n_inputs; ++i) {
    if (const pconv_status s = read_input(i, desc.inputs[i], &op->inputs[static_cast<size_t>(i)])) return s;
  }
  return PCONV_OK;
}

// Do two tensors share a float? Parts of equal steps may lie between each other's.
bool share(const Tensor& a, const Tensor& b) {
  const int64_t bytes = static_cast<int64_t>(sizeof(float));
  const auto at_a = reinterpret_cast<intptr_t>(a.data), at_b = reinterpret_cast<intptr_t>(b.data);
  if (at_a >= at_b + extent(b) * bytes || at_b >= at_a + extent(a) * bytes) return false;
  if (a.step != b.step || a.contiguous() || b.contiguous()) return true;
  const int64_t step = a.step * bytes, ahead = ((at_b - at_a) % step + step) % step;
  return ahead < a.shape.part() * bytes || ahead + b.shape.part() * bytes > step;
}

pconv_status check_overlap(const OpInfo& info, int index, const Tensor& input, const Tensor& output) {
  if (extent(input) == 0 || extent(output) == 0 || !share(input, output)) return PCONV_OK;
  const bool same = input.data == output.data && input.shape == output.shape && input.step == output.step;
  const bool may = (info.writes_over >> index & 1) != 0;
  if (may && same) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "output: overlaps input %d%s", index,
              may ? " without being the same tensor" : "");
}

}  // namespace

pconv_status make_op(const pconv_op_desc& desc, std::unique_ptr<pconv_op>* op) {
  auto result = std::make_unique<pconv_op>();
  if (const pconv_status s = read_desc(desc, result.get())) return s;
  std::vector<Shape> shapes;
  for (const Tensor& t : result->inputs) shapes.push_back(t.shape);
  if (const pconv_status s = infer_shape(result->node, shapes.data(), &result->output.shape)) return s;
  if (const pconv_status s = set_step("output_step", desc.output_step, &result->output)) return s;
  const Isa* isa = nullptr;
  if (const pconv_status s = find_isa(desc.isa, &isa)) return s;
  result->table = isa->table;
  *op = std::move(result);
  return PCONV_OK;
}

pconv_status run_op(const pconv_op& op, const float* const* inputs, float* output, int n_threads) {
  if (const pconv_status s = check_threads(n_threads)) return s;
  thread_local std::vector<Tensor> tensors;  // kept, so that a warm call allocates nothing
  tensors.assign(op.inputs.begin(), op.inputs.end());
  Tensor result = op.output;
  result.data = output;
  if (output == nullptr && extent(result) > 0) return fail(PCONV_INVALID_ARGUMENT, "output: is null");
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].data = const_cast<float*>(inputs[i]);
    if (inputs[i] == nullptr && extent(tensors[i]) > 0) return fail(PCONV_INVALID_ARGUMENT, "inputs[%zu]: is null", i);
    if (const pconv_status s = check_overlap(*op.node.op, static_cast<int>(i), tensors[i], result)) return s;
  }
  return op.node.op->run(
      {op.node, tensors.data(), result, *op.table, nullptr, n_threads > 0 ? n_threads : default_threads()});
}

}  // namespace pconv
