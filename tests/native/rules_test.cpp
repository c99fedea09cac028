// One test per rule of docs/FORMAT.md: bytes that break just this rule, with a right checksum, are refused with a text
// that names the field.
#include <functional>

#include "packed_bytes.h"

namespace pconv_test {
namespace {

void expect_refused(const Bytes& bytes, const std::string& names) {
  Packed packed;
  const pconv_status status = read_bytes(bytes, &packed);
  REQUIRE(status == PCONV_BAD_FORMAT, "%s instead of PCONV_BAD_FORMAT", pconv_status_name(status));
  CHECK(packed == nullptr, "a refused layer was returned");
  const std::string text = pconv_last_error();
  CHECK(text.find(names) != std::string::npos, "the text does not name %s: %s", names.c_str(), text.c_str());
}

// Header fields set to a value in an otherwise valid layer. `names`: another field that the reader may find first.
struct HeaderRule {
  const char* field;
  uint64_t value;
  const char* names = nullptr;
};

constexpr HeaderRule kHeaderRules[] = {
    {"magic", 0x0a4b50564e4f4350ull ^ 0x20},
    {"version_major", 0, "version"},
    {"version_major", 2, "version"},
    {"header_bytes", 0},
    {"header_bytes", 120},
    {"header_bytes", 132},
    {"header_bytes", 136},
    {"header_bytes", 0xfffffff8u},
    {"total_bytes", 0},
    {"total_bytes", 128},
    {"total_bytes", 1 << 20},
    {"total_bytes", ~uint64_t{0}},
    {"flags", 2},
    {"flags", 3},
    {"flags", 0x80000001u},
    {"out_channels", 0},
    {"out_channels", (1u << 24) + 2},
    {"in_channels", 0},
    {"in_channels", (1u << 24) + 2},
    {"in_channels", 2 * 65536},
    {"groups", 0},
    {"groups", 3},
    {"groups", 4},
    {"groups", 0xffffffffu},
    {"kernel_h", 0},
    {"kernel_h", 33},
    {"kernel_w", 0},
    {"kernel_w", 33},
    {"kernel_w", 0xffffffffu},
    {"stride_h", 0},
    {"stride_h", 65536},
    {"stride_w", 0},
    {"stride_w", 0xffffffffu},
    {"dilation_h", 0},
    {"dilation_h", 65536},
    {"dilation_w", 0},
    {"dilation_w", 65536},
    {"pad_top", 65536},
    {"pad_left", 65536},
    {"pad_bottom", 65536},
    {"pad_right", 0xffffffffu},
    {"block", 0},
    {"block", 3},
    {"block", 4},
    {"weight_type", 2},
    {"weight_type", 0xffffffffu},
    {"n_kernels", uint64_t{1} << 32},
    {"n_kernels", ~uint64_t{0}},
    {"n_runs", uint64_t{1} << 32},
    {"n_runs", ~uint64_t{0}},
    {"reserved", 1},
    {"reserved", uint64_t{1} << 63},
    // Lengths that no longer fit the bytes.
    {"n_patterns", 4, "total_bytes"},
    {"n_patterns", 0xffffffffu},
    {"n_weights", 40, "total_bytes"},
    {"n_weights", ~uint64_t{0}, "total_bytes"},
    {"n_weights", uint64_t{1} << 62, "total_bytes"},
    {"flags", 0, "total_bytes"},
    {"weight_type", 1, "total_bytes"},
};

void check_header_rule(const HeaderRule& rule) {
  Bytes bytes = sample_builder().bytes();
  const HeaderField& field = header_field(rule.field);
  put(bytes, field.offset, rule.value, field.width);
  fix_crc(bytes);
  set_context(format("%s = %llu", rule.field, static_cast<unsigned long long>(rule.value)));
  expect_refused(bytes, rule.names ? rule.names : rule.field);
}

// Rules about the sections: a change of the arrays and the field that the text must name.
struct SectionRule {
  const char* name;
  const char* names;
  std::function<void(PackedBuilder&)> change;
};

const std::vector<SectionRule>& section_rules() {
  using B = PackedBuilder;
  static const std::vector<SectionRule> rules = {
      {"masks_empty", "masks", [](B& b) { b.masks[1] = 0; }},
      {"masks_beyond_the_kernel", "masks", [](B& b) { b.masks[1] = 0x200 | 0x032; }},
      {"masks_highest_bit", "masks", [](B& b) { b.masks[1] |= uint64_t{1} << 63; }},
      {"masks_equal", "masks", [](B& b) { b.masks[1] = b.masks[0]; }},
      {"masks_unused", "masks", [](B& b) { b.masks.push_back(0x00f); }},
      {"filter_order_out_of_range", "filter_order", [](B& b) { b.filter_order[3] = 4; }},
      {"filter_order_huge", "filter_order", [](B& b) { b.filter_order[0] = 0xffffffffu; }},
      {"filter_order_twice", "filter_order", [](B& b) { b.filter_order[0] = 0; }},
      {"filter_order_leaves_its_group", "filter_order", [](B& b) { std::swap(b.filter_order[1], b.filter_order[2]); }},
      {"kernel_start_not_from_zero", "kernel_start", [](B& b) { b.kernel_start[0] = 1; }},
      {"kernel_start_falls", "kernel_start", [](B& b) { b.kernel_start[2] = 2; }},
      {"kernel_start_beyond_the_end", "kernel_start", [](B& b) { b.kernel_start[1] = 0xffffffffu; }},
      {"kernel_start_short_of_the_end", "kernel_start", [](B& b) { b.kernel_start[4] = 6; }},
      {"run_start_not_from_zero", "run_start", [](B& b) { b.run_start[0] = 1; }},
      {"run_start_falls", "run_start", [](B& b) { b.run_start[2] = 1; }},
      {"run_start_beyond_the_end", "run_start", [](B& b) { b.run_start[1] = 0xffffffffu; }},
      {"run_start_short_of_the_end", "run_start", [](B& b) { b.run_start[4] = 4; }},
      {"runs_pattern_out_of_range", "runs", [](B& b) { b.runs[0].pattern = 3; }},
      {"runs_pattern_huge", "runs", [](B& b) { b.runs[4].pattern = 0xffffffffu; }},
      {"runs_without_kernels", "runs", [](B& b) { b.runs[1].n_kernels = 0; }},
      {"runs_fewer_kernels_than_the_unit", "runs", [](B& b) { b.runs[0].n_kernels = 1; }},
      {"runs_more_kernels_than_the_unit", "runs",
       [](B& b) { b.runs[0].n_kernels = 3, b.channels = {0, 1, 2, 0, 2, 0, 1}; }},
      {"runs_huge", "runs", [](B& b) { b.runs[0].n_kernels = 0xffffffffu; }},
      {"runs_sum_wraps", "runs", [](B& b) { b.runs[3].n_kernels = 0xffffffffu, b.runs[4].n_kernels = 4; }},
      {"runs_pattern_twice_in_a_unit", "runs", [](B& b) { b.runs[1].pattern = 0; }},
      {"channels_out_of_range", "channels", [](B& b) { b.channels[1] = 3; }},
      {"channels_huge", "channels", [](B& b) { b.channels[3] = 0xffff; }},
      {"channels_fall_inside_a_run", "channels", [](B& b) { std::swap(b.channels[0], b.channels[1]); }},
      {"channels_equal_inside_a_run", "channels", [](B& b) { b.channels[0] = 2; }},
      {"channels_twice_in_a_unit", "channels", [](B& b) { b.channels[2] = 0; }},
      {"weights_one_too_many", "n_weights", [](B& b) { b.weights.push_back(1), b.weights.push_back(1); }},
      {"weights_one_missing", "n_weights", [](B& b) { b.weights.resize(36); }},
      {"gap_not_zero", "padding", [](B& b) { b.gap_byte = 1; }},
      {"header_longer_in_minor_0", "header_bytes", [](B& b) { b.extra_header = 8; }},
      {"section_added_in_minor_0", "total_bytes", [](B& b) { b.extra_section = 8; }},
      {"block_larger_than_a_group", "block", [](B& b) { b.block = 4; }},
  };
  return rules;
}

TEST(valid_sample_is_accepted) {
  Packed packed;
  const pconv_status status = read_bytes(sample_builder().bytes(), &packed);
  CHECK(status == PCONV_OK, "%s: %s", pconv_status_name(status), pconv_last_error());
}

TEST(crc32_is_checked) {
  for (size_t i = 24; i < 28; ++i) {
    Bytes bytes = sample_builder().bytes();
    bytes[i] = static_cast<uint8_t>(bytes[i] ^ 0x10);
    set_context(format("byte %zu", i));
    expect_refused(bytes, "crc32");
  }
}

TEST(shorter_than_a_header) {
  const Bytes bytes = sample_builder().bytes();
  for (size_t size = 0; size < 128; ++size) {
    set_context(format("%zu bytes", size));
    expect_refused(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)), "128");
  }
}

TEST(null_arguments) {
  const Bytes bytes = sample_builder().bytes();
  pconv_packed* packed = nullptr;
  CHECK(pconv_read_packed(nullptr, 0, &packed) == PCONV_INVALID_ARGUMENT, "null bytes: %s", pconv_last_error());
  CHECK(pconv_read_packed(nullptr, 200, &packed) == PCONV_INVALID_ARGUMENT, "null bytes: %s", pconv_last_error());
  CHECK(pconv_read_packed(bytes.data(), bytes.size(), nullptr) == PCONV_INVALID_ARGUMENT, "null result: %s",
        pconv_last_error());
}

void add_tests() {
  for (const HeaderRule& rule : kHeaderRules) {
    const std::string name = format("header/%s=%llu", rule.field, static_cast<unsigned long long>(rule.value));
    state().tests.push_back({name, [&rule] { check_header_rule(rule); }});
  }
  for (const SectionRule& rule : section_rules()) {
    state().tests.push_back({std::string("section/") + rule.name, [&rule] {
                               PackedBuilder b = sample_builder();
                               rule.change(b);
                               expect_refused(b.bytes(), rule.names);
                             }});
  }
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, pconv_test::add_tests); }
