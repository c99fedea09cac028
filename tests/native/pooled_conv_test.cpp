// A plan that pools against a plan that does not and pconv_max_pool behind it: the same bits, on every ukernel that
// pools, for odd maps, several strips, images and threads. Buffers end, then begin, at a page without access.
#include "op_support.h"
#include "support.h"

namespace pconv_test {
namespace {

Layer layer_of(Rng& rng, const pconv_conv_desc& conv, double kept) {
  Layer layer = dense_layer(rng, conv);
  for (int64_t o = 0; o < conv.out_channels; ++o) {
    for (int64_t i = 0; i < layer.group_in(); ++i) {
      if (!rng.chance(kept)) std::fill_n(layer.kernel(o, i), layer.taps(), 0.0f);
    }
  }
  return layer;
}

size_t size_of(const pconv_plan_info& info) {
  return static_cast<size_t>(info.n * info.out_channels * info.out_h * info.out_w);
}

// The truth: a plan that does not pool, and pconv_max_pool.
Floats pooled_apart(const Packed& packed, const Target& target, const Floats& x, float low) {
  Target whole = target;
  whole.max_pool = 0;
  const Plan plan_of_all = plan(packed, whole);
  const pconv_plan_info info = query(plan_of_all);
  Floats all(size_of(info));
  run(plan_of_all, {x.data(), nullptr, all.data(), low, kInf, 1});
  pconv_max_pool_args args{};
  args.planes = info.n * info.out_channels, args.h = info.out_h, args.w = info.out_w;
  args.out_h = info.out_h / 2, args.out_w = info.out_w / 2;
  args.kernel_h = args.kernel_w = args.stride_h = args.stride_w = 2, args.dilation_h = args.dilation_w = 1;
  args.isa = target.isa.c_str(), args.n_threads = 1;
  Floats y(static_cast<size_t>(args.planes * args.out_h * args.out_w));
  args.x = all.data(), args.y = y.data();
  REQUIRE(pconv_max_pool(&args) == PCONV_OK, "%s", pconv_last_error());
  return y;
}

// 0: the ukernel does not pool this layer.
int check(Rng& rng, const Layer& layer, const Target& target) {
  const Packed packed = pack(layer);
  const char* const ukernel = target.ukernel.empty() ? nullptr : target.ukernel.c_str();
  const pconv_plan_options options = {target.n, target.h, target.w, PCONV_NCHW, target.isa.c_str(), ukernel, 0, 2};
  pconv_plan* made = nullptr;
  if (pconv_plan_conv(packed.get(), &options, &made) != PCONV_OK) return 0;
  const Plan pooling(made);
  Floats x = random_floats(rng, target.n * layer.conv.in_channels * target.h * target.w);
  if (rng.chance(0.3)) x[x.size() / 3] = kNaN, x[x.size() / 2] = kInf;
  const float low = rng.chance(0.5) ? 0.0f : -kInf;
  const Floats want = pooled_apart(packed, target, x, low);
  REQUIRE(want.size() == size_of(query(pooling)), "the plan says another size");
  for (const int threads : {1, 3, 5}) {
    const bool at_end = threads != 3;
    Guarded from(x.size(), at_end), to(want.size(), at_end);
    std::copy(x.begin(), x.end(), from.data());
    std::fill_n(to.data(), want.size(), -7.0f);
    run(pooling, {from.data(), nullptr, to.data(), low, kInf, threads});
    CHECK(same_bits(Floats(to.data(), to.data() + want.size()), want), "other bits than pooled afterwards");
  }
  return 1;
}

void every_ukernel(const std::string& isa) {
  Rng rng(options().seed + 40);
  const pconv_conv_desc layers[] = {{9, 6, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
                                    {8, 6, 2, 3, 3, 1, 1, 1, 1, 0, 1, 2, 0},
                                    {8, 6, 1, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1},
                                    {8, 4, 1, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2},
                                    {8, 8, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0}};
  constexpr int64_t kSides[][2] = {{3, 4}, {7, 9}, {16, 17}, {19, 40}, {34, 33}};
  pconv_ukernel_info ukernel{};
  for (int i = 0; pconv_list_ukernel(i, &ukernel); ++i) {
    if (ukernel.isa != isa) continue;
    const std::string body = ukernel.body;
    const bool pools = (body == "conv3x3" || body == "line3x3" || body == "taps") && ukernel.rows % 2 == 0;
    int n_run = 0;
    for (const pconv_conv_desc& conv : layers) {
      for (const auto& side : kSides) {
        set_context(format("%s %dx%d kernel %d stride %d", ukernel.name, static_cast<int>(side[0]),
                           static_cast<int>(side[1]), static_cast<int>(conv.kernel_h),
                           static_cast<int>(conv.stride_h)));
        Target target = {rng.between(1, 3), side[0], side[1], PCONV_NCHW, isa, ukernel.name};
        n_run += check(rng, layer_of(rng, conv, ukernel.block > 1 ? 1.0 : 0.6), target);
      }
    }
    CHECK(pools == (n_run > 0), "%s pooled %d layers", ukernel.name, n_run);
  }
}

// The plan's own choice pools any layer as the same ukernel does afterwards; several chunks of filters, groups.
void own_choice(const std::string& isa) {
  Rng rng(options().seed + 41);
  for (const int64_t kernel : {1, 3, 7}) {
    for (const int64_t stride : {1, 2, 3}) {
      for (const int64_t groups : {1, 2, 6}) {
        const int64_t pad = kernel / 2, filters = groups == 6 ? 6 : 48;
        const pconv_conv_desc conv = {filters, 6, groups, kernel, kernel, stride, stride, 1, 1, pad, pad, pad, pad};
        set_context(format("kernel %d stride %d groups %d", static_cast<int>(kernel), static_cast<int>(stride),
                           static_cast<int>(groups)));
        const Layer layer = layer_of(rng, conv, 0.5);
        Target target = {1, 15, 17, PCONV_NCHW, isa, "", true, 2};
        target.ukernel = query(plan(pack(layer), target)).ukernel;
        CHECK(check(rng, layer, target) == 1, "%s does not pool what it was chosen for", target.ukernel.c_str());
      }
    }
  }
}

void refused(const std::string& isa) {
  Rng rng(options().seed + 42);
  const Packed packed = pack(layer_of(rng, {4, 4, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, 1.0));
  struct Bad {
    int max_pool;
    int64_t h, w;
    pconv_layout layout;
    const char* text;
  };
  const Bad all[] = {{1, 8, 8, PCONV_NCHW, "max_pool: got 1"},
                     {3, 8, 8, PCONV_NCHW, "max_pool: got 3"},
                     {-2, 8, 8, PCONV_NCHW, "max_pool: got -2"},
                     {2, 8, 8, PCONV_NHWC, "max_pool: needs layout"},
                     {2, 1, 8, PCONV_NCHW, "max_pool: the convolution's map is 1x8"},
                     {2, 8, 1, PCONV_NCHW, "max_pool: the convolution's map is 8x1"}};
  for (const Bad& bad : all) {
    const pconv_plan_options options = {1, bad.h, bad.w, bad.layout, isa.c_str(), nullptr, 0, bad.max_pool};
    pconv_plan* made = nullptr;
    CHECK(pconv_plan_conv(packed.get(), &options, &made) == PCONV_INVALID_ARGUMENT && made == nullptr, "%s accepted",
          bad.text);
    CHECK(std::strstr(pconv_last_error(), bad.text) != nullptr, "got \"%s\"", pconv_last_error());
  }
  const Plan pooling = plan(packed, {1, 8, 8, PCONV_NCHW, isa, "", true, 2});
  const Floats x(4 * 64, 1.0f), residual(4 * 64, 1.0f);
  Floats y(4 * 16, 5.0f);
  const pconv_run_args args = {x.data(), residual.data(), y.data(), -kInf, kInf, 1};
  CHECK(pconv_run_plan(pooling.get(), &args) == PCONV_INVALID_ARGUMENT, "a residual was accepted");
  CHECK(std::strstr(pconv_last_error(), "residual") != nullptr, "got \"%s\"", pconv_last_error());
  CHECK(y == Floats(4 * 16, 5.0f), "y was written");
}

void add_tests() {
  add_for_isas("pooled_conv.every_ukernel", every_ukernel);
  add_for_isas("pooled_conv.own_choice", own_choice);
  add_for_isas("pooled_conv.refused", refused);
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, pconv_test::add_tests); }
