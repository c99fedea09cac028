// im2col for tiles of planes: per channel the rows that its taps read are padded and split into phases once; then each
// tap's plane is copied from them. Where its pieces come from and go to is the same for all planes and listed once.
// Included by isa.cpp inside the ISA's unnamed namespace.

class PlanePacker {
 public:
  static void pack(const PackPlanesArgs& args) noexcept {
    const RowSplitter splitter(args.w, -args.pad_left, args.stride_w, args.phase_floats, args.phase_floats);
    const ptrdiff_t row_step = static_cast<ptrdiff_t>(args.stride_w) * args.phase_floats;
    const Moves moves = list_moves(args, args.stride_h * row_step);
    for (int p = 0; p < args.n_planes;) {
      const int channel = args.planes[p].channel;
      const float* image = args.image + channel * args.channel_stride;
      for (int i = 0; i < args.n_rows && args.phases != nullptr; ++i) {
        const int y = args.first_row + i;
        splitter.split(y >= 0 && y < args.h ? image + y * args.row_stride : nullptr, args.phases + i * row_step);
      }
      for (; p < args.n_planes && args.planes[p].channel == channel; ++p) {
        const int column = args.planes[p].kx * args.dilation_w;
        const float* from = image;
        if (args.phases != nullptr) {
          from = args.phases + args.planes[p].ky * args.dilation_h * row_step +
                 static_cast<ptrdiff_t>(column % args.stride_w) * args.phase_floats + column / args.stride_w;
        }
        copy(args.moves, moves, from, args.tiles + static_cast<ptrdiff_t>(p) * args.plane_floats);
      }
    }
  }

 private:
  // Of args.moves: whole vectors [0, whole), others [exact, end).
  struct Moves {
    int whole, exact, end;
    ptrdiff_t last;  // place of the last tile's last vector
  };

  // Pieces of output rows that lie in one tile, cut into vectors. First those that may be moved as whole vectors: what
  // one writes too much, a later one overwrites.
  static Moves list_moves(const PackPlanesArgs& args, ptrdiff_t row_step) {
    int whole = 0, exact = args.max_moves;
    const ptrdiff_t tile_floats = static_cast<ptrdiff_t>(args.n_planes) * args.plane_floats;
    int x = args.tile_begin[0] % args.out_w, t = 0, at = args.tile_begin[0];
    ptrdiff_t row = 0;
    while (t < args.n_tiles) {
      const int to_row_end = args.out_w - x, to_tile_end = args.tile_begin[t + 1] - at;
      const int n = to_row_end < to_tile_end ? to_row_end : to_tile_end;
      for (int j = 0; j < n; j += Vec::kLanes) {
        const int lane = at - args.tile_begin[t] + j, rest = n - j < Vec::kLanes ? n - j : Vec::kLanes;
        const bool fits = lane + Vec::kLanes <= args.plane_floats;
        // A channel of the image has nothing behind its end.
        const bool may_read_on = rest == Vec::kLanes || args.phases != nullptr;
        PlaneMove& move = args.moves[fits && may_read_on ? whole++ : --exact];
        move.from = row + x + j;
        move.to = t * tile_floats + lane;
        move.n_read = rest;
        move.n_written = fits ? Vec::kLanes : rest;
      }
      at += n;
      x += n;
      if (x == args.out_w) {
        x = 0;
        row += row_step;
      }
      if (at == args.tile_begin[t + 1]) ++t;
    }
    const int in_last = args.tile_begin[t] - args.tile_begin[t - 1] - 1;
    return {whole, exact, args.max_moves, (t - 1) * tile_floats + in_last / Vec::kLanes * Vec::kLanes};
  }

  static PCONV_INLINE void copy(const PlaneMove* moves, Moves count, const float* from, float* to) {
    // Lanes behind the image's last output: what lay there might be denormals, which are slow.
    Vec::store(to + count.last, Vec::zero());
    for (int i = 0; i < count.whole; ++i) {
      Vec::store_unaligned(to + moves[i].to, Vec::load_unaligned(from + moves[i].from));
    }
    for (const PlaneMove *move = moves + count.exact, *end = moves + count.end; move != end; ++move) {
      const Vec::Reg v = Vec::load_lanes(from + move->from, Vec::lanes(0, move->n_read));
      Vec::store_lanes(to + move->to, v, Vec::lanes(0, move->n_written));
    }
  }
};

inline void pack_planes(const PackPlanesArgs& args) noexcept { PlanePacker::pack(args); }
