// The tap streams of ukernels that read planes, with places as bytes: what the plan's map adds to the prepacked form,
// which maps of all sizes share.
#ifndef PCONV_PLACED_TAPS_H_
#define PCONV_PLACED_TAPS_H_

#include <memory>
#include <vector>

#include "kernels/ukernel.h"

struct pconv_plan;

namespace pconv {

struct PlacedTaps {
  std::vector<int32_t> offsets;
  std::vector<FilterProgram> filters;  // the prepacked ones, reading these offsets

  int64_t bytes() const {
    return static_cast<int64_t>(offsets.size() * sizeof(int32_t) + filters.size() * sizeof(FilterProgram));
  }
};

// Of a plan with Body::kPlanes that has its prepacked form.
std::shared_ptr<const PlacedTaps> place_taps(const pconv_plan& plan);

}  // namespace pconv
#endif  // PCONV_PLACED_TAPS_H_
