// The one place where sizes are multiplied, added and rounded up. Every size that comes from a caller or from bytes
// goes through here; a product that does not fit turns the whole expression invalid instead of wrapping.
#ifndef PCONV_CHECKED_H_
#define PCONV_CHECKED_H_

#include <cstddef>
#include <cstdint>

namespace pconv {

// A non-negative size, or "does not fit" (ok() == false), which every later operation keeps.
class CheckedSize {
 public:
  constexpr CheckedSize() = default;
  // Negative values do not fit.
  template <typename T>
  static CheckedSize of(T value) {
    CheckedSize s;
    s.ok_ = !__builtin_add_overflow(value, T{0}, &s.value_);
    return s;
  }
  CheckedSize operator*(CheckedSize o) const {
    CheckedSize s;
    s.ok_ = !__builtin_mul_overflow(value_, o.value_, &s.value_) && ok_ && o.ok_;
    return s;
  }
  CheckedSize operator+(CheckedSize o) const {
    CheckedSize s;
    s.ok_ = !__builtin_add_overflow(value_, o.value_, &s.value_) && ok_ && o.ok_;
    return s;
  }
  // Next multiple of `step` (> 0).
  CheckedSize round_up(uint64_t step) const {
    CheckedSize s = *this + of(step - 1);
    s.value_ -= s.value_ % step;
    return s;
  }
  bool ok() const { return ok_; }
  // True when the value fits and is at most `limit`.
  bool at_most(uint64_t limit) const { return ok_ && value_ <= limit; }
  // Only after ok().
  uint64_t value() const { return value_; }
  // True when it fits and equals `other`.
  bool equals(uint64_t other) const { return ok_ && value_ == other; }

 private:
  uint64_t value_ = 0;
  bool ok_ = true;
};

// Of small non-negative numbers.
constexpr int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T>
CheckedSize checked(T value) {
  return CheckedSize::of(value);
}

}  // namespace pconv
#endif  // PCONV_CHECKED_H_
