// Splits an image row into phases, so that the inputs of neighbouring outputs lie side by side whatever the stride.
// Included by isa.cpp inside the ISA's unnamed namespace.

// Columns x and after of a row of w floats, zeros outside.
PCONV_INLINE Vec::Reg load_columns(const float* row, int w, int64_t x) {
  if (x >= 0 && x + Vec::kLanes <= w) return Vec::load_unaligned(row + x);
  if (x >= w || x + Vec::kLanes <= 0) return Vec::zero();
  const int begin = x < 0 ? static_cast<int>(-x) : 0;
  const int end = w - x < Vec::kLanes ? static_cast<int>(w - x) : Vec::kLanes;
  return Vec::load_lanes(row + x, Vec::lanes(begin, end));
}

// Float j of phase p is column x0 + p + j * n_phases; zeros outside the row. row: w floats, null: all zeros.
// out: [n_phases][phase_floats], whole vectors.
inline void split_row(const float* row, int w, int x0, int n_phases, int phase_floats, float* out) {
  if (row == nullptr) {
    for (int j = 0; j < n_phases * phase_floats; j += Vec::kLanes) Vec::store(out + j, Vec::zero());
  } else if (n_phases == 1) {
    for (int j = 0; j < phase_floats; j += Vec::kLanes) Vec::store(out + j, load_columns(row, w, int64_t{x0} + j));
  } else if (n_phases == 2) {
    for (int j = 0; j < phase_floats; j += Vec::kLanes) {
      const int64_t x = int64_t{x0} + 2 * j;
      Vec::Reg even, odd;
      Vec::deinterleave(load_columns(row, w, x), load_columns(row, w, x + Vec::kLanes), &even, &odd);
      Vec::store(out + j, even);
      Vec::store(out + phase_floats + j, odd);
    }
  } else {
    for (int phase = 0; phase < n_phases; ++phase) {
      for (int j = 0; j < phase_floats; ++j) {
        const int64_t x = x0 + phase + int64_t{j} * n_phases;
        *out++ = x >= 0 && x < w ? row[x] : 0.0f;
      }
    }
  }
}
