#include "api_common.h"

#include <algorithm>

#include "guarded.h"

namespace pconv {

pconv_status check_index(const char* name, int index, size_t count) {
  if (index >= 0 && static_cast<size_t>(index) < count) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "%s: got %d, there are %zu", name, index, count);
}

pconv_status check_items(const char* name, const void* items, int count) {
  if (count < 0) return fail(PCONV_INVALID_ARGUMENT, "number of %s: got %d, allowed 0 and more", name, count);
  return count > 0 && items == nullptr ? null_argument(name) : PCONV_OK;
}

pconv_status read_shape(const pconv_shape& from, Shape* to) {
  if (from.rank < 0 || from.rank > kMaxRank) {
    return fail(PCONV_INVALID_ARGUMENT, "shape: rank %d, allowed 0 to %d", from.rank, kMaxRank);
  }
  if (from.step != 0) return fail(PCONV_INVALID_ARGUMENT, "shape: step must be 0 here");
  to->rank = from.rank;
  std::copy(from.dims, from.dims + from.rank, to->dims);
  return PCONV_OK;
}

pconv_shape c_shape(const Shape& from, int64_t step) {
  pconv_shape shape = {};
  shape.rank = from.rank;
  std::copy(from.dims, from.dims + from.rank, shape.dims);
  shape.step = step;
  return shape;
}

pconv_status read_choices(const Model& model, const pconv_choice* from, int count, std::vector<Choice>* to) {
  if (const pconv_status s = check_items("choices", from, count)) return s;
  for (int i = 0; i < count; ++i) {
    if (from[i].isa == nullptr || from[i].ukernel == nullptr) return null_argument("choices[i].isa, .ukernel");
    to->push_back({from[i].node, from[i].isa, from[i].ukernel, from[i].n, from[i].h, from[i].w});
    if (const pconv_status s = check_choice(model, static_cast<size_t>(i), to->back())) return s;
  }
  return PCONV_OK;
}

}  // namespace pconv
