#include "strided_copy.h"

#include <cstring>

#include "rules.h"

namespace pconv {
namespace {

constexpr int64_t kBlock = 16;         // floats that are transposed together: a cache line
constexpr int64_t kRow = kTaskFloats;  // of one memcpy

// A copy whose one or two inner loops are cut into blocks.
struct Blocks {
  const StridedCopy& copy;  // its loops [0, n_outer) are outside the blocks
  int n_outer;
  int row, across;  // loops of a block; across < 0: none
  int64_t block;    // rounds of `across`, or else of `row`
  int64_t n_blocks;

  explicit Blocks(const StridedCopy& c) : copy(c), n_outer(c.n - 1), row(c.n - 1), across(-1), block(kRow) {
    int walks_on = -1;  // the loop along which source floats are neighbours
    for (int i = 0; i < c.n; ++i) walks_on = c.from[i] == 1 ? i : walks_on;
    if (walks_on >= 0 && walks_on != row) across = walks_on, block = 4 * kBlock;
    n_blocks = (c.dims[cut()] + block - 1) / block;
  }
  int cut() const { return across >= 0 ? across : row; }
  int64_t outer() const {
    int64_t rounds = 1;
    for (int i = 0; i < n_outer; ++i) rounds *= i == across ? 1 : copy.dims[i];
    return rounds;
  }

  void run(const float* source, float* target, int64_t first) const {
    const int64_t n = std::min(block, copy.dims[cut()] - first);
    source += first * copy.from[cut()], target += first * copy.to[cut()];
    if (across >= 0) return transpose(source, target, n);
    if (copy.from[row] == 1 && copy.to[row] == 1) {
      std::memcpy(target, source, static_cast<size_t>(n) * sizeof(float));
      return;
    }
    for (int64_t i = 0; i < n; ++i) target[i * copy.to[row]] = source[i * copy.from[row]];
  }

 private:
  void transpose(const float* source, float* target, int64_t n) const {
    const int64_t from = copy.from[row], to = copy.to[row], step = copy.to[across];
    for (int64_t j0 = 0; j0 < copy.dims[row]; j0 += kBlock) {
      const int64_t j1 = std::min(j0 + kBlock, copy.dims[row]);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = j0; j < j1; ++j) target[i * step + j * to] = source[i + j * from];
      }
    }
  }
};

// The rounds of the outer loops, one after the other.
class Odometer {
 public:
  Odometer(const Blocks& blocks, int64_t round) : blocks_(blocks) {
    for (int i = blocks.n_outer - 1; i >= 0; --i) {
      const int64_t dim = dim_of(i);
      at_[i] = round % dim;
      round /= dim;
      from_ += at_[i] * blocks.copy.from[i], to_ += at_[i] * blocks.copy.to[i];
    }
  }
  int64_t from() const { return from_; }
  int64_t to() const { return to_; }
  void next() {
    for (int i = blocks_.n_outer - 1; i >= 0; --i) {
      const StridedCopy& c = blocks_.copy;
      from_ += c.from[i], to_ += c.to[i];
      if (++at_[i] < dim_of(i)) return;
      from_ -= at_[i] * c.from[i], to_ -= at_[i] * c.to[i];
      at_[i] = 0;
    }
  }

 private:
  int64_t dim_of(int i) const { return i == blocks_.across ? 1 : blocks_.copy.dims[i]; }

  const Blocks& blocks_;
  int64_t at_[StridedCopy::kMaxLoops] = {}, from_ = 0, to_ = 0;
};

}  // namespace

void StridedCopy::add(int64_t dim, int64_t from_stride, int64_t to_stride) {
  if (dim == 1) return;
  if (n == 0 || from[n - 1] != from_stride * dim || to[n - 1] != to_stride * dim) {
    dims[n] = dim;
    ++n;
  } else {
    dims[n - 1] *= dim;
  }
  from[n - 1] = from_stride, to[n - 1] = to_stride;
}

void StridedCopy::run(const float* source, float* target, int n_threads) const {
  StridedCopy copy = *this;
  if (copy.n == 0) copy.dims[copy.n] = copy.from[copy.n] = copy.to[copy.n] = 1, ++copy.n;
  int64_t floats = 1;
  for (int i = 0; i < copy.n; ++i) floats *= copy.dims[i];
  if (floats == 0) return;
  const Blocks blocks(copy);
  const int64_t units = blocks.outer() * blocks.n_blocks;
  for_ranges(units, floats / units, n_threads, [&](int64_t begin, int64_t end) {
    Odometer odometer(blocks, begin / blocks.n_blocks);
    int64_t block = begin % blocks.n_blocks;
    for (int64_t i = begin; i < end; ++i) {
      blocks.run(source + odometer.from(), target + odometer.to(), block * blocks.block);
      if (++block == blocks.n_blocks) block = 0, odometer.next();
    }
  });
}

}  // namespace pconv
