// What filter kernel reorder merges, without a layer around it.
#include "merge_runs.h"
#include "support.h"
#include "testing.h"

namespace pconv_test {
namespace {

uint32_t row_of(uint32_t mask) {
  for (uint32_t m = 0; m < pconv::kManifestSize; ++m) {
    if (pconv::kManifest[m].mask == mask) return m;
  }
  return pconv::kManifestSize;
}

constexpr uint32_t kScps[] = {0x03a, 0x09a, 0x0b8, 0x0b2};

// Rows that filters with so many kernels of each SCP run under, at `run_cost` and a cost of 1 a tap.
std::vector<uint32_t> merged(const std::vector<uint32_t>& kernels, double run_cost, uint32_t taps = pconv::kAllTaps) {
  std::vector<uint32_t> rows, counts(pconv::kManifestSize, 0);
  for (size_t i = 0; i < kernels.size(); ++i) {
    rows.push_back(row_of(kScps[i]));
    counts[rows.back()] = kernels[i];
  }
  pconv::RunMerger merger(rows, taps, run_cost, 1.0);
  const std::vector<uint32_t> all = merger.merge(counts);
  std::vector<uint32_t> found;
  for (const uint32_t row : rows) found.push_back(all[row]);
  return found;
}

TEST(short_runs_merge_under_the_cross) {
  const uint32_t cross = row_of(pconv::kCrossTaps);
  const std::vector<uint32_t> found = merged({1, 1, 1, 1}, 3.0);
  for (const uint32_t row : found) CHECK(row == cross, "row %u", row);
  CHECK((merged({1, 1, 1, 1}, 3.0, pconv::kCrossTaps) == found), "other rows within the cross");
}

TEST(a_merge_that_wins_nothing_is_left) {
  CHECK(merged({1, 1}, 2.0)[0] == row_of(kScps[0]), "two added taps against a cost of two");
  CHECK(merged({1, 1}, 2.5)[0] == row_of(pconv::kCrossTaps), "two added taps against more");
  CHECK(merged({1, 1, 1, 1}, 0.0)[0] == row_of(kScps[0]), "runs cost nothing");
}

TEST(long_runs_stay) {
  const std::vector<uint32_t> found = merged({1, 1, 40, 40}, 5.0);
  CHECK(found[0] == row_of(pconv::kCrossTaps) && found[1] == found[0], "the short ones");
  CHECK(found[2] == row_of(kScps[2]) && found[3] == row_of(kScps[3]), "the long ones");
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, nullptr); }
