// im2col for tiles of planes: what a tap reads for each output, gathered straight from the image's rows. Included by
// isa.cpp inside the ISA's unnamed namespace.

// Reads every `step`-th column of image rows, from one that may lie before the row; zeros outside.
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

  // Writes whole vectors, so up to a vector less one float too much.
  PCONV_INLINE void copy(const float* row, float* out) const {
    if (step_ == 1) {
      for (int j = 0; j < n_; j += Vec::kLanes) Vec::store_unaligned(out + j, load(row, j / Vec::kLanes));
    } else if (step_ == 2) {
      for (int j = 0; j < n_; j += Vec::kLanes) {
        const int i = j / Vec::kLanes * 2;
        Vec::Reg even, odd;
        Vec::deinterleave(load(row, i), load(row, i + 1), &even, &odd);
        Vec::store_unaligned(out + j, even);
      }
    } else {
      for (int j = 0; j < n_; ++j) {
        const int64_t x = x0_ + int64_t{j} * step_;
        out[j] = x >= 0 && x < w_ ? row[x] : 0.0f;
      }
    }
  }

 private:
  static constexpr int kMostListed = 16;

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

// Outputs [x, x + n) of row r of a plane. For wide rows, of which a strip has only a part.
inline void gather_part(const PackPlanesArgs& args, const Plane& plane, int r, int x, int n, float* out) {
  const int64_t x0 = int64_t{x} * args.stride_w + int64_t{plane.kx} * args.dilation_w - args.pad_left;
  const int64_t y = int64_t{args.first_row + r} * args.stride_h + int64_t{plane.ky} * args.dilation_h - args.pad_top;
  if (y >= 0 && y < args.h) {
    const float* image = args.image + plane.channel * args.channel_stride;
    RowGather(args.w, x0, args.stride_w, n).copy(image + y * args.row_stride, out);
  } else {
    for (int j = 0; j < n; j += Vec::kLanes) Vec::store_unaligned(out + j, Vec::zero());
  }
  Vec::store_unaligned(out + n, Vec::zero());
}

// What a plane's outputs read, one behind the other in args.rows.
inline void gather_plane(const PackPlanesArgs& args, const Plane& plane) {
  if (args.n_rows <= 2) {
    const int rest = args.out_w - args.before, first = rest < args.n_outputs ? rest : args.n_outputs;
    gather_part(args, plane, 0, args.before, first, args.rows);
    if (first < args.n_outputs) gather_part(args, plane, 1, 0, args.n_outputs - first, args.rows + first);
    return;
  }
  float* out = args.rows - args.before;
  const RowGather gather(args.w, int64_t{plane.kx} * args.dilation_w - args.pad_left, args.stride_w, args.out_w);
  const float* image = args.image + plane.channel * args.channel_stride;
  const int64_t first_y = int64_t{args.first_row} * args.stride_h + int64_t{plane.ky} * args.dilation_h - args.pad_top;
  const ptrdiff_t step = args.stride_h * args.row_stride;
  ptrdiff_t row = first_y * args.row_stride;
  int64_t y = first_y;
  for (int r = 0; r < args.n_rows; ++r, y += args.stride_h, row += step, out += args.out_w) {
    if (static_cast<uint64_t>(y) < static_cast<uint64_t>(args.h)) {
      gather.copy(image + row, out);
    } else {
      for (int j = 0; j < args.out_w; j += Vec::kLanes) Vec::store_unaligned(out + j, Vec::zero());
    }
  }
  // Behind the last output: what lay there might be denormals, which are slow.
  Vec::store_unaligned(out, Vec::zero());
}

// Asks for the image rows that the next channel's planes read, when plane p is the first of its channel.
inline void prefetch_next_channel(const PackPlanesArgs& args, int p) {
  if (args.n_rows <= 2 || (p > 0 && args.planes[p].channel == args.planes[p - 1].channel)) return;
  int next = p + 1;
  while (next < args.n_planes && args.planes[next].channel == args.planes[p].channel) ++next;
  if (next == args.n_planes) return;
  const int64_t first = int64_t{args.first_row} * args.stride_h - args.pad_top;
  const int64_t begin = first > 0 ? first : 0, end = first + int64_t{args.n_rows + 1} * args.stride_h;
  const float* rows = args.image + args.planes[next].channel * args.channel_stride;
  const float* const last = rows + (end < args.h ? end : args.h) * args.row_stride;
  for (rows += begin * args.row_stride; rows < last; rows += 16) __builtin_prefetch(rows, 0, 3);
}

inline void pack_planes(const PackPlanesArgs& args) noexcept {
  const ptrdiff_t tile_floats = static_cast<ptrdiff_t>(args.n_planes) * args.plane_floats;
  for (int p = 0; p < args.n_planes; ++p) {
    prefetch_next_channel(args, p);
    gather_plane(args, args.planes[p]);
    const float* from = args.rows;
    float* tile = args.tiles + static_cast<ptrdiff_t>(p) * args.plane_floats;
    for (int t = 0; t < args.n_tiles; ++t, tile += tile_floats) {
      const int n = args.tile_vectors[t] * Vec::kLanes;
      for (int j = 0; j < n; j += Vec::kLanes) Vec::store(tile + j, Vec::load(from + j));
      from += n;
    }
  }
}
