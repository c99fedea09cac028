// im2col for tiles of planes: per channel the rows that its taps read are padded and split into phases once, so that
// the inputs of neighbouring outputs lie side by side whatever the stride; then each tap's plane is copied from them.
// Included by isa.cpp inside the ISA's unnamed namespace.

class PlanePacker {
 public:
  static void pack(const PackPlanesArgs& args) noexcept {
    for (int p = 0; p < args.n_planes;) {
      const int channel = args.planes[p].channel;
      const float* image = args.image + channel * args.channel_stride;
      if (args.phases != nullptr) {
        for (int i = 0; i < args.n_rows; ++i) split_window_row(args, image, i);
      }
      for (; p < args.n_planes && args.planes[p].channel == channel; ++p) copy_plane(args, p, image);
    }
  }

 private:
  // Row i of the window, all phases.
  static void split_window_row(const PackPlanesArgs& args, const float* image, int i) {
    float* out = args.phases + static_cast<ptrdiff_t>(i) * args.stride_w * args.phase_floats;
    const int y = args.first_row + i;
    const float* row = y >= 0 && y < args.h ? image + y * args.row_stride : nullptr;
    split_row(row, args.w, -args.pad_left, args.stride_w, args.phase_floats, out);
  }

  // A plane's inputs of all tiles, output row by output row.
  static void copy_plane(const PackPlanesArgs& args, int p, const float* image) {
    const Plane& plane = args.planes[p];
    const int column = plane.kx * args.dilation_w;
    const ptrdiff_t row_step = static_cast<ptrdiff_t>(args.stride_w) * args.phase_floats;
    const float* row = args.phases + plane.ky * args.dilation_h * row_step +
                       static_cast<ptrdiff_t>(column % args.stride_w) * args.phase_floats + column / args.stride_w;
    const ptrdiff_t tile_floats = static_cast<ptrdiff_t>(args.n_planes) * args.plane_floats;
    float* tile = args.tiles + static_cast<ptrdiff_t>(p) * args.plane_floats;
    if (args.phases == nullptr) row = image;
    int x = args.tile_begin[0] % args.out_w, t = 0, at = args.tile_begin[0];
    while (t < args.n_tiles) {
      const int to_row_end = args.out_w - x, to_tile_end = args.tile_begin[t + 1] - at;
      const int n = to_row_end < to_tile_end ? to_row_end : to_tile_end;
      copy(row + x, tile + (at - args.tile_begin[t]), n);
      at += n;
      x += n;
      if (x == args.out_w) {
        x = 0;
        row += args.stride_h * row_step;
      }
      if (at == args.tile_begin[t + 1]) {
        ++t;
        tile += tile_floats;
      }
    }
  }

  static PCONV_INLINE void copy(const float* from, float* to, int n) {
    int j = 0;
    for (; j + Vec::kLanes <= n; j += Vec::kLanes) Vec::store_unaligned(to + j, Vec::load_unaligned(from + j));
    if (j < n) {
      const Vec::Lanes rest = Vec::lanes(0, n - j);
      Vec::store_lanes(to + j, Vec::load_lanes(from + j, rest), rest);
    }
  }
};

inline void pack_planes(const PackPlanesArgs& args) noexcept { PlanePacker::pack(args); }
