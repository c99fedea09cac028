// The forced ISA, and names of ukernels.
#include <cstdlib>
#include <set>

#include "shared_layer.h"

namespace pconv_test {
namespace {

// Sets PCONV_FORCE_ISA for its lifetime.
class ForcedIsa {
 public:
  explicit ForcedIsa(const char* value) { setenv("PCONV_FORCE_ISA", value, 1); }
  ~ForcedIsa() { old_.empty() ? unsetenv("PCONV_FORCE_ISA") : setenv("PCONV_FORCE_ISA", old_.c_str(), 1); }

 private:
  std::string old_ = getenv("PCONV_FORCE_ISA") ? getenv("PCONV_FORCE_ISA") : "";
};

TEST(forced_isa_that_does_not_exist) {
  const Bench bench;
  for (const char* name : {"avx9", "AVX512", "scalar ", "neon,avx512"}) {
    const ForcedIsa forced(name);
    set_context(format("PCONV_FORCE_ISA=%s", name));
    const char* got = nullptr;
    CHECK(pconv_get_isa(&got) == PCONV_UNAVAILABLE, "it was accepted");
    const pconv_plan_options plan_options = {1, 8, 8, PCONV_NCHW, nullptr, nullptr, 0, 0};
    pconv_plan* p = nullptr;
    CHECK(pconv_plan_conv(bench.packed.get(), &plan_options, &p) == PCONV_UNAVAILABLE, "a plan was made");
    const std::string text = pconv_last_error();
    CHECK(text.find("PCONV_FORCE_ISA") != std::string::npos, "the text does not name the variable: %s", text.c_str());
    pconv_isa_info isa{};
    for (int i = 0; pconv_list_isa(i, &isa); ++i) {
      const bool listed = text.find(isa.name, text.find(':')) != std::string::npos;
      CHECK(!isa.supported || listed, "the text does not list %s: %s", isa.name, text.c_str());
    }
  }
}

TEST(forced_isa_runs) {
  const Bench bench;
  pconv_isa_info isa{};
  for (int i = 0; pconv_list_isa(i, &isa); ++i) {
    const ForcedIsa forced(isa.name);
    set_context(format("PCONV_FORCE_ISA=%s", isa.name));
    const char* got = nullptr;
    const pconv_status status = pconv_get_isa(&got);
    if (!isa.supported) {
      CHECK(status == PCONV_UNAVAILABLE, "an ISA that this CPU lacks: %s", pconv_status_name(status));
      continue;
    }
    REQUIRE(status == PCONV_OK && got == std::string(isa.name), "%s", pconv_last_error());
    const Plan p = plan(bench.packed, {1, 40, 40, PCONV_NCHW, "", ""});
    const pconv_plan_info info = query(p);
    CHECK(info.isa == std::string(isa.name), "the plan is for %s", info.isa);
    const std::string ukernel = info.ukernel, suffix = std::string("_") + isa.name;
    CHECK(ukernel.size() > suffix.size() && ukernel.substr(ukernel.size() - suffix.size()) == suffix, "it runs %s",
          ukernel.c_str());
  }
}

// Every name in the table parses back to its parameters: f32_<body>[_s<stride>|<block>]_<rows>x<vectors>_<isa>.
TEST(ukernel_names_parse_back) {
  pconv_ukernel_info row{};
  std::set<std::string> names;
  for (int n = 0; pconv_list_ukernel(n, &row); ++n) {
    char body[16] = "", isa[16] = "";
    int stride = 0, block = 0, rows = 0, vectors = 0;
    const std::string name = row.name;
    const bool strided =
        std::sscanf(row.name, "f32_%15[a-z0-9]_s%d_%dx%d_%15s", body, &stride, &rows, &vectors, isa) == 5;
    const bool blocked =
        !strided && std::sscanf(row.name, "f32_%15[a-z]%d_%dx%d_%15s", body, &block, &rows, &vectors, isa) == 5;
    const bool plain =
        !strided && !blocked && std::sscanf(row.name, "f32_%15[a-z]_%dx%d_%15s", body, &rows, &vectors, isa) == 4;
    CHECK(strided || blocked || plain, "%s does not parse", row.name);
    CHECK(body == std::string(row.body) && isa == std::string(row.isa) && rows == row.rows && vectors == row.vectors &&
              stride == row.stride && block == row.block,
          "%s is not what its parameters say", row.name);
    CHECK(row.lanes >= 1, "%s has %d lanes", row.name, row.lanes);
    CHECK(names.insert(name).second, "%s stands twice", row.name);
  }
  CHECK(!names.empty(), "the table is empty");
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, nullptr); }
