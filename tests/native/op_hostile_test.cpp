// Operators and what nobody should ask of them: attributes, shapes and data of any values are accepted or refused with
// a text, never worse; null pointers, steps and overlaps; no allocation when warm.
#include "allocations.h"
#include "op_support.h"

namespace pconv_test {
namespace {

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max(), kLow = std::numeric_limits<int64_t>::min();

int names_in(const char* list) {
  int n = list[0] != '\0' ? 1 : 0;
  for (; *list != '\0'; ++list) n += *list == ',';
  return n;
}

// A good case of each operator.
const OpCase kGood[] = {
    {"linear", {{3, 40}}, {5}, {0, 0}, {{"weight", Floats(400, 0.5f)}, {"bias", Floats(10, 1.0f)}}, ""},
    {"activate", {{2, 3, 9, 9}}, {3}, {0, 0}, {{"slope", Floats(3, 0.5f)}}, ""},
    {"add", {{2, 3, 9, 9}, {2, 3, 1, 1}}, {4}, {0, 0}, {}, ""},
    {"sub", {{2, 3, 9, 9}, {9}}, {1}, {0, 6}, {}, ""},
    {"mul", {{2, 3, 9, 9}, {2, 3, 9, 9}}, {0}, {0, 0}, {}, ""},
    {"max_pool", {{2, 3, 9, 9}}, {3, 3, 2, 2, 1, 1, 1, 1, 1}, {}, {}, ""},
    {"avg_pool", {{2, 3, 9, 9}}, {3, 3, 2, 2, 1, 1, 1, 0, 0}, {}, {}, ""},
    {"adaptive_avg_pool", {{2, 3, 9, 9}}, {2, 5}, {}, {}, ""},
    {"mean", {{2, 3, 9, 9}}, {2, 1}, {}, {}, ""},
    {"concat", {{2, 3, 9, 9}, {2, 1, 9, 9}}, {1}, {}, {}, ""},
    {"slice", {{2, 3, 9, 9}}, {2, 1, 8, 3}, {}, {}, ""},
    {"upsample", {{2, 3, 9, 9}}, {1, 0, 0, 0}, {2.0f, 1.5f}, {}, ""},
    {"upsample", {{2, 3, 9, 9}}, {0, 0, 20, 21}, {0, 0}, {}, ""},
    {"pixel_shuffle", {{2, 4, 9, 9}}, {2}, {}, {}, ""},
    {"softmax", {{2, 3, 9, 9}}, {1, 0}, {}, {}, ""},
    {"softmax", {{2, 3, 9, 9}}, {3, 1}, {}, {}, ""},
    {"reshape", {{2, 3, 9, 9}}, {0, -1, 27}, {}, {}, ""},
    {"flatten", {{2, 3, 9, 9}}, {1, 3}, {}, {}, ""},
    {"permute", {{2, 3, 9, 9}}, {0, 2, 3, 1}, {}, {}, ""},
    {"pad", {{2, 3, 9, 9}}, {0, 0, 0, 0, 1, 2, -1, 3}, {1.5f}, {}, ""},
};

std::vector<Floats> inputs_of(const OpCase& c) {
  std::vector<Floats> x;
  for (const Dims& dims : c.inputs) x.emplace_back(static_cast<size_t>(pconv_test::count(dims)), 0.75f);
  return x;
}

// Makes it, and runs what is small enough.
bool try_case(const OpCase& c) {
  set_context(c.text());
  Op op;
  const pconv_status status = make(c, 0, &op);
  CHECK(status == PCONV_OK || status == PCONV_INVALID_ARGUMENT, "%s", pconv_status_name(status));
  if (status != PCONV_OK) {
    CHECK(pconv_last_error()[0] != '\0', "no text");
    return false;
  }
  const Dims out = dims_of(output_of(op));
  int64_t floats = pconv_test::count(out);
  for (const Dims& dims : c.inputs) floats = std::max(floats, pconv_test::count(dims));
  if (floats > 100000) return true;
  run_guarded(c, inputs_of(c), 0, true, 1);
  return true;
}

// Every attribute takes every extreme, alone and with others.
TEST(extreme_attributes) {
  Rng rng(options().seed);
  const int64_t values[] = {0,
                            1,
                            -1,
                            2,
                            3,
                            7,
                            65535,
                            65536,
                            1 << 30,
                            (1 << 30) + 1,
                            int64_t{1} << 31,
                            int64_t{1} << 32,
                            int64_t{1} << 40,
                            (int64_t{1} << 40) + 1,
                            int64_t{1} << 62,
                            kHuge,
                            kLow,
                            kHuge - 1,
                            kLow + 1,
                            -65536};
  const float numbers[] = {0.0f, 1.0f, -1.0f, kInf, -kInf, kNaN, 1e-30f, 3e38f, 1e10f, 0.5f};
  int accepted = 0, refused = 0;
  for (const OpCase& good : kGood) {
    CHECK(try_case(good), "refused: %s", pconv_last_error());
    for (size_t i = 0; i < good.ints.size(); ++i) {
      for (const int64_t value : values) {
        OpCase c = good;
        c.ints[i] = value;
        ++(try_case(c) ? accepted : refused);
      }
    }
    for (size_t i = 0; i < good.floats.size(); ++i) {
      for (const float value : numbers) {
        OpCase c = good;
        c.floats[i] = value;
        ++(try_case(c) ? accepted : refused);
      }
    }
    for (int i = 0; i < (options().soak ? 20000 : 500); ++i) {
      OpCase c = good;
      for (int64_t& v : c.ints) v = rng.chance(0.5) ? v : rng.chance(0.5) ? rng.between(-3, 12) : rng.pick(values);
      for (float& v : c.floats) v = rng.chance(0.7) ? v : rng.pick(numbers);
      if (rng.chance(0.1)) c.ints.resize(rng.next() % 14, 1);
      if (rng.chance(0.1)) c.floats.resize(rng.next() % 4, 1.0f);
      ++(try_case(c) ? accepted : refused);
    }
  }
  CHECK(accepted > 500 && refused > 1000, "%d accepted, %d refused", accepted, refused);
}

TEST(extreme_shapes) {
  Rng rng(options().seed + 1);
  const int64_t values[] = {0, 1, 2, -1, 1 << 20, (1 << 30) + 1, int64_t{1} << 40, int64_t{1} << 62, kHuge, kLow};
  for (const OpCase& good : kGood) {
    for (int i = 0; i < 300; ++i) {
      OpCase c = good;
      std::vector<pconv_shape> shapes;
      for (const Dims& dims : c.inputs) {
        pconv_shape shape{};
        shape.rank = static_cast<int>(rng.chance(0.8) ? static_cast<int64_t>(dims.size()) : rng.between(-2, 8));
        for (size_t d = 0; d < 6; ++d) {
          const int64_t own = d < dims.size() ? dims[d] : 2;
          shape.dims[d] = rng.chance(0.7) ? own : rng.pick(values);
        }
        shape.step = rng.chance(0.7) ? 0 : rng.chance(0.5) ? rng.between(-10, 1000) : rng.pick(values);
        shapes.push_back(shape);
      }
      const std::vector<pconv_op_data> data = c_data(c);
      pconv_op_desc desc = describe(c, shapes, data);
      desc.output_step = rng.chance(0.7) ? 0 : rng.pick(values);
      pconv_op* op = nullptr;
      set_context(c.text());
      g_largest = 0;
      const pconv_status status = pconv_make_op(&desc, &op);
      CHECK(status == PCONV_OK || status == PCONV_INVALID_ARGUMENT, "%s", pconv_status_name(status));
      CHECK((status == PCONV_OK) == (op != nullptr), "%s and an operator at %p", pconv_status_name(status),
            static_cast<void*>(op));
      CHECK(g_largest.load() < (1 << 20), "an allocation of %zu bytes", g_largest.load());
      pconv_free_op(op);
    }
  }
}

struct Bad {
  const char* names;
  OpCase c;
};
const Floats kOnes(64, 1.0f);
const Bad kBad[] = {
    {"inputs", {"activate", {}, {0}, {0, 0}, {}, ""}},
    {"inputs", {"add", {{1}}, {0}, {0, 0}, {}, ""}},
    {"ints", {"activate", {{1}}, {}, {0, 0}, {}, ""}},
    {"floats", {"activate", {{1}}, {0}, {0}, {}, ""}},
    {"activation", {"activate", {{1}}, {12}, {0, 0}, {}, ""}},
    {"alpha", {"activate", {{1}}, {1}, {kNaN, 0}, {}, ""}},
    {"beta", {"activate", {{1}}, {1}, {0, kNaN}, {}, ""}},
    {"alpha <= beta", {"activate", {{1}}, {1}, {1, 0}, {}, ""}},
    {"slope", {"activate", {{2, 3}}, {3}, {0, 0}, {}, ""}},
    {"slope", {"activate", {{2, 3}}, {2}, {0, 0}, {{"slope", {1}}}, ""}},
    {"slope", {"activate", {{2, 3}}, {3}, {0, 0}, {{"slope", {1, 2}}}, ""}},
    {"slope", {"activate", {{3}}, {3}, {0, 0}, {{"slope", {1, 2, 3}}}, ""}},
    {"weight: is missing", {"linear", {{1, 4}}, {0}, {0, 0}, {}, ""}},
    {"weight", {"linear", {{1, 3}}, {0}, {0, 0}, {{"weight", kOnes}}, ""}},
    {"weight", {"linear", {{1, 0}}, {0}, {0, 0}, {{"weight", kOnes}}, ""}},
    {"bias", {"linear", {{1, 4}}, {0}, {0, 0}, {{"weight", kOnes}, {"bias", {1}}}, ""}},
    {"weight: does not belong", {"activate", {{1}}, {0}, {0, 0}, {{"weight", kOnes}}, ""}},
    {"weight", {"linear", {{1, 4}}, {0}, {0, 0}, {{"bias", {1}}, {"weight", kOnes}}, ""}},
    {"\"wait\"", {"linear", {{1, 4}}, {0}, {0, 0}, {{"wait", kOnes}}, ""}},
    {"dim 1", {"add", {{2, 3}, {2, 4}}, {0}, {0, 0}, {}, ""}},
    {"rank", {"max_pool", {{9, 9}}, {3, 3, 2, 2, 1, 1, 1, 1, 0}, {}, {}, ""}},
    {"side", {"max_pool", {{1, 1, 0, 9}}, {3, 3, 2, 2, 1, 1, 1, 1, 0}, {}, {}, ""}},
    {"kernel_w", {"max_pool", {{1, 1, 9, 9}}, {3, 0, 2, 2, 1, 1, 1, 1, 0}, {}, {}, ""}},
    {"pad_w", {"max_pool", {{1, 1, 9, 9}}, {3, 3, 2, 2, 1, 1, 1, 2, 0}, {}, {}, ""}},
    {"kernel_h", {"avg_pool", {{1, 1, 2, 9}}, {5, 3, 2, 2, 0, 0, 0, 0, 0}, {}, {}, ""}},
    {"divisor", {"avg_pool", {{1, 1, 9, 9}}, {3, 3, 2, 2, 0, 0, 0, 0, kHuge}, {}, {}, ""}},
    {"out_w", {"adaptive_avg_pool", {{1, 1, 9, 9}}, {1, 0}, {}, {}, ""}},
    {"output", {"adaptive_avg_pool", {{1, 4, 9, 9}}, {1 << 30, 1 << 30}, {}, {}, ""}},
    {"n_dims", {"mean", {{3}}, {2, 0}, {}, {}, ""}},
    {"input 1", {"concat", {{2, 3}, {3, 3}}, {1}, {}, {}, ""}},
    {"dim", {"concat", {{2, 3}, {3, 3}}, {2}, {}, {}, ""}},
    {"step", {"slice", {{2, 3}}, {1, 0, 2, 0}, {}, {}, ""}},
    {"align_corners", {"upsample", {{1, 1, 2, 3}}, {0, 1, 0, 0}, {2, 2}, {}, ""}},
    {"out_h, out_w", {"upsample", {{1, 1, 2, 3}}, {0, 0, 0, 4}, {2, 0}, {}, ""}},
    {"scale_h", {"upsample", {{1, 1, 2, 3}}, {0, 0, 4, 4}, {2, 0}, {}, ""}},
    {"scale_w", {"upsample", {{1, 1, 2, 3}}, {0, 0, 0, 0}, {2, kNaN}, {}, ""}},
    {"scale_h", {"upsample", {{1, 1, 2, 3}}, {0, 0, 0, 0}, {0.3f, 1}, {}, ""}},
    {"factor", {"pixel_shuffle", {{1, 6, 2, 3}}, {2}, {}, {}, ""}},
    {"dim", {"softmax", {{1, 6}}, {2, 0}, {}, {}, ""}},
    {"log", {"softmax", {{1, 6}}, {1, 2}, {}, {}, ""}},
    {"dims", {"reshape", {{1, 6}}, {4, -1}, {}, {}, ""}},
    {"dims", {"reshape", {{1, 6}}, {-1, -1}, {}, {}, ""}},
    {"dims", {"reshape", {{1, 6}}, {6, 1, 0}, {}, {}, ""}},
    {"dims", {"reshape", {{0, 6}}, {0, -1}, {}, {}, ""}},
    {"dims", {"reshape", {{1, 6}}, {1 << 30, 1 << 30, 0}, {}, {}, ""}},
    {"end_dim", {"flatten", {{1, 6}}, {1, 0}, {}, {}, ""}},
    {"dims", {"permute", {{1, 6}}, {0, 0}, {}, {}, ""}},
    {"dims", {"pad", {{1, 6}}, {0, 0}, {0}, {}, ""}},
    {"dims", {"pad", {{1, 6}}, {0, 0, -3, -4}, {0}, {}, ""}},
    {"output", {"pad", {{1, 1, 1}}, {1 << 30, 0, 1 << 30, 0, 0, 0}, {0}, {}, ""}},
    {"conv", {"conv", {{1, 1, 4, 4}}, {0}, {0, 0}, {}, ""}},
    {"constant", {"constant", {}, {1}, {}, {{"value", {1}}}, ""}},
    {"\"nothing\"", {"nothing", {}, {}, {}, {}, ""}},
};

TEST(refusals_name_what_is_wrong) {
  for (const Bad& bad : kBad) {
    Op op;
    set_context(bad.c.text());
    CHECK(make(bad.c, 0, &op) == PCONV_INVALID_ARGUMENT, "%s was accepted", bad.names);
    CHECK(std::string(pconv_last_error()).find(bad.names) != std::string::npos, "no \"%s\" in \"%s\"", bad.names,
          pconv_last_error());
  }
  OpCase none = kGood[0];
  none.isa = "none";
  Op op;
  CHECK(make(none, 0, &op) == PCONV_UNAVAILABLE, "an unknown ISA was accepted");
}

TEST(null_and_negative_arguments) {
  const pconv_shape shape = {1, {4}, 0};
  const int64_t kind = 0;
  const float floats[] = {0, 0};
  const pconv_op_desc good = {"activate", &shape, 1, &kind, 1, floats, 2, nullptr, 0, 0, nullptr};
  pconv_op* op = nullptr;
  const auto refused = [&](const char* names, pconv_op_desc desc) {
    CHECK(pconv_make_op(&desc, &op) == PCONV_INVALID_ARGUMENT && op == nullptr, "%s was accepted", names);
    CHECK(std::string(pconv_last_error()).find(names) != std::string::npos, "%s: %s", names, pconv_last_error());
  };
  pconv_op_desc d = good;
  d.op = nullptr, refused("op", d);
  d = good, d.inputs = nullptr, refused("inputs", d);
  d = good, d.n_inputs = -1, refused("inputs", d);
  d = good, d.n_inputs = 2, refused("inputs", d);
  d = good, d.ints = nullptr, refused("ints", d);
  d = good, d.n_ints = -1, refused("ints", d);
  d = good, d.floats = nullptr, refused("floats", d);
  d = good, d.n_floats = 1 << 30, refused("floats", d);
  d = good, d.n_data = 1, refused("data", d);
  const pconv_op_data nameless = {nullptr, floats, 1}, empty = {"slope", nullptr, 1}, negative = {"slope", floats, -1};
  d = good, d.n_data = 1, d.data = &nameless, refused("data", d);
  d = good, d.n_data = 1, d.data = &empty, refused("slope", d);
  d = good, d.n_data = 1, d.data = &negative, refused("slope", d);
  d = good, d.output_step = -1, refused("output_step", d);
  CHECK(pconv_make_op(nullptr, &op) == PCONV_INVALID_ARGUMENT, "null was accepted");
  CHECK(pconv_make_op(&good, nullptr) == PCONV_INVALID_ARGUMENT, "null was accepted");
  REQUIRE(pconv_make_op(&good, &op) == PCONV_OK, "%s", pconv_last_error());
  const Op owner(op);
  float x[8] = {}, y[4] = {};
  const float* inputs[] = {x};
  const float* nothing[] = {nullptr};
  CHECK(pconv_run_op(nullptr, inputs, y, 1) == PCONV_INVALID_ARGUMENT, "null was accepted");
  CHECK(pconv_run_op(op, nullptr, y, 1) == PCONV_INVALID_ARGUMENT, "null was accepted");
  CHECK(pconv_run_op(op, nothing, y, 1) == PCONV_INVALID_ARGUMENT, "null was accepted");
  CHECK(pconv_run_op(op, inputs, nullptr, 1) == PCONV_INVALID_ARGUMENT, "null was accepted");
  CHECK(pconv_run_op(op, inputs, y, -1) == PCONV_INVALID_ARGUMENT, "-1 threads were accepted");
  CHECK(pconv_run_op(op, inputs, y, 1025) == PCONV_INVALID_ARGUMENT, "1025 threads were accepted");
  CHECK(pconv_run_op(op, inputs, x + 1, 1) == PCONV_INVALID_ARGUMENT, "an overlap was accepted");
  CHECK(pconv_run_op(op, inputs, x, 1) == PCONV_OK, "in place: %s", pconv_last_error());
  CHECK(pconv_run_op(op, inputs, x + 4, 1) == PCONV_OK, "neighbours: %s", pconv_last_error());
  CHECK(pconv_get_op_output(nullptr, nullptr) == PCONV_INVALID_ARGUMENT, "null was accepted");
  CHECK(pconv_get_op_output(op, nullptr) == PCONV_INVALID_ARGUMENT, "null was accepted");
  pconv_free_op(nullptr);
}

// Parts that lie between each other's, as channels of one buffer do.
TEST(parts_between_parts) {
  const pconv_shape shape = {2, {3, 4}, 10};
  const int64_t kind = 0;
  const float floats[] = {0, 0};
  const pconv_op_desc desc = {"activate", &shape, 1, &kind, 1, floats, 2, nullptr, 0, 10, nullptr};
  pconv_op* op = nullptr;
  REQUIRE(pconv_make_op(&desc, &op) == PCONV_OK, "%s", pconv_last_error());
  const Op owner(op);
  Floats buffer(40, 1.0f);
  const float* inputs[] = {buffer.data() + 5};
  for (int at = 0; at < 16; ++at) {
    const bool apart = at == 0 || at == 1 || at == 5 || (at >= 9 && at <= 11);
    const pconv_status status = pconv_run_op(op, inputs, buffer.data() + at, 1);
    CHECK((status == PCONV_OK) == apart, "output at %d: %s", at, pconv_status_name(status));
  }
}

TEST(list_ends) {
  pconv_op_info info{};
  int n = 0;
  for (; pconv_list_op(n, &info); ++n) {
    CHECK(info.least_inputs <= info.most_inputs, "%s", info.name);
    CHECK(names_in(info.ints) < 12 && names_in(info.data) < 5, "%s", info.name);
  }
  CHECK(n == 20, "%d operators", n);
  for (const int index : {-1, n, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    CHECK(!pconv_list_op(index, &info), "index %d is listed", index);
  }
  CHECK(!pconv_list_op(0, nullptr), "null was accepted");
}

TEST(warm_runs_allocate_nothing) {
  for (const OpCase& c : kGood) {
    set_context(c.text());
    Op op;
    REQUIRE(make(c, 5, &op) == PCONV_OK, "%s", pconv_last_error());
    std::vector<Floats> x;
    std::vector<const float*> pointers;
    for (const Dims& dims : c.inputs) x.emplace_back(static_cast<size_t>(pconv_test::count(dims) + 5 * dims[0]), 0.75f);
    for (const Floats& floats : x) pointers.push_back(floats.data());
    const pconv_shape shape = output_of(op);
    Floats y(static_cast<size_t>(shape.step * std::max<int64_t>(shape.dims[0], 1)));
    for (const int n_threads : {1, 2}) {
      for (int i = 0; i < 3; ++i) {
        g_allocations = 0;
        REQUIRE(pconv_run_op(op.get(), pointers.data(), y.data(), n_threads) == PCONV_OK, "%s", pconv_last_error());
        CHECK(i < 2 || g_allocations.load() == 0, "%zu allocations", g_allocations.load());
      }
    }
  }
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, nullptr); }
