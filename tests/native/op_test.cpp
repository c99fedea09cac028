// Every operator on every ISA against float64, between pages without access: tensors with and without gaps between
// their parts, one thread and three, written over an input where that is allowed.

#include "op_reference.h"

namespace pconv_test {
namespace {

void check_truth(const Floats& y, const Truth& truth) {
  REQUIRE(y.size() == truth.y.size(), "got %zu floats, expected %zu", y.size(), truth.y.size());
  for (size_t i = 0; i < y.size(); ++i) {
    const double off = std::abs(static_cast<double>(y[i]) - truth.y[i]);
    if (off <= truth.bound[i] || static_cast<double>(y[i]) == truth.y[i]) continue;  // infinities have no distance
    CHECK(false, "output %zu: got %.9g, expected %.9g within %g", i, static_cast<double>(y[i]), truth.y[i],
          truth.bound[i]);
    return;
  }
}

// truth(x) for random inputs x.
template <class F>
void check(Rng& rng, const OpCase& c, F truth, bool in_place = false) {
  std::vector<Floats> x;
  for (const Dims& dims : c.inputs) x.push_back(random_floats(rng, count(dims)));
  const Truth want = truth(x);
  Op op;
  set_context(c.text());
  REQUIRE(make(c, 0, &op) == PCONV_OK, "%s", pconv_last_error());
  REQUIRE(dims_of(output_of(op)) == want.dims, "the output has another shape");
  Floats first[2];
  for (const int64_t gap : {0, 3}) {
    for (const bool at_end : {true, false}) {
      const Floats y = run_guarded(c, x, gap, at_end, at_end ? 1 : 3);
      check_truth(y, want);
      if (at_end) first[gap > 0] = y;
      CHECK(same_bits(y, first[gap > 0]), "the bits depend on threads or places");
    }
  }
  for (size_t i = 0; in_place && i < x.size(); ++i) {
    if (c.inputs[i] != want.dims) continue;
    CHECK(same_bits(run_guarded(c, x, 0, true, 3, static_cast<int>(i)), first[0]), "in place: other bits");
  }
}

const Dims kShapes[] = {{}, {1}, {37}, {3, 5}, {2, 3, 7, 9}, {1, 64, 8, 8}, {2, 3, 1, 1, 5, 2}, {5, 1, 17}, {2, 0, 3}};

void activate(const std::string& isa) {
  Rng rng(options().seed);
  for (const Dims& dims : kShapes) {
    for (int64_t kind = 0; kind < 12; ++kind) {
      OpCase c{"activate", {dims}, {kind}, {-0.5f, 1.5f}, {}, isa};
      if (kind == 3) c.data = {{"slope", {0.25f}}};
      const auto truth = [&](const std::vector<Floats>& x) {
        Truth t = moved(x[0], dims, dims, [](Dims at) { return at; });
        finish(c, &t);
        return t;
      };
      check(rng, c, truth, true);
      if (kind != 3 || dims.size() < 2 || dims[1] == 0) continue;
      c.data = {{"slope", random_floats(rng, dims[1])}};
      check(rng, c, truth, true);
    }
  }
  OpCase large{"activate", {{3, 70001}}, {5}, {0, 0}, {}, isa};
  check(
      rng, large,
      [&](const std::vector<Floats>& x) {
        Truth t = moved(x[0], large.inputs[0], large.inputs[0], [](Dims at) { return at; });
        finish(large, &t);
        return t;
      },
      true);
}

void binary(const std::string& isa) {
  Rng rng(options().seed + 1);
  const std::pair<Dims, Dims> shapes[] = {{{}, {}},
                                          {{5}, {}},
                                          {{1}, {3, 4}},
                                          {{2, 3, 5, 7}, {2, 3, 5, 7}},
                                          {{2, 3, 5, 7}, {2, 3, 1, 1}},
                                          {{2, 3, 5, 7}, {1, 3, 1, 1}},
                                          {{3, 1, 1}, {2, 3, 5, 7}},
                                          {{2, 1, 5, 1}, {1, 3, 1, 7}},
                                          {{4, 1}, {1, 33}},
                                          {{4, 33}, {33}},
                                          {{2, 1, 3, 1, 2, 1}, {1, 4, 1, 2, 1, 3}},
                                          {{2, 0, 3}, {2, 1, 3}},
                                          {{4, 1}, {4, 1}},
                                          {{1, 7, 1}, {1, 1, 1}},
                                          {{2, 40, 35, 35}, {2, 40, 1, 1}},
                                          {{2, 3, 120, 121}, {2, 3, 120, 121}}};
  for (const auto& [a, b] : shapes) {
    for (const char* op : {"add", "sub", "mul"}) {
      for (const int64_t kind : {0, 1, 5}) {
        const OpCase c{op, {a, b}, {kind}, {-0.5f, 1.5f}, {}, isa};
        check(
            rng, c, [&](const std::vector<Floats>& x) { return binary_truth(c, x); }, true);
      }
    }
  }
  const OpCase prelu{"add", {{2, 3, 5, 7}, {1, 3, 1, 1}}, {3}, {0, 0}, {{"slope", {0.5f, -0.25f, 0.0f}}}, isa};
  check(
      rng, prelu, [&](const std::vector<Floats>& x) { return binary_truth(prelu, x); }, true);
}

void linear(const std::string& isa) {
  Rng rng(options().seed + 2);
  const Dims batches[] = {{}, {1}, {2}, {3}, {4}, {5}, {9}, {2, 3}, {3, 1, 2}};
  for (const int64_t in : {1, 3, 15, 16, 17, 31, 33, 64, 100}) {
    for (const int64_t out : {1, 3, 4, 7, 18}) {
      for (Dims dims : batches) {
        dims.push_back(in);
        const int64_t kind = rng.between(0, 2) * 5 % 7;  // none, silu, leaky ReLU
        OpCase c{"linear", {dims}, {kind == 3 ? 2 : kind}, {0.5f, 0}, {{"weight", random_floats(rng, in * out)}}, isa};
        if (rng.chance(0.7)) c.data.push_back({"bias", random_floats(rng, out)});
        check(rng, c, [&](const std::vector<Floats>& x) { return linear_truth(c, x); });
      }
    }
  }
  for (const Dims& dims : {Dims{1, 1280}, Dims{300, 128}, Dims{2, 7, 64}}) {
    OpCase c{"linear", {dims}, {3}, {0, 0}, {{"weight", random_floats(rng, dims.back() * 200)}}, isa};
    c.data.push_back({"slope", random_floats(rng, dims.size() == 2 ? 200 : dims[1])});
    check(rng, c, [&](const std::vector<Floats>& x) { return linear_truth(c, x); });
  }
}

// A row's sums are those of the row alone.
void linear_rows(const std::string& isa) {
  Rng rng(options().seed + 3);
  for (const int64_t in : {5, 37, 300}) {
    const Floats weight = random_floats(rng, in * 13), x = random_floats(rng, in * 11);
    const OpCase all{"linear", {{11, in}}, {0}, {0, 0}, {{"weight", weight}}, isa};
    const OpCase one{"linear", {{1, in}}, {0}, {0, 0}, {{"weight", weight}}, isa};
    const Floats y = run_guarded(all, {x}, 0, true, 1);
    for (int64_t r = 0; r < 11; ++r) {
      const Floats alone = run_guarded(one, {Floats(x.begin() + r * in, x.begin() + (r + 1) * in)}, 0, true, 1);
      CHECK(same_bits(alone, Floats(y.begin() + r * 13, y.begin() + (r + 1) * 13)), "row %d has other bits", (int)r);
    }
  }
}

void pools(const std::string& isa) {
  Rng rng(options().seed + 4);
  const auto window = [&](bool max) {
    const int64_t kernel_h = rng.between(1, 5), kernel_w = rng.chance(0.02) ? rng.between(600, 700) : rng.between(1, 6);
    const int64_t dilation = max ? rng.between(1, 2) : 1;
    std::vector<int64_t> a = {kernel_h, kernel_w, rng.between(1, 4), rng.between(1, 4)};
    if (max) a.insert(a.end(), 2, dilation);
    a.push_back(rng.between(0, kernel_h / 2));
    a.push_back(rng.between(0, kernel_w / 2));
    a.push_back(rng.between(0, 1));
    if (!max) a.push_back(rng.between(0, 1)), a.push_back(rng.chance(0.2) ? rng.between(-3, 9) : 0);
    return a;
  };
  for (int i = 0; i < (options().soak ? 5000 : 250); ++i) {
    for (const bool max : {true, false}) {
      OpCase c{max ? "max_pool" : "avg_pool", {}, window(max), {}, {}, isa};
      const int64_t h = c.ints[0] * 2 + rng.between(0, 9),
                    w = c.ints[1] * 2 + rng.between(0, rng.chance(0.1) ? 1100 : 40);
      c.inputs = {rng.chance(0.2) ? Dims{3, h, w} : Dims{rng.between(1, 2), rng.between(1, 3), h, w}};
      check(rng, c, [&](const std::vector<Floats>& x) { return pool_truth(c, x[0]); });
    }
  }
  for (int i = 0; i < 100; ++i) {
    const Dims in = {rng.between(1, 2), rng.between(1, 20), rng.between(1, 30), rng.between(1, 30)};
    OpCase c{"adaptive_avg_pool", {in}, {rng.between(1, 9), rng.between(1, 9)}, {}, {}, isa};
    if (rng.chance(0.3)) c.ints = {1, 1};
    check(rng, c, [&](const std::vector<Floats>& x) { return adaptive_truth(c, x[0]); });
  }
}

void mean(const std::string& isa) {
  Rng rng(options().seed + 5);
  for (const Dims& dims :
       {Dims{5}, Dims{3, 4}, Dims{2, 33, 7, 7}, Dims{2, 3, 2, 2, 3, 20}, Dims{1, 200000}, Dims{0, 3}}) {
    for (int64_t n = 1; n <= static_cast<int64_t>(dims.size()); ++n) {
      if (count(dims) == 0 && n == 2) continue;
      for (const int64_t keep : {0, 1}) {
        const OpCase c{"mean", {dims}, {n, keep}, {}, {}, isa};
        check(rng, c, [&](const std::vector<Floats>& x) { return mean_truth(c, x[0]); });
      }
    }
  }
  const Floats nothing = run_guarded({"mean", {{2, 0}}, {1, 0}, {}, {}, isa}, {{}}, 0, true, 1);
  CHECK(std::isnan(nothing[0]) && std::isnan(nothing[1]), "the mean of nothing is %g", static_cast<double>(nothing[0]));
}

void softmax(const std::string& isa) {
  Rng rng(options().seed + 6);
  for (const Dims& dims : {Dims{}, Dims{1}, Dims{19}, Dims{3, 1000}, Dims{2, 5, 7, 33}, Dims{2, 3, 2, 1, 3, 4},
                           Dims{0, 4}, Dims{4, 21, 65, 33}}) {
    for (size_t dim = 0; dim < std::max<size_t>(dims.size(), 1); ++dim) {
      for (const int64_t log : {0, 1}) {
        const OpCase c{"softmax", {dims}, {static_cast<int64_t>(dim), log}, {}, {}, isa};
        check(
            rng, c, [&](const std::vector<Floats>& x) { return softmax_truth(c, x[0]); }, true);
      }
    }
  }
  const Floats x = {-kInf, 0, 1, -kInf, -kInf, -kInf, kInf, 0, 0, kNaN, 0, 0, 100, -100, 0, -1000, -1000, -1000};
  for (const int64_t log : {0, 1}) {
    const Floats y = run_guarded({"softmax", {{6, 3}}, {1, log}, {}, {}, isa}, {x}, 0, true, 1);
    CHECK(log != 0 ? y[0] == -kInf : y[0] == 0, "got %g of -Inf", static_cast<double>(y[0]));
    for (size_t i = 3; i < 12; ++i) CHECK(std::isnan(y[i]), "output %zu: got %g", i, static_cast<double>(y[i]));
    CHECK(log != 0 ? y[12] == 0 && y[13] == -200 : y[12] == 1 && y[13] == 0, "far apart");
    CHECK(std::abs((log != 0 ? std::exp(y[15]) : y[15]) - 1.0f / 3) < 1e-6f, "all equal");
  }
}

void concat(const std::string& isa) {
  Rng rng(options().seed + 7);
  for (const Dims& dims : {Dims{4}, Dims{2, 3}, Dims{2, 3, 5, 7}, Dims{2, 3, 1, 2, 3, 4}, Dims{1, 80, 30, 31}}) {
    for (size_t dim = 0; dim < dims.size(); ++dim) {
      OpCase c{"concat", {}, {static_cast<int64_t>(dim)}, {}, {}, isa};
      for (const int64_t more : {int64_t{0}, int64_t{1}, -dims[dim], int64_t{3}}) {
        c.inputs.push_back(dims);
        c.inputs.back()[dim] += more;
      }
      check(rng, c, [&](const std::vector<Floats>& x) {
        Truth t{dims, {}, {}};
        t.dims[dim] = 3 * dims[dim] + 4;
        for (int64_t i = 0; i < count(t.dims); ++i) {
          Dims at = unravel(i, t.dims);
          size_t k = 0;
          for (; at[dim] >= c.inputs[k][dim]; ++k) at[dim] -= c.inputs[k][dim];
          t.add(value_at(x[k], ravel(at, c.inputs[k])), 0);
        }
        return t;
      });
    }
  }
}

void slice(const std::string& isa) {
  Rng rng(options().seed + 8);
  constexpr int64_t kFar = std::numeric_limits<int64_t>::max();
  const struct {
    int64_t start, end, step, begin, count;  // of a dim of 6
  } ranges[] = {{0, 6, 1, 0, 6}, {1, 4, 1, 1, 3},  {0, kFar, 2, 0, 3}, {-2, kFar, 1, 4, 2},        {-kFar, -1, 3, 0, 2},
                {4, 2, 1, 4, 0}, {9, 12, 1, 6, 0}, {1, 6, 5, 1, 1},    {5, kFar, kFar >> 23, 5, 1}};
  for (const Dims& dims :
       {Dims{6}, Dims{6, 3}, Dims{2, 6, 5, 7}, Dims{2, 1, 6}, Dims{2, 3, 4, 6}, Dims{1, 2, 1, 6, 2, 40}}) {
    for (size_t dim = 0; dim < dims.size(); ++dim) {
      if (dims[dim] != 6) continue;
      for (const auto& r : ranges) {
        const OpCase c{"slice", {dims}, {static_cast<int64_t>(dim), r.start, r.end, r.step}, {}, {}, isa};
        Dims out = dims;
        out[dim] = r.count;
        check(rng, c, [&](const std::vector<Floats>& x) {
          return moved(x[0], dims, out, [&](Dims at) { return at[dim] = r.begin + at[dim] * r.step, at; });
        });
      }
    }
  }
}

void pad(const std::string& isa) {
  Rng rng(options().seed + 9);
  for (const Dims& dims :
       {Dims{}, Dims{5}, Dims{2, 3}, Dims{2, 3, 5, 7}, Dims{1, 2, 2, 2, 3, 4}, Dims{2, 40, 31, 33}, Dims{0, 4}}) {
    for (int i = 0; i < 12; ++i) {
      OpCase c{"pad", {dims}, {}, {i % 2 != 0 ? -kInf : 2.5f}, {}, isa};
      Dims out = dims;
      for (int64_t& d : out) {
        const int64_t before = rng.between(-d, 3), after = rng.between(std::max(-d - before, -d), 3);
        c.ints.insert(c.ints.end(), {before, after});
        d += before + after;
      }
      check(rng, c, [&](const std::vector<Floats>& x) {
        const auto from = [&](Dims at) {
          for (size_t d = 0; d < at.size(); ++d) at[d] -= c.ints[2 * d];
          return at;
        };
        return moved(x[0], dims, out, from, static_cast<double>(c.floats[0]));
      });
    }
  }
}

void shapes(const std::string& isa) {
  Rng rng(options().seed + 10);
  const auto same = [&](const OpCase& c, const Dims& out) {
    check(rng, c, [&](const std::vector<Floats>& x) {
      Truth t{out, {}, {}};
      for (const float f : x[0]) t.add(static_cast<double>(f), 0);
      return t;
    });
  };
  same({"reshape", {{2, 3, 4}}, {0, -1}, {}, {}, isa}, {2, 12});
  same({"reshape", {{2, 3, 4}}, {4, 0, 2}, {}, {}, isa}, {4, 3, 2});
  same({"reshape", {{6, 20}}, {4, -1, 3}, {}, {}, isa}, {4, 10, 3});
  same({"reshape", {{1}}, {}, {}, {}, isa}, {});
  same({"reshape", {{}}, {1, 1}, {}, {}, isa}, {1, 1});
  same({"reshape", {{0, 4}}, {0, 7}, {}, {}, isa}, {0, 7});
  same({"flatten", {{2, 3, 4, 5}}, {1, 3}, {}, {}, isa}, {2, 60});
  same({"flatten", {{2, 3, 4, 5}}, {0, 3}, {}, {}, isa}, {120});
  same({"flatten", {{2, 3, 4, 5}}, {1, 2}, {}, {}, isa}, {2, 12, 5});
  same({"flatten", {{}}, {0, 0}, {}, {}, isa}, {1});
  same({"flatten", {{7}}, {0, 0}, {}, {}, isa}, {7});
  for (const Dims& dims :
       {Dims{}, Dims{5}, Dims{19, 33}, Dims{2, 3, 5, 7}, Dims{2, 70, 1, 50}, Dims{2, 3, 2, 4, 3, 5}}) {
    for (int i = 0; i < 10; ++i) {
      OpCase c{"permute", {dims}, {}, {}, {}, isa};
      Dims out;
      for (size_t d = 0; d < dims.size(); ++d) c.ints.push_back(static_cast<int64_t>(d));
      for (size_t d = dims.size(); d > 1; --d) std::swap(c.ints[d - 1], c.ints[rng.next() % d]);
      for (const int64_t d : c.ints) out.push_back(dims[static_cast<size_t>(d)]);
      check(rng, c, [&](const std::vector<Floats>& x) {
        return moved(x[0], dims, out, [&](const Dims& at) {
          Dims from(at.size());
          for (size_t d = 0; d < at.size(); ++d) from[static_cast<size_t>(c.ints[d])] = at[d];
          return from;
        });
      });
    }
  }
  for (const auto& [dims, r] : {std::pair<Dims, int64_t>{{2, 8, 3, 5}, 2},
                                {{9, 4, 4}, 3},
                                {{2, 1, 1, 4, 3, 2}, 2},
                                {{2, 5, 7, 3}, 1},
                                {{1, 12, 60, 61}, 2}}) {
    Dims out = dims;
    const size_t c0 = dims.size() - 3;
    out[c0] /= r * r, out[c0 + 1] *= r, out[c0 + 2] *= r;
    const int64_t factor = r;
    const Dims in = dims;
    check(rng, {"pixel_shuffle", {dims}, {r}, {}, {}, isa}, [&](const std::vector<Floats>& x) {
      return moved(x[0], in, out, [&](Dims at) {
        at[c0] = (at[c0] * factor + at[c0 + 1] % factor) * factor + at[c0 + 2] % factor;
        at[c0 + 1] /= factor, at[c0 + 2] /= factor;
        return at;
      });
    });
  }
}

void upsample(const std::string& isa) {
  Rng rng(options().seed + 11);
  for (int i = 0; i < 300; ++i) {
    const int64_t mode = rng.between(0, 1), aligned = mode * rng.between(0, 1);
    const Dims in = {rng.between(1, 2), rng.between(1, 3), rng.between(1, 12),
                     rng.between(1, rng.chance(0.1) ? 90 : 20)};
    OpCase c{"upsample", {in}, {mode, aligned, 0, 0}, {0, 0}, {}, isa};
    constexpr float kScales[] = {2.0f, 1.0f, 3.0f, 1.5f, 1.3f, 2.7f, 1.1f, 4.0f};
    if (rng.chance(0.5)) {
      c.floats = {rng.pick(kScales), rng.pick(kScales)};
    } else {
      c.ints[2] = rng.between(1, 30), c.ints[3] = rng.between(1, 45);
    }
    check(rng, c, [&](const std::vector<Floats>& x) { return upsample_truth(c, x[0]); });
  }
  const OpCase tenths{"upsample", {{1, 1, 10, 10}}, {0, 0, 0, 0}, {1.3f, 1.1f}, {}, isa};
  Op op;
  REQUIRE(make(tenths, 0, &op) == PCONV_OK, "%s", pconv_last_error());
  CHECK(output_of(op).dims[2] == 13 && output_of(op).dims[3] == 11, "10 times 1.3 and 1.1");
}

void add_tests() {
  const std::pair<const char*, void (*)(const std::string&)> tests[] = {
      {"activate", activate}, {"binary", binary}, {"linear", linear},   {"linear_rows", linear_rows},
      {"pools", pools},       {"mean", mean},     {"softmax", softmax}, {"concat", concat},
      {"slice", slice},       {"pad", pad},       {"shapes", shapes},   {"upsample", upsample}};
  for (const auto& test : tests) add_for_isas(test.first, test.second);
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, pconv_test::add_tests); }
