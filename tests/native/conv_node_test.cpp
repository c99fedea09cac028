// The operator conv on images with gaps between them, as networks have them, on every ukernel: bit for bit what the
// plan computes without gaps, between pages without access.
#include "graph/op.h"
#include "op_support.h"

namespace pconv_test {
namespace {

Layer random_layer(Rng& rng, const pconv_conv_desc& conv) {
  Layer layer = dense_layer(rng, conv);
  for (int64_t o = 0; o < conv.out_channels; ++o) {
    for (int64_t i = 0; i < layer.group_in(); ++i) {
      if (conv.kernel_h * conv.kernel_w == 9) {  // four taps, as patterns have
        for (int k : {0, 2, 6, 7, 8}) layer.kernel(o, i)[k] = 0;
      }
    }
  }
  return layer;
}

// A node of `conv`, and the plan's own run on images without gaps as its truth. 0: no plan by this ukernel.
int check_conv(Rng& rng, const Layer& layer, const Target& target, int64_t kind) {
  const pconv_conv_desc& d = layer.conv;
  const std::shared_ptr<pconv_packed> packed(pack(layer).release(), FreePacked());
  const pconv_plan_options plan_options = {
      target.n, target.h, target.w, PCONV_NCHW, target.isa.c_str(), target.ukernel.c_str(), 0, 0};
  pconv_plan* made = nullptr;
  if (pconv_plan_conv(packed.get(), &plan_options, &made) != PCONV_OK) return 0;  // not this ukernel's
  const Plan plan(made);
  const pconv_plan_info info = query(plan);
  const Dims in = {target.n, d.in_channels, target.h, target.w},
             out = {target.n, d.out_channels, info.out_h, info.out_w};
  const Floats x = random_floats(rng, count(in)), residual = random_floats(rng, count(out));
  Floats want(static_cast<size_t>(count(out)));
  run(plan, {x.data(), residual.data(), want.data(), kind == 1 ? -1 : -kInf, kind == 1 ? 2 : kInf, 1});
  if (kind > 1) want = run_guarded({"activate", {out}, {kind}, {-1, 2}, {}, target.isa}, {want}, 0, true, 1);

  pconv::Data data;
  data.role = pconv::Role::kLayer, data.layer = packed;
  const pconv::Node node = {pconv::find_op("conv"), "", {0, 1}, 2, {kind}, {-1, 2}, {data}};
  const auto shape_of = [](const Dims& dims) {
    pconv::Shape shape;
    for (const int64_t dim : dims) shape.dims[shape.rank++] = dim;
    return shape;
  };
  const pconv::Shape shapes[] = {shape_of(in), shape_of(out)};
  pconv::Shape output;
  REQUIRE(pconv::infer_shape(node, shapes, &output) == PCONV_OK, "%s", pconv_last_error());
  CHECK(output == shapes[1], "the output has another shape");
  const pconv::Isa* isa = nullptr;
  REQUIRE(pconv::find_isa(target.isa.c_str(), &isa) == PCONV_OK, "%s", pconv_last_error());
  for (const bool at_end : {true, false}) {
    GuardedTensor of_x(in, part(in) + 3, at_end), of_residual(out, part(out) + 5, at_end),
        y(out, part(out) + 7, at_end);
    of_x.write(x), of_residual.write(residual);
    const pconv::Tensor tensors[] = {{of_x.data(), shapes[0], part(in) + 3},
                                     {of_residual.data(), shapes[1], part(out) + 5}};
    const pconv::Tensor result = {y.data(), output, part(out) + 7};
    REQUIRE(node.op->run({node, tensors, result, *isa->table, plan.get(), at_end ? 1 : 3}) == PCONV_OK, "%s",
            pconv_last_error());
    CHECK(same_bits(y.read(), want), "other bits than without gaps");
    CHECK(y.gaps_are_whole(), "something was written between the images");
  }
  return 1;
}

// Images with gaps between them on every ukernel that takes the layer.
void conv(const std::string& isa) {
  Rng rng(options().seed + 12);
  const pconv_conv_desc layers[] = {{8, 6, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, {8, 6, 1, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1},
                                    {8, 8, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0}, {8, 8, 2, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0},
                                    {6, 6, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, {6, 6, 6, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1},
                                    {4, 3, 1, 5, 5, 2, 1, 1, 1, 2, 2, 2, 2}};
  constexpr int64_t kKinds[] = {0, 1, 5};
  pconv_ukernel_info ukernel{};
  for (int i = 0; pconv_list_ukernel(i, &ukernel); ++i) {
    if (ukernel.isa != isa) continue;
    int n_run = 0;
    for (const pconv_conv_desc& desc : layers) {
      for (const int64_t side : {1, 2, 5, 13, 33}) {
        set_context(
            format("%s side %d kernel %d", ukernel.name, static_cast<int>(side), static_cast<int>(desc.kernel_h)));
        n_run += check_conv(rng, random_layer(rng, desc), {3, side, side + 1, PCONV_NCHW, isa, ukernel.name},
                            rng.pick(kKinds));
      }
    }
    CHECK(n_run > 0, "%s took no layer", ukernel.name);
  }
}

void add_tests() { add_for_isas("conv", conv); }

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, pconv_test::add_tests); }
