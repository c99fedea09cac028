// im2col by rows: what the taps of a channel read for each output, gathered straight from the image's rows. Included by
// isa.cpp inside the ISA's unnamed namespace.

// Reads every `step`-th column of image rows, from one that may lie before the row; zeros outside. Writes whole
// vectors, so up to a vector less one float too much.
class RowGather {
 public:
  // For n outputs of a row of w floats, the first of which reads column x0.
  RowGather(int w, int64_t x0, int step, int n) : w_(w), x0_(x0), step_(step), n_(n) {
    listed_ = step <= 2 && n <= kMostListed / step * Vec::kLanes;
    const int n_loads = (n + Vec::kLanes - 1) / Vec::kLanes * step;
    for (int i = 0; listed_ && i < n_loads; ++i) {
      const int64_t x = x0 + int64_t{i} * Vec::kLanes, begin = x < 0 ? -x : 0,
                    end = w - x < Vec::kLanes ? w - x : Vec::kLanes;
      const bool any = begin < end;  // else nothing is read, from wherever that is
      column_[i] = any ? static_cast<int>(x) : 0;
      lanes_[i] = any ? Vec::lanes(static_cast<int>(begin), static_cast<int>(end)) : Vec::lanes(0, 0);
    }
  }

  PCONV_INLINE void copy(const float* row, float* out) const {
    if (step_ == 1) {
      for (int j = 0; j < n_; j += Vec::kLanes) Vec::store_unaligned(out + j, load(row, j / Vec::kLanes));
    } else if (step_ == 2) {
      for (int j = 0; j < n_; j += Vec::kLanes) {
        Vec::Reg even, odd;
        load_two(row, j, &even, &odd);
        Vec::store_unaligned(out + j, even);
      }
    } else {
      for (int j = 0; j < n_; ++j) {
        const int64_t x = x0_ + int64_t{j} * step_;
        out[j] = x >= 0 && x < w_ ? row[x] : 0.0f;
      }
    }
  }

  // Steps of 2: these columns, and those between them.
  PCONV_INLINE void copy_both(const float* row, float* out, float* between) const {
    for (int j = 0; j < n_; j += Vec::kLanes) {
      Vec::Reg even, odd;
      load_two(row, j, &even, &odd);
      Vec::store_unaligned(out + j, even);
      Vec::store_unaligned(between + j, odd);
    }
  }

  PCONV_INLINE void zeros(float* out) const {
    for (int j = 0; j < n_; j += Vec::kLanes) Vec::store_unaligned(out + j, Vec::zero());
  }

 private:
  static constexpr int kMostListed = 16;

  PCONV_INLINE void load_two(const float* row, int j, Vec::Reg* even, Vec::Reg* odd) const {
    const int i = j / Vec::kLanes * 2;
    Vec::deinterleave(load(row, i), load(row, i + 1), even, odd);
  }

  // Load number i of a row, without a branch where rows are so short that ends come often.
  PCONV_INLINE Vec::Reg load(const float* row, int i) const {
    if (listed_) return Vec::load_lanes(row + column_[i], lanes_[i]);
    const int64_t x = x0_ + int64_t{i} * Vec::kLanes;
    if (x >= 0 && x + Vec::kLanes <= w_) return Vec::load_unaligned(row + x);
    if (x + Vec::kLanes <= 0 || x >= w_) return Vec::zero();
    const int64_t end = w_ - x < Vec::kLanes ? w_ - x : Vec::kLanes;
    return Vec::load_lanes(row + x, Vec::lanes(x < 0 ? static_cast<int>(-x) : 0, static_cast<int>(end)));
  }

  int w_;
  int64_t x0_;
  int step_, n_;
  bool listed_;
  int column_[kMostListed];
  Vec::Lanes lanes_[kMostListed];
};

// Columns of outputs of some rows, counted from the first one of the tiles.
struct OutputRows {
  int first, n, x, width;
};

inline int64_t first_column(const PackPlanesArgs& args, const Plane& plane) {
  return int64_t{plane.kx} * args.dilation_w - args.pad_left;
}

// What a plane, and with `both` also the next one, holds for some rows of outputs, out_w floats apart from `out` on.
// ahead: asks for the same rows of the next channel.
PCONV_INLINE void gather_rows(const PackPlanesArgs& args, const Plane& plane, bool both, bool ahead,
                              const OutputRows& rows, float* out) {
  if (rows.n <= 0 || rows.width <= 0) return;
  const RowGather gather(args.w, int64_t{rows.x} * args.stride_w + first_column(args, plane), args.stride_w,
                         rows.width);
  const float* const image = args.image + plane.channel * args.channel_stride;
  int64_t y = (int64_t{args.first_row} + rows.first) * args.stride_h + plane.row;
  for (int r = 0; r < rows.n; ++r, y += args.stride_h, out += args.out_w) {
    const bool inside = y >= 0 && y < args.h;
    const float* const row = image + (inside ? y : 0) * args.row_stride;
    for (int x = 0; Vec::kPrefetch && ahead && inside && x < args.w; x += 16) {
      __builtin_prefetch(row + args.channel_stride + x, 0, 3);
    }
    if (inside && both) {
      gather.copy_both(row, out, out + args.plane_floats);
    } else if (inside) {
      gather.copy(row, out);
    } else {
      gather.zeros(out);
      if (both) gather.zeros(out + args.plane_floats);
    }
  }
}

// The outputs of the tiles alone, as the taps of one row of a plane read them.
inline void gather_outputs(const PackPlanesArgs& args, const Plane& plane, int row, float* out) {
  const int rest = args.out_w - args.before, first = rest < args.n_outputs ? rest : args.n_outputs;
  const int whole = (args.n_outputs - first) / args.out_w, last = args.n_outputs - first - whole * args.out_w;
  gather_rows(args, plane, false, false, {row, 1, args.before, first}, out);
  gather_rows(args, plane, false, false, {row + 1, whole, 0, args.out_w}, out + first);
  gather_rows(args, plane, false, false, {row + 1 + whole, 1, 0, last}, out + args.n_outputs - last);
  // Behind the last output: what lay there might be denormals, which are slow.
  Vec::store_unaligned(out + args.n_outputs, Vec::zero());
}

inline void pack_planes(const PackPlanesArgs& args) noexcept {
  float* out = args.planes_out;
  for (int p = 0; p < args.n_planes; ++p, out += args.plane_floats) {
    const Plane& plane = args.planes[p];
    if (!args.share_rows) {
      for (int s = 0; s < plane.n_rows; ++s) gather_outputs(args, plane, s, out + s * args.row_floats);
      continue;
    }
    // Two planes whose columns alternate come from the same loads, where these start at an even column, as rows do.
    const bool both = args.stride_w == 2 && p + 1 < args.n_planes && args.planes[p + 1].channel == plane.channel &&
                      args.planes[p + 1].row == plane.row && args.planes[p + 1].n_rows == plane.n_rows &&
                      first_column(args, args.planes[p + 1]) == first_column(args, plane) + 1 &&
                      first_column(args, plane) % 2 == 0;
    const int n_rows = args.n_rows + plane.n_rows - 1;
    const bool first_of_rows =
        p == 0 || args.planes[p - 1].channel != plane.channel || args.planes[p - 1].row != plane.row;
    gather_rows(args, plane, both, first_of_rows, {0, n_rows, 0, args.out_w}, out);
    const ptrdiff_t end = static_cast<ptrdiff_t>(n_rows) * args.out_w;
    Vec::store_unaligned(out + end, Vec::zero());  // as above
    if (both) {
      Vec::store_unaligned(out + args.plane_floats + end, Vec::zero());
      ++p, out += args.plane_floats;
    }
  }
}
