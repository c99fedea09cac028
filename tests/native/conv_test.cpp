// Convolution against the float64 reference, for every ukernel by name and for every ISA's default plan.
// exact: small integers, every sum below 2^24, bit equality for 1, 2, 3, 4 and 7 threads. real: the error bound, and
// the same bits for every number of threads. runs: every pattern in runs of 1 to 9 kernels, exact. Shapes come from
// cases.h; guard pages and special values have tests of their own.
#include "cases.h"

namespace pconv_test {
namespace {

constexpr int kThreads[] = {1, 2, 3, 4, 7};

struct Tally {
  int cases = 0, exempt = 0, counted = 0;
  double worst_ratio = 0;
};

// Runs the case on `n_threads`; the output starts as NaN, or as the residual where that is the output itself.
std::vector<float> run_case(const Case& c, const Plan& p, size_t size, int n_threads) {
  std::vector<float> y = c.residual_mode == Residual::kAliasesOutput ? c.residual : std::vector<float>(size, kNaN);
  const float* residual = c.residual_mode == Residual::kNone       ? nullptr
                          : c.residual_mode == Residual::kSeparate ? c.residual.data()
                                                                   : y.data();
  y.reserve(1);  // n = 0: still a valid address
  run(p, {c.x.data(), residual, y.data(), c.clamp_min, c.clamp_max, n_threads});
  return y;
}

std::string position(const Case& c, const Reference& r, size_t flat) {
  const size_t oc = static_cast<size_t>(c.layer.conv.out_channels);
  const size_t h = static_cast<size_t>(r.out_h), w = static_cast<size_t>(r.out_w);
  if (c.target.layout == PCONV_NCHW) {
    return format("n=%zu o=%zu y=%zu x=%zu", flat / (oc * h * w), flat / (h * w) % oc, flat / w % h, flat % w);
  }
  return format("n=%zu o=%zu y=%zu x=%zu", flat / (oc * h * w), flat % oc, flat / (oc * w) % h, flat / oc % w);
}

void check_output(const Case& c, const Reference& r, bool exact, const std::vector<float>& y, Tally& tally) {
  for (size_t i = 0; i < y.size(); ++i) {
    const double want = clamp(r.y[i], c.clamp_min, c.clamp_max);
    const double got = static_cast<double>(y[i]);
    if (exact) {
      if (same_up_to_zero_sign(y[i], static_cast<float>(want))) continue;
      CHECK(false, "%s: got %.9g, expected %.9g", position(c, r, i).c_str(), got, want);
      return;
    }
    const double bound = error_bound(r, i, !c.residual.empty()), error = std::fabs(got - want);
    if (!(error <= bound)) {
      CHECK(false, "%s: got %.9g, expected %.9g, error %.3g above the bound %.3g for %d taps",
            position(c, r, i).c_str(), got, want, error, bound, r.taps[i]);
      return;
    }
    if (bound > 0) tally.worst_ratio = std::max(tally.worst_ratio, error / bound);
  }
}

// A case proves something only if enough of its outputs are not zero. Exempt: filters without kernels, empty outputs.
void count_case(const Case& c, const std::vector<float>& y, Tally& tally) {
  const int64_t oc = c.layer.conv.out_channels;
  const size_t plane = y.size() / static_cast<size_t>(std::max<int64_t>(c.target.n * oc, 1));
  size_t seen = 0, nonzero = 0;
  for (int64_t o = 0; o < oc; ++o) {
    if (taps_of_filter(c.layer, o).empty()) continue;
    for (size_t n = 0; n < static_cast<size_t>(c.target.n); ++n) {
      for (size_t i = 0; i < plane; ++i) {
        const size_t channels = static_cast<size_t>(oc), channel = static_cast<size_t>(o);
        const size_t flat =
            c.target.layout == PCONV_NCHW ? (n * channels + channel) * plane + i : (n * plane + i) * channels + channel;
        ++seen;
        nonzero += y[flat] != 0.0f;
      }
    }
  }
  ++tally.cases;
  if (seen == 0) {
    ++tally.exempt;
  } else if (static_cast<double>(nonzero) >= 0.3 * static_cast<double>(seen)) {
    ++tally.counted;
  }
}

void check_case(const Way& way, Case c, bool exact, Tally& tally) {
  c.target.isa = way.isa;
  c.target.ukernel = way.ukernel;
  set_context(c.text + " isa=" + way.isa + " ukernel=" + way.ukernel);
  const Reference r = reference_conv(c.layer, c.target, c.x.data(), c.residual.empty() ? nullptr : c.residual.data());
  for (size_t i = 0; exact && i < r.magnitude.size(); ++i) {
    REQUIRE(r.magnitude[i] < 0x1p24, "the case is not exact: magnitude %g", r.magnitude[i]);
  }
  const Packed packed = pack(c.layer);
  const Plan p = plan(packed, c.target);
  const pconv_plan_info info = query(p);
  CHECK(info.isa == way.isa, "planned for %s", info.isa);
  CHECK(way.ukernel.empty() || info.ukernel == way.ukernel, "planned %s", info.ukernel);
  REQUIRE(info.out_h == r.out_h && info.out_w == r.out_w, "output %lld x %lld, expected %lld x %lld",
          static_cast<long long>(info.out_h), static_cast<long long>(info.out_w), static_cast<long long>(r.out_h),
          static_cast<long long>(r.out_w));
  std::vector<float> first;
  for (int n_threads : kThreads) {
    set_context(format("%s isa=%s ukernel=%s threads=%d", c.text.c_str(), info.isa, info.ukernel, n_threads));
    const std::vector<float> y = run_case(c, p, r.y.size(), n_threads);
    if (n_threads == kThreads[0]) {
      check_output(c, r, exact, y, tally);
      first = y;
    }
    const bool same = y.empty() || std::memcmp(y.data(), first.data(), y.size() * sizeof(float)) == 0;
    CHECK(same, "the bits differ from those of one thread");
  }
  count_case(c, first, tally);
}

void check_all_cases(const Way& way, bool exact) {
  Tally tally;
  for (int index = 0; index < kCases; index += options().soak ? 1 : kCaseStep) {
    if (options().case_index >= 0 && options().case_index != index) continue;
    check_case(way, make_case(index, exact, way), exact, tally);
  }
  set_context("tally of " + way.id());
  const int tried = tally.cases - tally.exempt;
  printf("  %s: %d cases, %d exempt, %d of %d counted", way.id().c_str(), tally.cases, tally.exempt, tally.counted,
         tried);
  printf(exact ? "\n" : ", largest error / bound %.3f\n", tally.worst_ratio);
  if (options().case_index >= 0) return;
  CHECK(tally.counted >= tried * 85 / 100, "only %d of %d cases have enough non-zero outputs", tally.counted, tried);
  CHECK(tally.exempt <= tally.cases / 5, "%d of %d cases are exempt", tally.exempt, tally.cases);
}

// Every pattern of the manifest in runs of 1 to 9 kernels: a ukernel may have code for several kernels at once.
void check_runs(const Way& way) {
  constexpr uint32_t kMasks[] = {
#define PCONV_PATTERN(id, name, mask) mask,
#include "pconv/patterns.def"
#undef PCONV_PATTERN
  };
  constexpr int64_t kLongest = 9;
  Tally tally;
  for (const uint32_t mask : kMasks) {
    Case c = make_case(1, true, way);  // for a layer that this way takes; then only its stride stays
    pconv_conv_desc& d = c.layer.conv;
    d.in_channels = d.out_channels = kLongest;
    d.groups = d.pad_top = d.pad_bottom = d.pad_left = d.pad_right = 1;
    c.target.n = 1, c.target.h = 37, c.target.w = 21;  // tiles to the right and below, the last of each not full
    c.layer.bias.clear(), c.residual.clear();
    c.layer.weights.assign(kLongest * kLongest * 9, 0.0f);
    for (int64_t filter = 0; filter < kLongest; ++filter) {
      for (int64_t i = 0; i <= filter * 9 + 8; ++i) {
        c.layer.weights[static_cast<size_t>(filter * kLongest * 9 + i)] = static_cast<float>(mask >> (i % 9) & 1);
      }
    }
    Rng rng(options().seed * 1000003 + mask);
    draw_numbers(rng, true, kLongest * 9, c);
    c.text = format("mask=%#x", mask);
    check_case(way, c, true, tally);
  }
}

void add_tests() {
  for (const bool exact : {true, false}) {
    const std::string prefix = exact ? "exact" : "real";
    for_each_way(prefix, [&](const Way& way) {
      state().tests.push_back({prefix + "/" + way.id(), [way, exact] { check_all_cases(way, exact); }});
    });
  }
  for_each_way("runs", [](const Way& way) {
    if (way.ukernel.find("_conv3x3_") == std::string::npos && way.ukernel.find("_line3x3_") == std::string::npos)
      return;
    state().tests.push_back({"runs/" + way.id(), [way] { check_runs(way); }});
  });
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, pconv_test::add_tests); }
