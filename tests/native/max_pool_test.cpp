// Max pooling on every ISA: bit for bit the naive loop's results (zeros of either sign are equal), between pages
// without access; NaN, infinities, windows without inputs; arguments that are refused.
#include <algorithm>

#include "support.h"

namespace pconv_test {
namespace {

pconv_max_pool_args sizes(int64_t planes, int64_t h, int64_t w, int64_t kernel, int64_t stride, int64_t pad) {
  pconv_max_pool_args a{};
  a.planes = planes, a.h = h, a.w = w;
  a.kernel_h = a.kernel_w = kernel, a.stride_h = a.stride_w = stride;
  a.dilation_h = a.dilation_w = 1, a.pad_top = a.pad_left = pad;
  a.out_h = (h + 2 * pad - kernel) / stride + 1, a.out_w = (w + 2 * pad - kernel) / stride + 1;
  a.n_threads = 1;
  return a;
}

std::string text_of(const pconv_max_pool_args& a) {
  const auto n = [](int64_t v) { return static_cast<long long>(v); };
  return format(
      "%s planes=%lld %lldx%lld -> %lldx%lld kernel=%lld,%lld stride=%lld,%lld dilation=%lld,%lld pad=%lld,%lld "
      "threads=%d",
      a.isa, n(a.planes), n(a.h), n(a.w), n(a.out_h), n(a.out_w), n(a.kernel_h), n(a.kernel_w), n(a.stride_h),
      n(a.stride_w), n(a.dilation_h), n(a.dilation_w), n(a.pad_top), n(a.pad_left), a.n_threads);
}

size_t inputs(const pconv_max_pool_args& a) { return static_cast<size_t>(a.planes * a.h * a.w); }
size_t outputs(const pconv_max_pool_args& a) { return static_cast<size_t>(a.planes * a.out_h * a.out_w); }

// As torch's own loop: a NaN stays until another one comes.
std::vector<float> naive(const pconv_max_pool_args& a, const float* x) {
  std::vector<float> y;
  for (int64_t p = 0; p < a.planes; ++p) {
    for (int64_t i = 0; i < a.out_h * a.out_w; ++i) {
      float best = -kInf;
      for (int64_t k = 0; k < a.kernel_h * a.kernel_w; ++k) {
        const int64_t row = i / a.out_w * a.stride_h - a.pad_top + k / a.kernel_w * a.dilation_h;
        const int64_t column = i % a.out_w * a.stride_w - a.pad_left + k % a.kernel_w * a.dilation_w;
        if (row < 0 || row >= a.h || column < 0 || column >= a.w) continue;
        const float v = x[(p * a.h + row) * a.w + column];
        if (v > best || std::isnan(v)) best = v;
      }
      y.push_back(best);
    }
  }
  return y;
}

void fill(Rng& rng, float* x, size_t count, double specials) {
  const float values[] = {kNaN, kInf, -kInf, -0.0f, 0.0f, 0x1p-140f};
  for (size_t i = 0; i < count; ++i) {
    x[i] = rng.chance(specials) ? rng.pick(values) : static_cast<float>(rng.between(-1000, 1000)) / 8;
  }
}

void check_same(const pconv_max_pool_args& a, const std::vector<float>& want) {
  set_context(text_of(a));
  std::fill(a.y, a.y + want.size(), 12345.0f);
  REQUIRE(pconv_max_pool(&a) == PCONV_OK, "%s", pconv_last_error());
  for (size_t i = 0; i < want.size(); ++i) {
    const bool same = std::isnan(want[i]) ? std::isnan(a.y[i]) : same_up_to_zero_sign(a.y[i], want[i]);
    CHECK(same, "output %zu: got %g, expected %g", i, static_cast<double>(a.y[i]), static_cast<double>(want[i]));
    if (!same) return;
  }
}

void check(Rng& rng, pconv_max_pool_args a, double specials = 0.1) {
  for (const bool at_end : {true, false}) {
    const Guarded x(inputs(a), at_end), y(outputs(a), at_end);
    fill(rng, x.data(), inputs(a), specials);
    a.x = x.data(), a.y = y.data();
    const std::vector<float> want = naive(a, x.data());
    for (const int n_threads : {1, 3}) {
      a.n_threads = n_threads;
      check_same(a, want);
    }
  }
}

// Widths around the vectors, for the windows that networks have.
void common_windows(const char* isa) {
  Rng rng(options().seed);
  const int64_t windows[][3] = {{2, 2, 0}, {3, 2, 1}, {3, 2, 0}, {3, 1, 1}, {5, 1, 2},
                                {2, 1, 0}, {3, 3, 1}, {1, 1, 0}, {1, 2, 0}, {4, 4, 2}};
  for (const auto& [kernel, stride, pad] : windows) {
    for (int64_t w = std::max<int64_t>(kernel - 2 * pad, 1); w <= 70; w += w > 36 ? 3 : 1) {
      pconv_max_pool_args a = sizes(1 + w % 3, kernel + w * 7 % 9, w, kernel, stride, pad);
      a.isa = isa;
      check(rng, a);
    }
  }
}

// Windows that tile planes of any width, alone and many of them: rows of several planes may share a vector.
void tiles(const char* isa) {
  Rng rng(options().seed + 3);
  for (int64_t w = 2; w <= 40; w += 2) {
    for (const int64_t h : {int64_t{2}, w, w + 6}) {
      for (const int64_t planes : {1, 2, 7, 33}) {
        pconv_max_pool_args a = sizes(planes, h, w, 2, 2, 0);
        a.isa = isa;
        check(rng, a);
      }
    }
  }
}

// Any geometry, ceil_mode's windows behind the image included.
void random_windows(const char* isa) {
  Rng rng(options().seed + 1);
  for (int i = 0; i < (options().soak ? 20000 : 400); ++i) {
    pconv_max_pool_args a{};
    a.isa = isa;
    a.planes = rng.between(1, 5), a.h = rng.between(1, 20), a.w = rng.between(1, rng.chance(0.2) ? 200 : 40);
    a.kernel_h = rng.between(1, 6), a.kernel_w = rng.between(1, 6);
    a.stride_h = rng.between(1, 4), a.stride_w = rng.between(1, 4);
    a.dilation_h = rng.between(1, 3), a.dilation_w = rng.between(1, 3);
    a.pad_top = rng.between(0, 7), a.pad_left = rng.between(0, 7);
    a.out_h = rng.between(1, a.h + 5), a.out_w = rng.between(1, a.w + 5);
    check(rng, a, rng.chance(0.5) ? 0.0 : 0.3);
  }
}

// More lines than stay in L1, several tasks, large windows.
void large_planes(const char* isa) {
  Rng rng(options().seed + 2);
  for (pconv_max_pool_args a : {sizes(6, 224, 225, 3, 2, 1), sizes(3, 130, 257, 2, 2, 0), sizes(2, 56, 56, 56, 1, 0),
                                sizes(9, 13, 13, 13, 1, 6), sizes(40, 63, 64, 3, 1, 1), sizes(160, 28, 28, 2, 2, 0),
                                sizes(4001, 6, 6, 2, 2, 0)}) {
    a.isa = isa;
    check(rng, a, 0.001);
  }
}

void nothing_but(const char* isa) {
  for (const float value : {kNaN, -kInf, kInf, -1.0f}) {
    for (pconv_max_pool_args a : {sizes(2, 9, 37, 3, 2, 1), sizes(2, 9, 37, 2, 2, 0), sizes(2, 5, 5, 3, 1, 1)}) {
      std::vector<float> x(inputs(a), value), y(outputs(a));
      a.isa = isa, a.x = x.data(), a.y = y.data();
      check_same(a, naive(a, a.x));
      CHECK(std::memcmp(&y[0], &value, sizeof value) == 0 || std::isnan(value), "got %g", static_cast<double>(y[0]));
      a.pad_top = a.pad_left = 9;  // windows without inputs
      check_same(a, naive(a, a.x));
      CHECK(y[0] == -kInf, "got %g", static_cast<double>(y[0]));
    }
  }
}

// A NaN at each place of a window, beside numbers and infinities, is what comes out.
void one_nan(const char* isa) {
  for (pconv_max_pool_args a : {sizes(1, 3, 3, 3, 1, 0), sizes(1, 2, 2, 2, 2, 0), sizes(1, 40, 40, 40, 1, 0)}) {
    for (size_t i = 0; i < inputs(a); i += 1 + inputs(a) / 40) {
      for (const float other : {1.0f, kInf, -kInf}) {
        std::vector<float> x(inputs(a), other), y(1);
        x[i] = kNaN;
        a.isa = isa, a.x = x.data(), a.y = y.data();
        check_same(a, {kNaN});
      }
    }
  }
}

struct Bad {
  const char* names;
  void (*change)(pconv_max_pool_args&);
};
constexpr int64_t kHuge = std::numeric_limits<int64_t>::max(), kLow = std::numeric_limits<int64_t>::min();
const Bad kBad[] = {
    {"planes", [](auto& a) { a.planes = -1; }},
    {"planes", [](auto& a) { a.planes = kHuge; }},
    {"planes, h, w", [](auto& a) { a.planes = 1 << 30, a.h = 1 << 30, a.w = 1 << 30; }},
    {"planes, h, w",
     [](auto& a) { a.planes = 1 << 30, a.h = a.w = 1, a.out_h = a.out_w = 131070, a.stride_h = a.stride_w = 1; }},
    {"h", [](auto& a) { a.h = 0; }},
    {"h", [](auto& a) { a.h = kLow; }},
    {"w", [](auto& a) { a.w = kHuge; }},
    {"out_h", [](auto& a) { a.out_h = 0; }},
    {"out_h", [](auto& a) { a.out_h = 1 << 20; }},
    {"out_h", [](auto& a) { a.kernel_h = a.dilation_h = 65535; }},
    {"out_w", [](auto& a) { a.out_w = kHuge; }},
    {"out_w", [](auto& a) { a.out_w = 1 << 30, a.stride_w = 65535; }},
    {"kernel_h", [](auto& a) { a.kernel_h = 0; }},
    {"kernel_w", [](auto& a) { a.kernel_w = 65536; }},
    {"stride_h", [](auto& a) { a.stride_h = 0; }},
    {"stride_w", [](auto& a) { a.stride_w = kHuge; }},
    {"dilation_h", [](auto& a) { a.dilation_h = kLow; }},
    {"dilation_w", [](auto& a) { a.dilation_w = 0; }},
    {"pad_top", [](auto& a) { a.pad_top = -1; }},
    {"pad_left", [](auto& a) { a.pad_left = kHuge; }},
    {"n_threads", [](auto& a) { a.n_threads = -1; }},
    {"n_threads", [](auto& a) { a.n_threads = 1025; }},
    {"x", [](auto& a) { a.x = nullptr; }},
    {"y", [](auto& a) { a.y = nullptr; }},
    {"overlaps", [](auto& a) { a.y = const_cast<float*>(a.x) + a.h * a.w - 1; }},
};

TEST(hostile_arguments) {
  std::vector<float> x(64, 1.0f), y(64, 7.0f);
  pconv_max_pool_args good = sizes(1, 8, 8, 2, 2, 0);
  good.x = x.data(), good.y = y.data();
  for (const Bad& bad : kBad) {
    pconv_max_pool_args a = good;
    bad.change(a);
    set_context(bad.names);
    CHECK(pconv_max_pool(&a) == PCONV_INVALID_ARGUMENT, "%s was accepted", bad.names);
    CHECK(std::string(pconv_last_error()).find(bad.names) != std::string::npos, "%s: %s", bad.names,
          pconv_last_error());
  }
  CHECK(pconv_max_pool(nullptr) == PCONV_INVALID_ARGUMENT, "null was accepted");
  good.isa = "none";
  CHECK(pconv_max_pool(&good) == PCONV_UNAVAILABLE, "an unknown ISA was accepted");
  CHECK(y[0] == 7.0f, "something was written");
  good.isa = nullptr, good.planes = 0, good.x = nullptr, good.y = nullptr;
  CHECK(pconv_max_pool(&good) == PCONV_OK, "no planes: %s", pconv_last_error());
}

void add_tests() {
  const std::pair<const char*, void (*)(const char*)> tests[] = {{"common", common_windows},   {"tiles", tiles},
                                                                 {"random", random_windows},   {"large", large_planes},
                                                                 {"nothing_but", nothing_but}, {"one_nan", one_nan}};
  pconv_isa_info info{};
  for (int i = 0; pconv_list_isa(i, &info); ++i) {
    if (!options().isa.empty() && options().isa != info.name) continue;
    for (const auto& test : tests) {
      state().tests.push_back({format("%s/%s", test.first, info.name), [info, test] {
                                 if (!info.supported) throw Skip{"this CPU does not have it"};
                                 test.second(info.name);
                               }});
    }
  }
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, pconv_test::add_tests); }
