// A packed and planned layer for tests of what happens around its run: threads, processes, choice of an ISA.
#ifndef PCONV_TESTS_SHARED_LAYER_H_
#define PCONV_TESTS_SHARED_LAYER_H_

#include "support.h"

namespace pconv_test {

// A layer large enough that every thread gets work.
struct Bench {
  Packed packed;
  Plan planned;
  std::vector<float> x;
  size_t out_size = 16 * 40 * 40;

  Bench() {
    Rng rng(options().seed);
    Layer layer = make_layer(16, 8, 1, 1);
    for (float& w : layer.weights) w = rng.chance(0.4) ? static_cast<float>(rng.unit() - 0.5) : 0.0f;
    packed = pack(layer);
    planned = plan(packed, {1, 40, 40, PCONV_NCHW, options().isa, ""});
    x.resize(8 * 40 * 40);
    for (float& v : x) v = static_cast<float>(rng.unit() - 0.5);
  }
  // False if the call failed. Safe on any thread.
  bool run_into(std::vector<float>& y, int n_threads) const {
    y.assign(out_size, kNaN);
    const pconv_run_args args = {x.data(), nullptr, y.data(), -kInf, kInf, n_threads};
    return pconv_run_plan(planned.get(), &args) == PCONV_OK;
  }
  std::vector<float> output(int n_threads) const {
    std::vector<float> y;
    REQUIRE(run_into(y, n_threads), "run: %s", pconv_last_error());
    return y;
  }
};

inline bool equal(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace pconv_test
#endif  // PCONV_TESTS_SHARED_LAYER_H_
