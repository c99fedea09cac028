// Special values, one at a time, at each tap place of an output at each border, inside, and where two vectors meet.
// Finite ones: bit equality, so pruned taps add nothing and denormals are kept. Inf and NaN: a kept tap passes them on,
// and outputs whose window over a kept kernel does not hold them stay what they were. Also: filters without kernels,
// special biases and residuals, and clamps that let NaN through.
#include <iterator>

#include "kernels/ukernel.h"
#include "reference.h"

namespace pconv_test {
namespace {

constexpr float kDenormal = 0x1.8p-140f;
constexpr float kMax = std::numeric_limits<float>::max();
constexpr float kSpecials[] = {kNaN, kInf, -kInf, kDenormal, -kDenormal, -0.0f, kMax, -kMax};
constexpr int64_t kChannels = 2, kFilters = 4;

// Outputs of a row of the tile.
int64_t row_outputs(const Way& way) {
  const bool line = way.ukernel.find("_line3x3_") != std::string::npos;
  const int vectors = static_cast<int>(way.vectors), lanes = static_cast<int>(way.lanes);
  return line ? pconv::line_outputs(vectors, lanes) : vectors * lanes;
}

struct Place {
  const char* name;
  int64_t y, x;  // of an output
};

std::vector<Place> places(const Way& way, const Target& t) {
  if (way.map_pixels > 0) {
    std::vector<Place> all;
    for (int64_t i = 0; i < t.h * t.w; i += 1 + t.h * t.w / 40) all.push_back({"of the map", i / t.w, i % t.w});
    return all;
  }
  const int64_t y = way.rows / 2, x = way.lanes / 2, tile = row_outputs(way);
  return {{"top", 0, x + 1},
          {"left", y, 0},
          {"bottom", (t.h - 1) / way.step(), x + 1},
          {"right", y, (t.w - 1) / way.step()},
          {"inside", y, x + 1},
          {"last of a vector", y, way.lanes - 1},
          {"first of a vector", y, way.lanes},
          {"last of a tile", y, tile - 1},
          {"first of a tile", y, tile},
          {"last row of a tile", way.rows - 1, tile},
          {"the last", (t.h - 1) / way.step(), (t.w - 1) / way.step()}};
}

// Filter 0 keeps one kernel of channel 0 with the mask, filter 2 one of channel 1 (one tap), 1 and 3 none.
Layer make_special_layer(int mask, const Way& way) {
  const bool depthwise = way.depthwise;
  Layer layer = make_layer(kFilters, kChannels, depthwise ? kChannels : 1, 1);
  layer.conv.stride_h = layer.conv.stride_w = way.step();
  for (int k = 0; k < 9; ++k) layer.kernel(0, 0)[k] = (mask >> k & 1) ? (k % 2 ? 1.0f : -0.5f) : 0.0f;
  layer.kernel(2, depthwise ? 0 : 1)[4] = 1.0f;
  layer.bias = {0.0f, 2.5f, -1.0f, 0.5f};
  return layer;
}

// What output (o, y, x) must be when x[channel 0][special_y][special_x] is Inf or NaN.
void check_not_finite(const Layer& layer, int64_t o, int64_t ky, int64_t kx, float special, float got, double clean) {
  const bool in_window = o == 0 && ky >= 0 && ky < 3 && kx >= 0 && kx < 3;
  const float weight = in_window ? layer.kernel(0, 0)[ky * 3 + kx] : 0.0f;
  if (weight != 0.0f) {
    const float want = special * weight;
    CHECK(std::isnan(want) ? std::isnan(got) : got == want, "o=%lld tap %lld,%lld: got %g, expected %g",
          static_cast<long long>(o), static_cast<long long>(ky), static_cast<long long>(kx), static_cast<double>(got),
          static_cast<double>(want));
  } else if (!in_window) {
    CHECK(got == static_cast<float>(clean), "o=%lld tap %lld,%lld is outside the window: got %g, expected %g",
          static_cast<long long>(o), static_cast<long long>(ky), static_cast<long long>(kx), static_cast<double>(got),
          clean);
  }
}

// One special input. Denormals stand among zeros (beside ones they would vanish), all others among small integers.
void check_one(const Plan& p, const Layer& layer, const Target& t, float special, int64_t sy, int64_t sx) {
  const bool among_zeros = std::fabs(special) == kDenormal;
  std::vector<float> x(static_cast<size_t>(kChannels * t.h * t.w), 0.0f);
  for (size_t i = 0; i < x.size() && !among_zeros; ++i) x[i] = static_cast<float>(i * 7 % 9) - 4.0f;
  const Reference clean = reference_conv(layer, t, x.data(), nullptr);
  x[at(t.layout, kChannels, t.h, t.w, 0, 0, sy, sx)] = special;
  const Reference want = reference_conv(layer, t, x.data(), nullptr);
  std::vector<float> y(want.y.size(), kNaN);
  run(p, {x.data(), nullptr, y.data(), -kInf, kInf, 1});
  const int64_t step = layer.conv.stride_h, out_h = (t.h - 1) / step + 1, out_w = (t.w - 1) / step + 1;
  for (int64_t o = 0; o < kFilters; ++o) {
    for (int64_t oy = 0; oy < out_h; ++oy) {
      for (int64_t ox = 0; ox < out_w; ++ox) {
        const size_t i = at(t.layout, kFilters, out_h, out_w, 0, o, oy, ox);
        if (!std::isfinite(special)) {
          check_not_finite(layer, o, sy - step * oy + 1, sx - step * ox + 1, special, y[i], clean.y[i]);
        } else {
          CHECK(same_up_to_zero_sign(y[i], static_cast<float>(want.y[i])), "o=%lld y=%lld x=%lld: got %g, expected %g",
                static_cast<long long>(o), static_cast<long long>(oy), static_cast<long long>(ox),
                static_cast<double>(y[i]), want.y[i]);
        }
      }
    }
  }
}

// Only this tap, all others, and the four-tap pattern of that number.
void check_special_inputs(const Way& way) {
  const int64_t tile = way.vectors * way.lanes;
  const int64_t beyond = way.general ? 11 : 3;  // 11: one of three rows' outputs lies behind vectors of 16
  Target t = way.target(1, way.step() * (way.rows + 2), way.step() * (2 * tile + beyond), PCONV_NCHW);
  int n_cases = 0;
  for (int tap = 0; tap < 9; ++tap) {
    const int one = 1 << tap, rest = 0x1ff & ~one, four = (0x0f << tap | 0x0f >> (9 - tap)) & 0x1ff;
    for (const int drawn : {one, rest, four}) {
      const int mask = drawn & way.taps;
      if (mask == 0) continue;
      const Layer layer = make_special_layer(mask, way);
      const Packed packed = pack(layer);
      t.layout = way.layout(drawn == four ? PCONV_NHWC : PCONV_NCHW);
      const Plan p = plan(packed, t);
      for (const Place& place : places(way, t)) {
        const int64_t sy = way.step() * place.y - 1 + tap / 3, sx = way.step() * place.x - 1 + tap % 3;
        if (sy < 0 || sy >= t.h || sx < 0 || sx >= t.w) continue;
        for (size_t s = 0; s < std::size(kSpecials); ++s) {
          if (drawn != one && (s + static_cast<size_t>(n_cases)) % 5 != 0) continue;
          const float value = kSpecials[s];
          set_context(format("%s %s value=%g tap=%d mask=%03x %s input y=%lld x=%lld of %lldx%lld", way.isa.c_str(),
                             way.ukernel.c_str(), static_cast<double>(value), tap, static_cast<unsigned>(mask),
                             place.name, static_cast<long long>(sy), static_cast<long long>(sx),
                             static_cast<long long>(t.h), static_cast<long long>(t.w)));
          check_one(p, layer, t, value, sy, sx);
          ++n_cases;
        }
      }
    }
  }
  CHECK(n_cases >= (way.map_pixels == 0 ? 300 : way.map_pixels > 4 ? 200 : 150), "%d cases", n_cases);
}

// At a seam of a strip, where the last column of a band lies beside the first of the next.
void check_seams(const Way& way) {
  const bool cuts_strips = way.ukernel.find("_conv3x3_s1_") != std::string::npos;
  if (!cuts_strips || way.lanes == 1) return;
  const int64_t tile = way.vectors * way.lanes, bands = 4;
  const Target t = {1, bands * way.rows, tile + tile / 4, PCONV_NCHW, way.isa, way.ukernel};
  Layer layer = make_layer(2, 64, 1, 1);  // work enough that a strip pays
  for (float& weight : layer.weights) weight = 1.0f;
  set_context("seams of " + way.id());
  const Packed packed = pack(layer);
  const Plan p = plan(packed, t);
  const int64_t without = bands * way.rows * ((t.w + tile - 1) / tile) * tile;
  REQUIRE(query(p).n_lanes < without, "no strip: %lld lanes", static_cast<long long>(query(p).n_lanes));
  std::vector<float> x(static_cast<size_t>(64 * t.h * t.w), 1.0f);
  const Reference clean = reference_conv(layer, t, x.data(), nullptr);
  std::vector<float> y(clean.y.size(), kNaN);
  for (int64_t band = 0; band < bands; ++band) {
    for (const int64_t sx : {int64_t{0}, t.w - 1}) {
      const int64_t sy = band * way.rows;
      float& pixel = x[at(t.layout, 64, t.h, t.w, 0, 0, sy, sx)];
      pixel = kNaN;
      run(p, {x.data(), nullptr, y.data(), -kInf, kInf, 1});
      pixel = 1.0f;
      for (int64_t i = 0; i < t.h * t.w; ++i) {  // of filter 0, which keeps every tap
        const int64_t oy = i / t.w, ox = i % t.w;
        const bool reads = std::abs(oy - sy) <= 1 && std::abs(ox - sx) <= 1;
        const auto got = y[static_cast<size_t>(i)], without_nan = static_cast<float>(clean.y[static_cast<size_t>(i)]);
        CHECK(reads ? std::isnan(got) : got == without_nan, "NaN at %lld,%lld, output %lld,%lld: got %g",
              static_cast<long long>(sy), static_cast<long long>(sx), static_cast<long long>(oy),
              static_cast<long long>(ox), static_cast<double>(got));
      }
    }
  }
}

// Whatever the input, a filter without kernels gives its bias, NaN and Inf included.
void check_empty_filters(const Way& way) {
  const float biases[] = {0.0f, 1.25f, -7.0f, kNaN, kInf, -kInf, kDenormal, kMax};
  const int64_t channels = way.depthwise ? 8 : 3;
  Layer layer = make_layer(8, channels, way.depthwise ? 8 : 1, 1);
  layer.bias.assign(biases, biases + 8);
  layer.conv.stride_h = layer.conv.stride_w = way.step();
  for (const bool with_one_kernel : {false, true}) {
    if (with_one_kernel) layer.kernel(0, 0)[4] = 1.0f;
    const Target t = way.target(1, 9, 2 * way.vectors * way.lanes + (way.general ? 9 : 1), PCONV_NCHW);
    const Packed packed = pack(layer);
    const Plan p = plan(packed, t);
    const size_t area = static_cast<size_t>(t.h * t.w);
    const size_t out_area = static_cast<size_t>(((t.h - 1) / way.step() + 1) * ((t.w - 1) / way.step() + 1));
    const std::vector<float> x(static_cast<size_t>(channels) * area, kNaN);
    std::vector<float> y(8 * out_area, -1.0f);
    run(p, {x.data(), nullptr, y.data(), -kInf, kInf, 1});
    for (size_t i = out_area; i < y.size(); ++i) {
      const float want = biases[i / out_area];
      CHECK(std::isnan(want) ? std::isnan(y[i]) : same_up_to_zero_sign(y[i], want), "filter %zu: got %g, expected %g",
            i / out_area, static_cast<double>(y[i]), static_cast<double>(want));
    }
  }
}

struct Limits {
  float lo, hi;
};

// NaN from the input, from the residual and from the bias passes every clamp; Inf is cut.
void check_clamps(const Way& way) {
  constexpr Limits kLimits[] = {{0, kInf}, {0, 6}, {-kInf, 6}, {-2, 3}, {-kInf, kInf}, {kDenormal, kInf}};
  const int64_t rows = way.general ? 3 : way.rows + 1, beyond = way.general ? 11 : 3;
  const Target t = way.target(1, rows, way.vectors * way.lanes + beyond, PCONV_NCHW);
  Layer layer = make_layer(2, 1, 1, 1);
  layer.kernel(0, 0)[3] = layer.kernel(0, 0)[4] = layer.kernel(0, 0)[5] = 1.0f;
  layer.bias = {0.0f, kNaN};
  layer.conv.stride_h = layer.conv.stride_w = way.step();
  const Packed packed = pack(layer);
  const Plan p = plan(packed, t);
  const int64_t out_w = (t.w - 1) / way.step() + 1;
  const auto area = static_cast<size_t>(((t.h - 1) / way.step() + 1) * out_w);  // of outputs
  for (const Limits& limits : kLimits) {
    for (const float special : {kNaN, kInf, -kInf, kDenormal}) {
      for (size_t place = 0; place < area; ++place) {
        const bool in_residual = place % 2 == 1;
        set_context(format("%s %s clamp %g,%g value=%g place=%zu of width %lld %s", way.isa.c_str(),
                           way.ukernel.c_str(), static_cast<double>(limits.lo), static_cast<double>(limits.hi),
                           static_cast<double>(special), place, static_cast<long long>(t.w),
                           in_residual ? "residual" : "input"));
        std::vector<float> x(static_cast<size_t>(t.h * t.w), 0.0f), residual(2 * area, 0.0f), y(2 * area, -9.0f);
        const int64_t oy = static_cast<int64_t>(place) / out_w, ox = static_cast<int64_t>(place) % out_w;
        (in_residual ? residual[place] : x[static_cast<size_t>(way.step() * (oy * t.w + ox))]) = special;
        run(p, {x.data(), in_residual ? residual.data() : nullptr, y.data(), limits.lo, limits.hi, 1});
        const float want = clamp(special, limits.lo, limits.hi);
        CHECK(std::isnan(want) ? std::isnan(y[place]) : y[place] == want, "got %g, expected %g",
              static_cast<double>(y[place]), static_cast<double>(want));
        CHECK(std::isnan(y[area + place]), "a NaN bias was clamped to %g", static_cast<double>(y[area + place]));
      }
    }
  }
}

void add_tests() {
  const std::pair<const char*, void (*)(const Way&)> checks[] = {{"inputs", check_special_inputs},
                                                                 {"seams", check_seams},
                                                                 {"empty_filters", check_empty_filters},
                                                                 {"clamps", check_clamps}};
  for (const auto& [name, check] : checks) {
    for_each_way(name, [name = name, check = check](const Way& way) {
      if (way.all_kernels()) return;  // these layers drop kernels
      state().tests.push_back({std::string(name) + "/" + way.id(), [way, check] { check(way); }});
    });
  }
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, pconv_test::add_tests); }
