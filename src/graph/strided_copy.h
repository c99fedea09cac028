// Copies floats between two orders in memory: all that operators do which only move values.
#ifndef PCONV_GRAPH_STRIDED_COPY_H_
#define PCONV_GRAPH_STRIDED_COPY_H_

#include <cstdint>

namespace pconv {

// Loops, outermost first, and how many floats one round of each is apart in source and target. Reads and writes of
// different rounds do not overlap.
struct StridedCopy {
  static constexpr int kMaxLoops = 8;
  int n = 0;
  int64_t dims[kMaxLoops], from[kMaxLoops], to[kMaxLoops];

  // Inside the loops so far; joined with the last one where both walk on without a gap.
  void add(int64_t dim, int64_t from_stride, int64_t to_stride);
  void run(const float* source, float* target, int n_threads) const;
};

}  // namespace pconv
#endif  // PCONV_GRAPH_STRIDED_COPY_H_
