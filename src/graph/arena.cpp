// Finding the smallest arena is NP-hard; buffer after buffer at the lowest offset where it fits is near it for some
// order of the buffers. Several orders are tried (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
// Inference", 2020: by size, and by the sums of the steps that use them), and then orders in which a buffer that ended
// up on top goes first.
#include "arena.h"

#include <algorithm>
#include <numeric>

namespace pconv {
namespace {

constexpr size_t kRepairs = 64;  // orders tried beyond the first ones, while the bound is not met
// Placing takes the square of the number of buffers: of a hostile file's thousands one order must do.
constexpr size_t kMostWork = size_t{1} << 27;

using Order = std::vector<size_t>;

bool meet(const ArenaBuffer& a, const ArenaBuffer& b) { return a.first <= b.last && b.first <= a.last; }

// Places the buffers in this order and returns the floats that they take.
int64_t place(const Order& order, std::vector<ArenaBuffer>* buffers) {
  std::vector<const ArenaBuffer*> placed;  // by offset
  int64_t total = 0;
  for (const size_t i : order) {
    ArenaBuffer& b = (*buffers)[i];
    int64_t at = 0;
    for (const ArenaBuffer* other : placed) {
      if (!meet(*other, b)) continue;
      if (other->offset >= at + b.floats) break;
      at = std::max(at, other->offset + other->floats);
    }
    b.offset = at;
    total = std::max(total, at + b.floats);
    const auto before = [](const ArenaBuffer* x, const ArenaBuffer* y) { return x->offset < y->offset; };
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &b, before), &b);
  }
  return total;
}

// The floats that every step needs.
std::vector<int64_t> live_at(const std::vector<ArenaBuffer>& buffers) {
  int last = 0;
  for (const ArenaBuffer& b : buffers) last = std::max(last, b.last);
  std::vector<int64_t> live(static_cast<size_t>(last) + 2, 0);
  for (const ArenaBuffer& b : buffers) {
    live[static_cast<size_t>(b.first)] += b.floats;
    live[static_cast<size_t>(b.last) + 1] -= b.floats;
  }
  std::partial_sum(live.begin(), live.end(), live.begin());
  return live;
}

class Search {
 public:
  explicit Search(std::vector<ArenaBuffer>* buffers) : buffers_(*buffers) {}

  Arena run() {
    const std::vector<int64_t> live = live_at(buffers_);
    bound_ = *std::max_element(live.begin(), live.end());
    Order order(buffers_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    attempt(order);  // by time
    const size_t repairs = std::min(kRepairs, kMostWork / (buffers_.size() * buffers_.size()));
    if (repairs == 0) return {best_, bound_};
    const auto by = [&](auto key) {
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return key(buffers_[a]) > key(buffers_[b]); });
      attempt(order);
    };
    by([](const ArenaBuffer& b) { return b.floats; });
    by([](const ArenaBuffer& b) { return b.floats * (b.last - b.first + 1); });
    std::vector<int64_t> most(buffers_.size());  // of the sums while it lives
    for (size_t i = 0; i < most.size(); ++i) {
      most[i] = *std::max_element(live.begin() + buffers_[i].first, live.begin() + buffers_[i].last + 1);
    }
    by([&](const ArenaBuffer& b) { return most[static_cast<size_t>(&b - buffers_.data())]; });
    for (size_t i = 0; i < repairs && best_ > bound_; ++i) attempt(top_first(best_order_, i));
    return {place(best_order_, &buffers_), bound_};
  }

 private:
  void attempt(const Order& order) {
    const int64_t total = place(order, &buffers_);
    if (best_ >= 0 && total >= best_) return;
    best_ = total;
    best_order_ = order;
  }

  // The order with one of the buffers that reach highest moved to its front.
  Order top_first(Order order, size_t which) {
    place(order, &buffers_);
    Order by_end = order;
    std::stable_sort(by_end.begin(), by_end.end(), [&](size_t a, size_t b) {
      return buffers_[a].offset + buffers_[a].floats > buffers_[b].offset + buffers_[b].floats;
    });
    const auto chosen = std::find(order.begin(), order.end(), by_end[which % by_end.size()]);
    std::rotate(order.begin(), chosen, chosen + 1);
    return order;
  }

  std::vector<ArenaBuffer>& buffers_;
  int64_t bound_ = 0, best_ = -1;
  Order best_order_;
};

}  // namespace

Arena plan_arena(std::vector<ArenaBuffer>* buffers) {
  if (buffers->empty()) return {};
  return Search(buffers).run();
}

}  // namespace pconv
