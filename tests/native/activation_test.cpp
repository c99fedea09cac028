// Elementwise operators: how far they are from float64, what they make of special values, and that their bits are the
// same on every ISA: those that the golden sums say, on other machines too.
#include <algorithm>

#include "crc32.h"
#include "op_support.h"

namespace pconv_test {
namespace {

struct Kind {
  int64_t id;
  const char* name;
  float alpha, beta;
  // Allowed beside `relative`: `slope` times |x|, for the one whose exponent is itself rounded.
  double relative, slope;
  uint32_t golden;  // CRC-32 of the results of sample()
};

constexpr double kUlp = 0x1p-23;
constexpr Kind kKinds[] = {
    {0, "none", 0, 0, 0, 0, 0x5fd802d3},
    {1, "clamp", -1.5f, 6.0f, 0, 0, 0x863c2817},
    {2, "leaky_relu", 0.01f, 0, 0.51 * kUlp, 0, 0xe54c484f},
    {4, "sigmoid", 0, 0, 3 * kUlp, 0, 0x568c56f6},
    {5, "silu", 0, 0, 3 * kUlp, 0, 0xa1f11f4f},
    {6, "hard_sigmoid", 0, 0, 1.1 * kUlp, 0, 0xea190953},
    {7, "hard_swish", 0, 0, 1.6 * kUlp, 0, 0xd8923bf6},
    {8, "tanh", 0, 0, 3 * kUlp, 0, 0xe3b887a5},
    {9, "gelu", 0, 0, 4 * kUlp, 0, 0x82ef01ed},
    {10, "gelu_tanh", 0, 0, 4 * kUlp, 8 * kUlp, 0x7990fd81},
    {11, "elu", 1.25f, 0, 2.5 * kUlp, 0, 0x79168993},
};

// Floats of all sizes, many where activations bend.
Floats sample() {
  Rng rng(77);
  Floats x;
  for (int i = 0; i < 40000; ++i) x.push_back(static_cast<float>(rng.unit() * 40 - 20));
  for (int i = 0; i < 20000; ++i) x.push_back(static_cast<float>(rng.unit() * 240 - 120));
  for (int i = 0; i < 20000; ++i)
    x.push_back(static_cast<float>((rng.unit() - 0.5) * std::pow(2.0, rng.between(-40, 2))));
  for (int i = 0; i < 20003; ++i) {
    const auto bits = static_cast<uint32_t>(rng.next());
    float any;
    std::memcpy(&any, &bits, sizeof any);
    if (std::isfinite(any)) x.push_back(any);
  }
  for (const float f : {0.0f, -0.0f, kInf, -kInf, 1.0f, -1.0f, 3.0f, -3.0f, 0x1p-149f, -0x1p-149f, 3.4e38f, -3.4e38f}) {
    x.push_back(f);
  }
  return x;
}

Floats run(const std::string& isa, const Kind& kind, const Floats& x) {
  OpCase c{"activate", {{static_cast<int64_t>(x.size())}}, {kind.id}, {kind.alpha, kind.beta}, {}, isa};
  return run_guarded(c, {x}, 0, true, 1);
}

// Sums of bits do not tell one NaN from another.
uint32_t checksum(Floats y) {
  for (float& f : y) f = std::isnan(f) ? 0.0f : f;
  return pconv::crc32(0, y.data(), y.size() * sizeof(float));
}

void accuracy(const std::string& isa) {
  const Floats x = sample();
  for (const Kind& kind : kKinds) {
    const Floats y = run(isa, kind, x);
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      if (!std::isfinite(x[i])) continue;
      const double v = static_cast<double>(x[i]);
      const double want =
          activation_in_double(kind.id, static_cast<double>(kind.alpha), static_cast<double>(kind.beta), v);
      // Where an exponential is no normal float, neither are the digits of the result.
      const double least = 0x1p-127 * std::max(1.0, std::abs(v));
      const double allowed = std::abs(want) * (kind.relative + kind.slope * std::min(std::abs(v), 100.0));
      const double off = std::abs(static_cast<double>(y[i]) - want);
      CHECK(off <= allowed + (kind.relative > 0 ? least : 0), "%s(%a): got %a, expected %a", kind.name, v,
            static_cast<double>(y[i]), want);
      if (std::abs(want) > 0x1p10 * least) worst = std::max(worst, off / std::abs(want) / kUlp);
    }
    printf("  %s %s: largest error %.2f ulp\n", isa.c_str(), kind.name, worst);
  }
}

void bits(const std::string& isa) {
  const Floats x = sample();
  for (const Kind& kind : kKinds) {
    const uint32_t sum = checksum(run(isa, kind, x));
    CHECK(sum == kind.golden, "%s: the bits' sum is 0x%08x, expected 0x%08x", kind.name, sum, kind.golden);
  }
}

struct Special {
  int64_t kind;
  float alpha, x, want;
};
// As torch 2.13 has them on a CPU.
const Special kSpecials[] = {
    {0, 0, kInf, kInf},   {2, 0.1f, kInf, kInf},    {2, 0.1f, -kInf, -kInf},   {2, 0, -kInf, kNaN},
    {4, 0, kInf, 1},      {4, 0, -kInf, 0},         {5, 0, kInf, kInf},        {5, 0, -kInf, kNaN},
    {6, 0, kInf, 1},      {6, 0, -kInf, 0},         {7, 0, kInf, kInf},        {7, 0, -kInf, kNaN},
    {8, 0, kInf, 1},      {8, 0, -kInf, -1},        {9, 0, kInf, kNaN},        {9, 0, -kInf, kNaN},
    {10, 0, kInf, kInf},  {10, 0, -kInf, kNaN},     {11, 1, kInf, kInf},       {11, 1, -kInf, -1},
    {4, 0, -90, 0},       {5, 0, 3.4e38f, 3.4e38f}, {9, 0, 3.4e38f, 3.4e38f},  {9, 0, -3.4e38f, 0},
    {10, 0, -3.4e38f, 0}, {8, 0, 1e-30f, 1e-30f},   {11, 1, -1e-30f, -1e-30f}, {8, 0, -0x1p-149f, -0x1p-149f},
};

void special_values(const std::string& isa) {
  for (const Special& s : kSpecials) {
    const Kind kind = {s.kind, "", s.alpha, 0, 0, 0, 0};
    const float y = run(isa, kind, {s.x})[0];
    const bool same = std::isnan(s.want) ? std::isnan(y) : same_up_to_zero_sign(y, s.want);
    CHECK(same, "kind %d of %g: got %g, expected %g", static_cast<int>(s.kind), static_cast<double>(s.x),
          static_cast<double>(y), static_cast<double>(s.want));
  }
  for (Kind kind : kKinds) {
    const Floats y = run(isa, kind, {1.0f, kNaN, -2.0f, 0.0f, kNaN});
    CHECK(std::isnan(y[1]) && std::isnan(y[4]), "%s: a NaN was lost", kind.name);
    CHECK(!std::isnan(y[0]) && !std::isnan(y[2]) && !std::isnan(y[3]), "%s: a NaN came from nowhere", kind.name);
  }
  const Kind clamp = {1, "clamp", 0, 6, 0, 0, 0};
  const Floats y = run(isa, clamp, {-0.0f, 0.0f, -1.0f, 7.0f, kInf, -kInf});
  CHECK(std::signbit(y[0]) && !std::signbit(y[1]), "clamp turned the sign of a zero");
  CHECK(y[2] == 0 && y[3] == 6 && y[4] == 6 && y[5] == 0, "clamp");
}

void add_tests() {
  add_for_isas("accuracy", accuracy);
  add_for_isas("bits", bits);
  add_for_isas("special_values", special_values);
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, pconv_test::add_tests); }
