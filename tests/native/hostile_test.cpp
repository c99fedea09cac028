// Hostile sizes and arguments: each is refused with a text that names the argument, before anything is allocated.
#include "allocations.h"
#include "support.h"

namespace pconv_test {
namespace {

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max(), kLow = std::numeric_limits<int64_t>::min();
constexpr int64_t k2p31 = int64_t{1} << 31, k2p32 = int64_t{1} << 32, k2p63th = int64_t{1} << 62;

int g_cases = 0;  // hostile sets tried so far

// Runs `call` and expects the status, a text with `names`, and no allocation worth the name.
template <typename Call>
void expect(const char* what, pconv_status want, const char* names, Call call) {
  set_context(what);
  ++g_cases;
  g_allocations = 0;
  g_largest = 0;
  const pconv_status got = call();
  const size_t allocations = g_allocations, largest = g_largest;
  CHECK(got == want, "%s instead of %s", pconv_status_name(got), pconv_status_name(want));
  CHECK(allocations < 10 && largest < (1 << 20), "%zu allocations, the largest of %zu bytes", allocations, largest);
  const std::string text = pconv_last_error();
  CHECK(got == PCONV_OK || text.find(names) != std::string::npos, "the text does not name %s: %s", names, text.c_str());
}

struct HostileDesc {
  const char* names;
  pconv_conv_desc conv;  // oc, ic, groups, kernel, stride, dilation, padding (top, left, bottom, right)
};

constexpr HostileDesc kHostileDescs[] = {
    {"out_channels", {0, 4, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"out_channels", {-1, 4, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"out_channels", {kLow, 4, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"out_channels", {(1 << 24) + 1, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"out_channels", {k2p32 + 1, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"out_channels", {kHuge, kHuge, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"in_channels", {4, 0, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"in_channels", {4, -4, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"in_channels", {65536, 65536, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"in_channels", {1, k2p31, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"in_channels", {1, k2p32 + 4, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"in_channels", {4, kHuge, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"weights", {1 << 24, 65535, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"weights", {65536, 32768, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"weights", {1 << 24, 1, 1, 32, 32, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"weights", {1 << 24, 1 << 24, 1 << 20, 32, 32, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"groups", {4, 4, 0, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"groups", {4, 4, -1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"groups", {4, 6, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"groups", {6, 4, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"groups", {4, 4, kHuge, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"kernel_h", {4, 4, 1, 0, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"kernel_h", {4, 4, 1, -3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"kernel_h", {4, 4, 1, 33, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"kernel_h", {4, 4, 1, k2p63th, 4, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"kernel_w", {4, 4, 1, 3, 0, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"kernel_w", {4, 4, 1, 3, k2p32 + 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"stride_h", {4, 4, 1, 3, 3, 0, 1, 1, 1, 1, 1, 1, 1}},
    {"stride_h", {4, 4, 1, 3, 3, 65536, 1, 1, 1, 1, 1, 1, 1}},
    {"stride_w", {4, 4, 1, 3, 3, 1, -1, 1, 1, 1, 1, 1, 1}},
    {"stride_w", {4, 4, 1, 3, 3, 1, kHuge, 1, 1, 1, 1, 1, 1}},
    {"dilation_h", {4, 4, 1, 3, 3, 1, 1, 0, 1, 1, 1, 1, 1}},
    {"dilation_h", {4, 4, 1, 3, 3, 1, 1, kHuge, 1, 1, 1, 1, 1}},
    {"dilation_w", {4, 4, 1, 3, 3, 1, 1, 1, -7, 1, 1, 1, 1}},
    {"dilation_w", {4, 4, 1, 3, 3, 1, 1, 1, 65536, 1, 1, 1, 1}},
    {"pad_top", {4, 4, 1, 3, 3, 1, 1, 1, 1, -1, 1, 1, 1}},
    {"pad_top", {4, 4, 1, 3, 3, 1, 1, 1, 1, 65536, 1, 1, 1}},
    {"pad_left", {4, 4, 1, 3, 3, 1, 1, 1, 1, 1, kLow, 1, 1}},
    {"pad_bottom", {4, 4, 1, 3, 3, 1, 1, 1, 1, 1, 1, kHuge, 1}},
    {"pad_right", {4, 4, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, k2p31}},
};

TEST(descriptions) {
  const float weights[16] = {};
  for (const HostileDesc& hostile : kHostileDescs) {
    const pconv_conv_desc& d = hostile.conv;
    const std::string what =
        format("pack oc=%lld ic=%lld groups=%lld kernel=%lldx%lld", static_cast<long long>(d.out_channels),
               static_cast<long long>(d.in_channels), static_cast<long long>(d.groups),
               static_cast<long long>(d.kernel_h), static_cast<long long>(d.kernel_w));
    pconv_packed* packed = nullptr;
    expect(what.c_str(), PCONV_INVALID_ARGUMENT, hostile.names,
           [&] { return pconv_pack_weights(&d, weights, nullptr, &packed); });
    CHECK(packed == nullptr, "a packed layer was returned");
  }
}

struct HostilePlan {
  const char* names;
  int64_t n, h, w;
  int layout;
  const char *isa, *ukernel;
  pconv_status want = PCONV_INVALID_ARGUMENT;
};

constexpr HostilePlan kHostilePlans[] = {
    {"n", -1, 8, 8, 0, nullptr, nullptr},
    {"n", kLow, 8, 8, 0, nullptr, nullptr},
    {"n", kHuge, 8, 8, 0, nullptr, nullptr},
    {"h", 1, 0, 8, 0, nullptr, nullptr},
    {"h", 1, -8, 8, 0, nullptr, nullptr},
    {"h", 1, 2, 8, 0, nullptr, nullptr},
    {"h", 1, kHuge, 8, 0, nullptr, nullptr},
    {"h", 1, kHuge, kHuge, 0, nullptr, nullptr},
    {"h", 1, k2p32 + 8, 8, 0, nullptr, nullptr},
    {"w", 1, 8, 0, 0, nullptr, nullptr},
    {"w", 1, 8, kLow, 0, nullptr, nullptr},
    {"w", 1, 8, 1, 0, nullptr, nullptr},
    {"w", 1, 8, k2p63th, 0, nullptr, nullptr},
    {"w", 1, 8, k2p31, 0, nullptr, nullptr},
    {"n, h, w", 1 << 30, 1 << 30, 1 << 30, 0, nullptr, nullptr},
    {"n, h, w", 1 << 3, 1 << 30, 1 << 30, 0, nullptr, nullptr},
    {"n, h, w", 0, 1 << 30, 1 << 30, 0, nullptr, nullptr},
    {"n, h, w", 1, 1 << 30, 1 << 29, 0, nullptr, nullptr},  // 2^63 bytes: just too many
    {"layout", 1, 8, 8, 2, nullptr, nullptr},
    {"layout", 1, 8, 8, -1, nullptr, nullptr},
    {"isa", 1, 8, 8, 0, "sse9", nullptr, PCONV_UNAVAILABLE},
    {"isa", 1, 8, 8, 0, "", nullptr, PCONV_UNAVAILABLE},
    {"isa", 1, 8, 8, 0, "scalar, ", nullptr, PCONV_UNAVAILABLE},
    {"ukernel", 1, 8, 8, 0, nullptr, "f32_conv3x3_s9_8x1_scalar"},
    {"ukernel", 1, 8, 8, 0, "scalar", ""},
    {"ukernel", 1, 8, 8, 0, "scalar", "f32_conv3x3_s1_8x1_avx512"},
};

TEST(plans) {
  Layer layer = make_layer(2, 4, 1, 0);
  layer.weights[0] = 1.0f;
  const Packed packed = pack(layer);
  pconv_plan* p = nullptr;
  for (const HostilePlan& h : kHostilePlans) {
    pconv_plan_options plan_options = {h.n, h.h, h.w, PCONV_NCHW, h.isa, h.ukernel, 0, 0};
    std::memcpy(&plan_options.layout, &h.layout, sizeof h.layout);  // as a C caller could set it
    const std::string what =
        format("plan n=%lld h=%lld w=%lld layout=%d isa=%s ukernel=%s", static_cast<long long>(h.n),
               static_cast<long long>(h.h), static_cast<long long>(h.w), h.layout, h.isa ? h.isa : "-",
               h.ukernel ? h.ukernel : "-");
    expect(what.c_str(), h.want, h.names, [&] { return pconv_plan_conv(packed.get(), &plan_options, &p); });
    CHECK(p == nullptr, "a plan was returned");
  }
  const pconv_plan_options good = {1, 8, 8, PCONV_NCHW, nullptr, nullptr, 0, 0};
  expect("plan of null", PCONV_INVALID_ARGUMENT, "packed", [&] { return pconv_plan_conv(nullptr, &good, &p); });
  expect("null options", PCONV_INVALID_ARGUMENT, "options", [&] { return pconv_plan_conv(packed.get(), nullptr, &p); });
  expect("null plan", PCONV_INVALID_ARGUMENT, "plan", [&] { return pconv_plan_conv(packed.get(), &good, nullptr); });
}

// Huge but honest: refused or planned, without memory for the map.
TEST(large_maps_cost_a_plan_nothing) {
  Layer layer = make_layer(2, 4, 1, 1);
  layer.weights[0] = 1.0f;
  const Packed packed = pack(layer);
  for (const int64_t side : {int64_t{65536}, int64_t{1} << 30}) {
    const pconv_plan_options plan_options = {1, side, 65536, PCONV_NHWC, nullptr, nullptr, 0, 0};
    set_context(format("map of %lld x 65536", static_cast<long long>(side)));
    g_largest = 0;
    pconv_plan* p = nullptr;
    const pconv_status status = pconv_plan_conv(packed.get(), &plan_options, &p);
    CHECK(status == PCONV_OK || status == PCONV_INVALID_ARGUMENT, "%s", pconv_status_name(status));
    CHECK(g_largest.load() < (1 << 20), "an allocation of %zu bytes", g_largest.load());
    pconv_free_plan(p);
  }
}

// Valid layers whose tiles would take more memory than a thread should have: packed and unpacked, but not run.
TEST(layers_that_cannot_run) {
  constexpr pconv_conv_desc kDescs[] = {{1, 1, 1, 2, 2, 1, 1, 65535, 65535, 65535, 65535, 65535, 65535},
                                        {1, 1, 1, 9, 9, 1, 1, 4096, 4096, 65535, 65535, 65535, 65535},
                                        {1, 65535, 1, 32, 32, 1, 1, 1, 1, 31, 31, 31, 31}};
  for (const pconv_conv_desc& d : kDescs) {
    Layer layer;
    layer.conv = d;
    layer.weights.assign(static_cast<size_t>(layer.group_in() * layer.taps()), 0.0f);
    layer.weights[0] = 1.0f;
    const Packed packed = pack(layer);
    const pconv_plan_options plan_options = {1, 32, 32, PCONV_NHWC, nullptr, nullptr, 0, 0};
    pconv_plan* p = nullptr;
    const std::string what = format("kernel %lldx%lld stride %lld,%lld dilation %lld,%lld",
                                    static_cast<long long>(d.kernel_h), static_cast<long long>(d.kernel_w),
                                    static_cast<long long>(d.stride_h), static_cast<long long>(d.stride_w),
                                    static_cast<long long>(d.dilation_h), static_cast<long long>(d.dilation_w));
    expect(what.c_str(), PCONV_UNSUPPORTED, "bytes", [&] { return pconv_plan_conv(packed.get(), &plan_options, &p); });
  }
}

TEST(runs) {
  Layer layer = make_layer(2, 2, 1, 1);
  layer.weights[0] = 1.0f;
  const Packed packed = pack(layer);
  const Plan p = plan(packed, {1, 8, 8, PCONV_NCHW, "", ""});
  std::vector<float> memory(4 * 128, 0.0f);
  float* const base = memory.data();
  float* const y = base + 256;
  const struct {
    const char* names;
    pconv_run_args args;  // x, residual, y, clamp, threads
  } hostile[] = {
      {"x", {nullptr, nullptr, y, -kInf, kInf, 1}},
      {"y", {base, nullptr, nullptr, -kInf, kInf, 1}},
      {"y", {base, nullptr, base, -kInf, kInf, 1}},
      {"y", {base, nullptr, base + 127, -kInf, kInf, 1}},
      {"y", {base + 127, nullptr, base, -kInf, kInf, 1}},
      {"residual", {base, y + 1, y, -kInf, kInf, 1}},
      {"residual", {base, y - 127, y, -kInf, kInf, 1}},
      {"clamp", {base, nullptr, y, 2, 1, 1}},
      {"clamp", {base, nullptr, y, kNaN, 1, 1}},
      {"clamp", {base, nullptr, y, 0, kNaN, 1}},
      {"n_threads", {base, nullptr, y, -kInf, kInf, -1}},
      {"n_threads", {base, nullptr, y, -kInf, kInf, 1025}},
      {"n_threads", {base, nullptr, y, -kInf, kInf, 1 << 30}},
  };
  for (const auto& h : hostile) {
    expect(format("run, %s", h.names).c_str(), PCONV_INVALID_ARGUMENT, h.names,
           [&] { return pconv_run_plan(p.get(), &h.args); });
  }
  const pconv_run_args good = {base, nullptr, y, -kInf, kInf, 1};
  expect("run of null", PCONV_INVALID_ARGUMENT, "plan", [&] { return pconv_run_plan(nullptr, &good); });
  expect("null args", PCONV_INVALID_ARGUMENT, "args", [&] { return pconv_run_plan(p.get(), nullptr); });
  expect("neighbours", PCONV_OK, "", [&] {
    const pconv_run_args touching = {base, base, base + 128, -kInf, kInf, 1};
    return pconv_run_plan(p.get(), &touching);
  });
}

TEST(other_null_and_range_arguments) {
  Layer layer = make_layer(1, 1, 1, 1);
  pconv_packed* raw = nullptr;
  const float* weights = layer.weights.data();
  const pconv_conv_desc* d = &layer.conv;
  expect("null conv", PCONV_INVALID_ARGUMENT, "conv",
         [&] { return pconv_pack_weights(nullptr, weights, nullptr, &raw); });
  expect("null weights", PCONV_INVALID_ARGUMENT, "weights",
         [&] { return pconv_pack_weights(d, nullptr, nullptr, &raw); });
  expect("null result", PCONV_INVALID_ARGUMENT, "packed",
         [&] { return pconv_pack_weights(d, weights, nullptr, nullptr); });
  const Packed packed = pack(layer);
  const void* bytes = nullptr;
  size_t size = 0;
  expect("query", PCONV_INVALID_ARGUMENT, "info", [&] { return pconv_query_packed(packed.get(), nullptr); });
  expect("get_bytes", PCONV_INVALID_ARGUMENT, "packed", [&] { return pconv_get_bytes(nullptr, &bytes, &size); });
  expect("unpack", PCONV_INVALID_ARGUMENT, "weights",
         [&] { return pconv_unpack_weights(packed.get(), nullptr, nullptr); });
  for (const int n : {0, -1, 1025, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    expect(format("set_num_threads(%d)", n).c_str(), PCONV_INVALID_ARGUMENT, "n",
           [&] { return pconv_set_num_threads(n); });
  }
  double gflops = 0;
  expect("peak isa", PCONV_UNAVAILABLE, "isa", [&] { return pconv_measure_peak("none", 1, 1, &gflops); });
  expect("peak threads", PCONV_INVALID_ARGUMENT, "n_threads",
         [&] { return pconv_measure_peak(nullptr, -1, 1, &gflops); });
  expect("peak rounds", PCONV_INVALID_ARGUMENT, "rounds", [&] { return pconv_measure_peak(nullptr, 1, 0, &gflops); });
  expect("peak result", PCONV_INVALID_ARGUMENT, "gflops", [&] { return pconv_measure_peak(nullptr, 1, 1, nullptr); });
  pconv_free_packed(nullptr);
  pconv_free_plan(nullptr);
}

TEST(list_ends) {
  pconv_isa_info isa{};
  pconv_ukernel_info ukernel{};
  pconv_pattern_info pattern{};
  for (const int index : {-1, 100000, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    CHECK(!pconv_list_isa(index, &isa) && !pconv_list_ukernel(index, &ukernel) && !pconv_list_pattern(index, &pattern),
          "index %d is listed", index);
  }
}

TEST(sixty_sets_and_more) {
  if (!options().filter.empty()) throw Skip{"counts the other tests of a full run"};
  CHECK(g_cases >= 60, "%d hostile sets", g_cases);
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, nullptr); }
