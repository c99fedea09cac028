// Copies an input window into a tile, and asks for memory that later tiles will touch. Included by isa.cpp inside the
// ISA's unnamed namespace.

// Tiles of kTileRows rows of kRowFloats floats.
template <int kTileRows, int kRowFloats>
class TilePacker {
 public:
  static void pack(const PackTileArgs& args) noexcept {
    if (args.seam < kRowFloats) return pack_over_seam(args);
    const bool columns_inside = args.x0 >= 0 && args.x0 + kRowFloats <= args.w;
    const bool inside = columns_inside && args.y0 >= 0 && args.y0 + kTileRows <= args.h;
    const ptrdiff_t row_stride = args.row_stride;  // the stores might alias args
    float* out = args.tile;
    const float* plane = args.image + args.y0 * row_stride + args.x0;
    for (int ch = 0; ch < args.n_channels; ++ch, plane += args.channel_stride, out += kTileRows * kRowFloats) {
      if (inside) {
        const float* row = plane;
        static_for<kTileRows>([&](auto i) PCONV_INLINE_LAMBDA {
          copy_row(row, out + i * kRowFloats);
          row += row_stride;
        });
      } else {
        pack_at_edge(args, plane, columns_inside, out);
      }
    }
  }

 private:
  static PCONV_INLINE void copy_row(const float* row, float* out) {
    Vec::Reg v[kRowFloats / Vec::kLanes];  // loads first: NEON has one instruction for two loads or stores
    for (int c = 0; c < kRowFloats; c += Vec::kLanes) v[c / Vec::kLanes] = Vec::load_unaligned(row + c);
    for (int c = 0; c < kRowFloats; c += Vec::kLanes) Vec::store(out + c, v[c / Vec::kLanes]);
  }

  // `plane` is where the first float of the first row would be; it may lie outside the image.
  static PCONV_INLINE void pack_at_edge(const PackTileArgs& args, const float* plane, bool columns_inside, float* out) {
    for (int i = 0; i < kTileRows; ++i, out += kRowFloats) {
      const float* row = plane + i * args.row_stride;
      const bool row_inside = args.y0 + i >= 0 && args.y0 + i < args.h;
      if (row_inside && columns_inside) {
        copy_row(row, out);
        continue;
      }
      for (int c = 0; c < kRowFloats; c += Vec::kLanes) {
        const int x = args.x0 + c;
        const int begin = x < 0 ? -x : 0, end = args.w - x < Vec::kLanes ? args.w - x : Vec::kLanes;
        Vec::Reg v = Vec::zero();
        if (row_inside && begin < end) v = Vec::load_lanes(row + c, Vec::lanes(begin, end));
        Vec::store(out + c, v);
      }
    }
  }

  // Image rows from y on, and the columns [begin, end) of the tile that come from them.
  struct Piece {
    int y, begin, end;
    const float* plane;  // where the first float of the window's first row would be; may lie outside the image

    Piece(const PackTileArgs& args, int first_row, int x, int seam_begin, int seam_end)
        : y(first_row),
          begin(seam_begin > -x ? seam_begin : -x),
          end(seam_end < args.w - x ? seam_end : args.w - x),
          plane(args.image + first_row * args.row_stride + x) {}

    // Columns c and after of row i; zeros elsewhere.
    PCONV_INLINE Vec::Reg load(const PackTileArgs& args, int i, int c) const {
      const int from = begin > c ? begin - c : 0, to = end - c < Vec::kLanes ? end - c : Vec::kLanes;
      if (y + i < 0 || y + i >= args.h || from >= to) return Vec::zero();
      return Vec::load_lanes(plane + i * args.row_stride + c, Vec::lanes(from, to));
    }
  };

  static void pack_over_seam(const PackTileArgs& args) noexcept {
    Piece above(args, args.y0, args.x0, 0, args.seam);
    Piece below(args, args.y0 + args.rows_to_next_band, args.x0 - args.columns_of_band, args.seam, kRowFloats);
    float* out = args.tile;
    for (int ch = 0; ch < args.n_channels; ++ch) {
      for (int i = 0; i < kTileRows; ++i, out += kRowFloats) {
        for (int c = 0; c < kRowFloats; c += Vec::kLanes) {
          Vec::store(out + c, Vec::add(above.load(args, i, c), below.load(args, i, c)));  // one of the two is zero
        }
      }
      above.plane += args.channel_stride;
      below.plane += args.channel_stride;
    }
  }
};

// What a ukernel of kRows x kVectors tiles asks for while it runs a list of filters: output lines of the filters ahead,
// and the next tile's input, an equal share with each filter, so that packing does not wait.
template <int kRows, int kVectors>
class BandPrefetch {
 public:
  explicit PCONV_INLINE BandPrefetch(const TileArgs& args)
      : args_(args), plane_(args.next_input), rest_(args.next_input != nullptr ? args.n_channels : 0) {}

  PCONV_INLINE void next_filter(const FilterProgram& filter, const FilterProgram* end) {
    if constexpr (Vec::kPrefetch) {
      if (end - &filter > kFiltersAhead) output(args_.out, (&filter)[kFiltersAhead]);
      if (args_.next_out != nullptr) output(args_.next_out, filter);
      input();
    }
  }

 private:
  // Output lines are brought to L2 this many filters ahead. A tile whose last vector is finished by the next one writes
  // them a whole tile later, and lines from memory would hold L1's few line buffers for long.
  static constexpr int kFiltersAhead = 1;

  PCONV_INLINE void output(const float* lines, const FilterProgram& filter) const {
    const float* out = lines + filter.out_channel * args_.plane_stride;
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kVectors; ++c) __builtin_prefetch(out + r * args_.row_stride + c * Vec::kLanes, 0, 2);
    }
    for (int r = 0; r < args_.seam_rows; ++r) {
      __builtin_prefetch(out + args_.seam_step + r * args_.row_stride + kVectors * Vec::kLanes - 1, 0, 2);
    }
  }

  PCONV_INLINE void input() {
    for (share_ += args_.n_channels; share_ >= args_.n_filters; share_ -= args_.n_filters) {
      if (rest_ == 0) return;
      --rest_;
      for (int i = 0; i < kRows + 2; ++i) {
        for (int c = 0; c < kVectors; ++c) {
          // The last float: where rows do not start on a line, the first one's line came with the tile before.
          __builtin_prefetch(plane_ + i * args_.next_row_stride + (c + 1) * Vec::kLanes - 1, 0, 2);
        }
      }
      plane_ += args_.next_channel_stride;
    }
  }

  const TileArgs& args_;
  const float* plane_;
  int32_t rest_;
  int32_t share_ = 0;
};
