#include "placed_taps.h"

#include "plan.h"

namespace pconv {

std::shared_ptr<const PlacedTaps> place_taps(const pconv_plan& plan) {
  const Prepacked& form = *plan.prepacked;
  const int64_t plane_bytes = plan.planes.plane_floats(plan.h * plan.w) * static_cast<int64_t>(sizeof(float));
  const int64_t row_bytes = plan.planes.row * static_cast<int64_t>(sizeof(float));
  auto placed = std::make_shared<PlacedTaps>();
  placed->offsets.reserve(form.offsets.size() + kStepsAhead);
  for (const int32_t place : form.offsets) {
    placed->offsets.push_back(static_cast<int32_t>(plane_of(place) * plane_bytes + row_of(place) * row_bytes));
  }
  placed->offsets.resize(form.offsets.size() + kStepsAhead, 0);
  placed->filters = form.filters;
  for (FilterProgram& filter : placed->filters) {
    filter.tile_offsets = placed->offsets.data() + (filter.tile_offsets - form.offsets.data());
  }
  return placed;
}

}  // namespace pconv
