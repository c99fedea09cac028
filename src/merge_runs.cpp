#include "merge_runs.h"

#include <algorithm>

namespace pconv {

// Runs of a filter that are considered for merging.
constexpr size_t kMostRuns = 24;

uint32_t cover_mask(uint32_t mask, uint32_t taps, const std::vector<bool>& preferred) {
  uint32_t best = kManifestSize;
  for (uint32_t m = 0; m < kManifestSize; ++m) {
    if ((kManifest[m].mask & mask) != mask || (kManifest[m].mask & ~taps) != 0) continue;
    if (best == kManifestSize || kManifest[m].taps < kManifest[best].taps ||
        (kManifest[m].taps == kManifest[best].taps && preferred[m] && !preferred[best])) {
      best = m;
    }
  }
  return best;
}

RunMerger::RunMerger(const std::vector<uint32_t>& rows, uint32_t taps, double run_cost, double tap_cost)
    : run_cost_(run_cost),
      tap_cost_(tap_cost),
      both_(size_t{kManifestSize} * kManifestSize, kManifestSize),
      target_(kManifestSize) {
  // What covers two rows may itself be merged: close the set under covering.
  std::vector<uint32_t> reached;
  std::vector<bool> known(kManifestSize, false);
  const auto reach = [&](uint32_t row) {
    if (!known[row]) reached.push_back(row);
    known[row] = true;
  };
  for (const uint32_t row : rows) reach(row);
  for (size_t i = 0; i < reached.size(); ++i) {
    for (size_t j = 0; j <= i; ++j) {
      const uint32_t a = reached[i], b = reached[j];
      const uint32_t row = cover_mask(kManifest[a].mask | kManifest[b].mask, taps, known);
      both_[size_t{a} * kManifestSize + b] = both_[size_t{b} * kManifestSize + a] = row;
      reach(row);
    }
  }
}

double RunMerger::gain(const MergedRun& a, const MergedRun& b) const {
  const int taps = kManifest[both(a.row, b.row)].taps;
  const auto added = [&](const MergedRun& run) {
    return static_cast<double>(run.n_kernels) * (taps - kManifest[run.row].taps);
  };
  return run_cost_ - tap_cost_ * (added(a) + added(b));
}

const std::vector<uint32_t>& RunMerger::merge(const std::vector<uint32_t>& counts) {
  runs_.clear();
  for (uint32_t m = 0; m < kManifestSize; ++m) {
    target_[m] = m;
    if (counts[m] > 0) runs_.push_back({m, counts[m]});
  }
  if (run_cost_ <= 0) return target_;
  // Every pair is looked at after every merge: of very many only the shortest.
  std::stable_sort(runs_.begin(), runs_.end(),
                   [](const MergedRun& a, const MergedRun& b) { return a.n_kernels < b.n_kernels; });
  if (runs_.size() > kMostRuns) runs_.resize(kMostRuns);
  while (runs_.size() > 1) {
    double best = 0;
    size_t best_a = 0, best_b = 0;
    for (size_t a = 0; a < runs_.size(); ++a) {
      for (size_t b = a + 1; b < runs_.size(); ++b) {
        const double found = gain(runs_[a], runs_[b]);
        if (found > best) best = found, best_a = a, best_b = b;
      }
    }
    if (best <= 0) break;
    const MergedRun a = runs_[best_a], b = runs_[best_b];
    const uint32_t row = both(a.row, b.row);
    for (uint32_t& target : target_) {
      if (target == a.row || target == b.row) target = row;
    }
    runs_.erase(runs_.begin() + static_cast<ptrdiff_t>(best_b));
    runs_[best_a] = {row, a.n_kernels + b.n_kernels};
  }
  return target_;
}

}  // namespace pconv
