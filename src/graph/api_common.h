// What the C entry points of networks share: checks of indices and lists, shapes and choices to and from C.
#ifndef PCONV_GRAPH_API_COMMON_H_
#define PCONV_GRAPH_API_COMMON_H_

#include <vector>

#include "model.h"

namespace pconv {

// An index of something that there are `count` of.
pconv_status check_index(const char* name, int index, size_t count);
// Items and their number, as C callers give them.
pconv_status check_items(const char* name, const void* items, int count);
// step must be 0.
pconv_status read_shape(const pconv_shape& from, Shape* to);
pconv_shape c_shape(const Shape& from, int64_t step);
pconv_status read_choices(const Model& model, const pconv_choice* from, int count, std::vector<Choice>* to);

}  // namespace pconv
#endif  // PCONV_GRAPH_API_COMMON_H_
