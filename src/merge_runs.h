// Filter kernel reorder, second half: short runs of a filter run as one under a pattern that covers both, with zero
// weights, where starting a run costs more than the added multiply-adds.
#ifndef PCONV_MERGE_RUNS_H_
#define PCONV_MERGE_RUNS_H_

#include <cstdint>
#include <vector>

#include "manifest.h"

namespace pconv {

// The smallest row within `taps` that contains `mask`, and among those rather one of `preferred`.
uint32_t cover_mask(uint32_t mask, uint32_t taps, const std::vector<bool>& preferred);

// Decides filter by filter of one layer on one ukernel.
class RunMerger {
 public:
  // `run_cost`: of starting a run, `tap_cost`: of one more tap of one kernel, in multiply-add instructions.
  RunMerger(const std::vector<uint32_t>& rows, uint32_t taps, double run_cost, double tap_cost);

  // Rows that the kernels of a filter run under, by the row that they would run under alone. `counts`: [kManifestSize]
  // kernels of the filter by row.
  const std::vector<uint32_t>& merge(const std::vector<uint32_t>& counts);

 private:
  struct MergedRun {
    uint32_t row, n_kernels;
  };
  double gain(const MergedRun& a, const MergedRun& b) const;
  uint32_t both(uint32_t a, uint32_t b) const { return both_[size_t{a} * kManifestSize + b]; }

  double run_cost_, tap_cost_;
  std::vector<uint32_t> both_;  // [kManifestSize][kManifestSize] row that covers two rows, for those that may occur
  std::vector<uint32_t> target_;
  std::vector<MergedRun> runs_;
};

}  // namespace pconv
#endif  // PCONV_MERGE_RUNS_H_
