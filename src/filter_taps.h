// Walks the kept taps of a packed layer, filter by filter.
#ifndef PCONV_FILTER_TAPS_H_
#define PCONV_FILTER_TAPS_H_

#include <cstdint>
#include <vector>

#include "layer.h"

namespace pconv {

// A kept weight of a filter: tap number ky * kernel_w + kx of an input channel of the filter's group.
struct Tap {
  int32_t channel, tap;
  float weight;
};

class FilterTaps {
 public:
  explicit FilterTaps(const PackedView& view);
  // Of filter number `filter` in packed order, ordered by channel and tap. Valid until the next call.
  const std::vector<Tap>& of(int64_t filter);

 private:
  const PackedView& view_;
  std::vector<std::vector<int32_t>> pattern_taps_;
  std::vector<uint64_t> unit_weights_;  // index of each unit's first weight
  std::vector<Tap> taps_;
};

}  // namespace pconv
#endif  // PCONV_FILTER_TAPS_H_
