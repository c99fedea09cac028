// Splits image rows into phases, so that the inputs of neighbouring outputs lie side by side whatever the stride.
// Included by isa.cpp inside the ISA's unnamed namespace.

// Float j of phase p is column x0 + p + j * n_phases of a row of w floats; zeros outside the row.
class RowSplitter {
 public:
  // phase_floats: whole vectors. Phases begin phase_step floats apart.
  RowSplitter(int w, int x0, int n_phases, int phase_floats, ptrdiff_t phase_step)
      : w_(w), x0_(x0), n_phases_(n_phases), phase_floats_(phase_floats), phase_step_(phase_step) {
    // Loads start at x0 and follow each other: at most one of them has the row's begin inside, and one its end.
    left_ = Vec::lanes(x0 < 0 ? -x0 % Vec::kLanes : 0, Vec::kLanes);
    right_ = Vec::lanes(0, (w - x0) % Vec::kLanes);
  }

  // out: the first phase, aligned. row: w floats, null: all zeros.
  PCONV_INLINE void split(const float* row, float* out) const {
    if (row == nullptr) {
      for (int phase = 0; phase < n_phases_; ++phase, out += phase_step_) {
        for (int j = 0; j < phase_floats_; j += Vec::kLanes) Vec::store(out + j, Vec::zero());
      }
    } else if (n_phases_ == 1) {
      for (int j = 0; j < phase_floats_; j += Vec::kLanes) Vec::store(out + j, load(row, int64_t{x0_} + j));
    } else if (n_phases_ == 2) {
      for (int j = 0; j < phase_floats_; j += Vec::kLanes) {
        const int64_t x = int64_t{x0_} + 2 * j;
        Vec::Reg even, odd;
        Vec::deinterleave(load(row, x), load(row, x + Vec::kLanes), &even, &odd);
        Vec::store(out + j, even);
        Vec::store(out + phase_step_ + j, odd);
      }
    } else {
      split_any(row, out);
    }
  }

 private:
  // Columns x and after.
  PCONV_INLINE Vec::Reg load(const float* row, int64_t x) const {
    const bool begins = x >= 0, ends = x + Vec::kLanes <= w_;
    if (begins && ends) return Vec::load_unaligned(row + x);
    if (x + Vec::kLanes <= 0 || x >= w_) return Vec::zero();
    if (ends) return Vec::load_lanes(row + x, left_);
    if (begins) return Vec::load_lanes(row + x, right_);
    return Vec::load_lanes(row + x, Vec::lanes(static_cast<int>(-x), static_cast<int>(w_ - x)));
  }

  void split_any(const float* row, float* out) const {
    for (int phase = 0; phase < n_phases_; ++phase, out += phase_step_) {
      for (int j = 0; j < phase_floats_; ++j) {
        const int64_t x = x0_ + phase + int64_t{j} * n_phases_;
        out[j] = x >= 0 && x < w_ ? row[x] : 0.0f;
      }
    }
  }

  int w_, x0_, n_phases_, phase_floats_;
  ptrdiff_t phase_step_;
  Vec::Lanes left_, right_;
};
