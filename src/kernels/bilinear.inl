// Bilinear interpolation: first between two rows, into a line, then between columns of the line. Included by isa.cpp
// inside the ISA's unnamed namespace.

class Bilinear {
 public:
  static void compute(const BilinearArgs& args) noexcept {
    static_assert(kBilinearColumns % Vec::kLanes == 0, "tables are read in whole vectors");
    const float* plane = args.x;
    float* out = args.y;
    for (int64_t p = 0; p < args.planes; ++p, plane += args.h * args.w) {
      for (int64_t y = 0; y < args.out_h; ++y, out += args.out_w) {
        float* const line = args.w == args.out_w ? out : args.line;
        between_rows(args, plane, y, line);
        if (line != out) between_columns(args, out);
      }
    }
  }

 private:
  // (1 - weight) * a + weight * b
  static PCONV_INLINE Reg between(Reg a, Reg b, Reg weight) {
    return Vec::fused(weight, b, Vec::mul(Vec::sub(constant(1.0f), weight), a));
  }

  static void between_rows(const BilinearArgs& args, const float* plane, int64_t y, float* line) {
    const float* upper = plane + args.row[y] * args.w;
    if (args.h == args.out_h) return map(upper, line, args.w, Same{});
    const float* lower = args.row[y] + 1 < args.h ? upper + args.w : upper;
    const Reg weight = constant(args.row_weight[y]);
    int64_t x = 0;
    for (; x + Vec::kLanes <= args.w; x += Vec::kLanes) {
      Vec::store_unaligned(line + x, between(Vec::load_unaligned(upper + x), Vec::load_unaligned(lower + x), weight));
    }
    if (x == args.w) return;
    const Vec::Lanes lanes = Vec::lanes(0, static_cast<int>(args.w - x));
    const Reg a = Vec::load_lanes(upper + x, lanes), b = Vec::load_lanes(lower + x, lanes);
    Vec::store_lanes(line + x, between(a, b, weight), lanes);
  }

  static void between_columns(const BilinearArgs& args, float* out) {
    args.line[args.w] = args.line[args.w - 1];
    for (int64_t x = 0; x < args.out_w; x += Vec::kLanes) {
      const Reg left = Vec::gather(args.line, args.column + x), right = Vec::gather(args.line + 1, args.column + x);
      const Reg v = between(left, right, Vec::load_unaligned(args.column_weight + x));
      if (x + Vec::kLanes <= args.out_w) {
        Vec::store_unaligned(out + x, v);
      } else {
        Vec::store_lanes(out + x, v, Vec::lanes(0, static_cast<int>(args.out_w - x)));
      }
    }
  }
};
