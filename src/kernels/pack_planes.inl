// im2col for tiles of planes: what a tap reads for each output, gathered straight from the image's rows. Included by
// isa.cpp inside the ISA's unnamed namespace.

// Reads every `step`-th column of image rows, from one that may lie before the row; zeros outside.
class RowGather {
 public:
  RowGather(int w, int64_t x0, int step) : w_(w), x0_(x0), step_(step) {
    // Loads start at x0 and follow each other: at most one of them has the row's begin inside, and one its end.
    left_ = Vec::lanes(x0 < 0 ? static_cast<int>(-x0 % Vec::kLanes) : 0, Vec::kLanes);
    right_ = Vec::lanes(0, static_cast<int>((w - x0) % Vec::kLanes));
  }

  // Writes whole vectors, so up to a vector less one float too much.
  PCONV_INLINE void copy(const float* row, float* out, int n) const {
    if (step_ == 1) {
      for (int j = 0; j < n; j += Vec::kLanes) Vec::store_unaligned(out + j, load(row, x0_ + j));
    } else if (step_ == 2) {
      for (int j = 0; j < n; j += Vec::kLanes) {
        const int64_t x = x0_ + int64_t{2} * j;
        Vec::Reg even, odd;
        Vec::deinterleave(load(row, x), load(row, x + Vec::kLanes), &even, &odd);
        Vec::store_unaligned(out + j, even);
      }
    } else {
      for (int j = 0; j < n; ++j) {
        const int64_t x = x0_ + int64_t{j} * step_;
        out[j] = x >= 0 && x < w_ ? row[x] : 0.0f;
      }
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

  int w_;
  int64_t x0_;
  int step_;
  Vec::Lanes left_, right_;
};

inline void pack_planes(const PackPlanesArgs& args) noexcept {
  for (int p = 0; p < args.n_planes; ++p) {
    const Plane& plane = args.planes[p];
    const float* image = args.image + plane.channel * args.channel_stride;
    const RowGather gather(args.w, int64_t{plane.kx} * args.dilation_w - args.pad_left, args.stride_w);
    float* out = args.out + p * args.plane_stride;
    for (int r = 0; r < args.n_rows; ++r, out += args.out_w) {
      const int64_t y =
          int64_t{args.first_row + r} * args.stride_h + int64_t{plane.ky} * args.dilation_h - args.pad_top;
      if (y >= 0 && y < args.h) {
        gather.copy(image + y * args.row_stride, out, args.out_w);
      } else {
        for (int j = 0; j < args.out_w; j += Vec::kLanes) Vec::store_unaligned(out + j, Vec::zero());
      }
    }
    // Behind the last output: what lay there might be denormals, which are slow.
    Vec::store_unaligned(out, Vec::zero());
  }
}
