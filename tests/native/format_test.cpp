// Packed bytes: round trips, damage of every kind, layers built by hand from docs/FORMAT.md, the golden file.
// The rules one by one are in rules_test.cpp.
#include <algorithm>
#include <fstream>
#include <iterator>

#include "packed_bytes.h"
#include "reference.h"

namespace pconv_test {
namespace {

constexpr const char* kGoldenFile = PCONV_TEST_DATA_DIR "/packed_v1_small.bin";

std::vector<float> unpack(const Packed& packed, std::vector<float>* bias) {
  pconv_packed_info info{};
  REQUIRE(pconv_query_packed(packed.get(), &info) == PCONV_OK, "query: %s", pconv_last_error());
  const pconv_conv_desc& d = info.conv;
  std::vector<float> weights(static_cast<size_t>(d.out_channels * (d.in_channels / d.groups) * d.kernel_h * d.kernel_w),
                             kNaN);
  bias->assign(info.has_bias ? static_cast<size_t>(d.out_channels) : 0, kNaN);
  const pconv_status status =
      pconv_unpack_weights(packed.get(), weights.data(), bias->empty() ? nullptr : bias->data());
  REQUIRE(status == PCONV_OK, "unpack: %s", pconv_last_error());
  return weights;
}

// Bit for bit, zeros of either sign alike.
void check_equal(const std::vector<float>& got, const std::vector<float>& want, const char* what) {
  REQUIRE(got.size() == want.size(), "%s: %zu values, expected %zu", what, got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    CHECK(same_up_to_zero_sign(got[i], want[i]), "%s[%zu]: %g, expected %g", what, i, static_cast<double>(got[i]),
          static_cast<double>(want[i]));
  }
}

Layer random_layer(Rng& rng, int64_t kernel_h, int64_t kernel_w, int64_t groups) {
  Layer layer;
  const int64_t oc = groups * rng.between(1, 9), ic = groups * rng.between(1, 9);
  layer.conv = {oc, ic, groups, kernel_h, kernel_w, rng.between(1, 3), 1, 1, 2, 0, 1, 2, 3};
  layer.weights.assign(static_cast<size_t>(oc * (ic / groups) * layer.taps()), 0.0f);
  constexpr float kOdd[] = {kNaN, kInf, -kInf, 0x1p-149f, -0x1p-140f, 3e38f, -0.0f, 1.0f};
  for (float& w : layer.weights) {
    if (rng.chance(0.4)) w = rng.chance(0.1) ? rng.pick(kOdd) : static_cast<float>(rng.unit() - 0.5);
  }
  if (rng.chance(0.5)) layer.bias.assign(static_cast<size_t>(oc), -1.5f);
  return layer;
}

void check_round_trip(const Layer& layer) {
  const Packed packed = pack(layer);
  const Bytes bytes = bytes_of(packed);
  Packed read;
  REQUIRE(read_bytes(bytes, &read) == PCONV_OK, "read: %s", pconv_last_error());
  CHECK(bytes_of(read) == bytes, "the bytes changed on the way");
  std::vector<float> bias;
  check_equal(unpack(read, &bias), layer.weights, "weights");
  check_equal(bias, layer.bias, "bias");
  pconv_packed_info info{};
  REQUIRE(pconv_query_packed(read.get(), &info) == PCONV_OK, "query: %s", pconv_last_error());
  CHECK(std::memcmp(&info.conv, &layer.conv, sizeof info.conv) == 0, "the description changed on the way");
  int64_t nonzero = 0;
  for (float w : layer.weights) nonzero += w != 0.0f;
  CHECK(info.n_weights == nonzero, "%lld weights, expected %lld", static_cast<long long>(info.n_weights),
        static_cast<long long>(nonzero));
}

TEST(round_trip_is_bit_exact) {
  constexpr int64_t kKernels[][2] = {{3, 3}, {1, 1}, {5, 5}, {1, 7}, {7, 2}, {11, 11}, {32, 32}};
  Rng rng(options().seed);
  for (int i = 0; i < (options().soak ? 500 : 50); ++i) {
    const auto& kernel = kKernels[i % 7];
    set_context(
        format("layer %d kernel %lldx%lld", i, static_cast<long long>(kernel[0]), static_cast<long long>(kernel[1])));
    check_round_trip(random_layer(rng, kernel[0], kernel[1], rng.between(1, 3)));
  }
}

TEST(round_trip_of_a_layer_without_kernels) {
  Layer layer = make_layer(3, 2, 1, 1);
  check_round_trip(layer);
  layer.weights[0] = -0.0f;
  layer.bias = {1.0f, kNaN, -0.0f};
  check_round_trip(layer);
}

// Of 8 filters and 6 channels, about 1.2 KB packed.
Bytes small_layer_bytes() {
  Rng rng(99);
  Layer layer = make_layer(8, 6, 1, 1);
  constexpr int kMasks[] = {0x03a, 0x09a, 0x0b8, 0x0b2, 0x155};
  for (int64_t o = 0; o < 8; ++o) {
    for (int64_t i = 0; i < 6; ++i) {
      const int mask = rng.chance(0.7) ? rng.pick(kMasks) : 0;
      for (int k = 0; k < 9; ++k) layer.kernel(o, i)[k] = (mask >> k & 1) ? static_cast<float>(rng.unit() + 0.1) : 0.0f;
    }
  }
  layer.bias.assign(8, 0.25f);
  return bytes_of(pack(layer));
}

// Accepted bytes must be read back as they are, unpack, and plan and run (or say why not) without touching foreign
// memory.
void check_accepted(const Packed& packed, const Bytes& bytes) {
  CHECK(bytes_of(packed) == bytes, "accepted bytes read back differently");
  pconv_packed_info info{};
  REQUIRE(pconv_query_packed(packed.get(), &info) == PCONV_OK, "query: %s", pconv_last_error());
  if (info.conv.in_channels > 2048) return;  // valid, but the tensors grow
  std::vector<float> bias;
  unpack(packed, &bias);
  const pconv_plan_options plan_options = {1, 5, 6, PCONV_NCHW, nullptr, nullptr, 0, 0};
  pconv_plan* raw = nullptr;
  if (pconv_plan_conv(packed.get(), &plan_options, &raw) != PCONV_OK) return;
  const Plan p(raw);
  const pconv_plan_info shape = query(p);
  if (shape.out_channels * shape.out_h * shape.out_w > 100000) return;  // padding made it large
  const std::vector<float> x(static_cast<size_t>(shape.in_channels * 5 * 6), 1.0f);
  std::vector<float> y(static_cast<size_t>(shape.out_channels * shape.out_h * shape.out_w));
  run(p, {x.data(), nullptr, y.data(), -kInf, kInf, 1});
}

// Calls check(damaged) for each change of one byte: all values in soak, else single bits, 0x00 and 0xff.
template <typename Check>
void for_each_damage(const Bytes& bytes, Check check) {
  Bytes damaged = bytes;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int change = 1; change < 256; ++change) {
      const uint8_t value = static_cast<uint8_t>(bytes[i] ^ change);
      const bool chosen = (change & (change - 1)) == 0 || value == 0x00 || value == 0xff;
      if (!options().soak && !chosen) continue;
      set_context(format("byte %zu of %zu: 0x%02x -> 0x%02x", i, bytes.size(), bytes[i], value));
      damaged[i] = value;
      check(damaged, i);
    }
    damaged[i] = bytes[i];
  }
}

TEST(every_single_byte_change_is_noticed) {
  const Bytes bytes = small_layer_bytes();
  Packed packed;
  for_each_damage(bytes, [&](const Bytes& damaged, size_t) {
    const pconv_status status = read_bytes(damaged, &packed);
    CHECK(status == PCONV_BAD_FORMAT, "%s", pconv_status_name(status));
  });
}

TEST(every_single_byte_change_with_a_right_checksum_is_safe) {
  const Bytes bytes = small_layer_bytes();
  int n_accepted = 0, n_refused = 0;
  for_each_damage(bytes, [&](const Bytes& damaged, size_t place) {
    if (place >= 24 && place < 28) return;  // the checksum itself
    Bytes fixed = damaged;
    fix_crc(fixed);
    Packed packed;
    const pconv_status status = read_bytes(fixed, &packed);
    CHECK(status == PCONV_OK || status == PCONV_BAD_FORMAT, "%s", pconv_status_name(status));
    ++(status == PCONV_OK ? n_accepted : n_refused);
    if (status == PCONV_OK) check_accepted(packed, fixed);
  });
  printf("  %zu bytes: %d changes accepted, %d refused\n", bytes.size(), n_accepted, n_refused);
  CHECK(n_accepted > 1000 && n_refused > 1000, "%d accepted, %d refused", n_accepted, n_refused);
}

TEST(every_truncation_and_trailing_bytes_are_noticed) {
  const Bytes bytes = small_layer_bytes();
  Packed packed;
  for (size_t size = 0; size <= bytes.size() + 16; ++size) {
    if (size == bytes.size()) continue;
    for (const bool fix : {false, true}) {
      Bytes cut = bytes;
      cut.resize(size, 0);
      if (fix) fix_crc(cut);
      set_context(format("%zu of %zu bytes", size, bytes.size()));
      const pconv_status status = read_bytes(cut, &packed);
      CHECK(status == PCONV_BAD_FORMAT, "%s", pconv_status_name(status));
    }
  }
}

// The layer computes what its dense weights say; for finite weights.
void check_output(const PackedBuilder& b, const Packed& packed, const std::vector<float>& weights) {
  Layer layer = make_layer(b.out_channels, b.in_channels, b.groups, b.pad);
  layer.weights = weights;
  layer.bias = b.bias;
  Target t{1, 9, 20, PCONV_NCHW, options().isa, ""};
  std::vector<float> x(static_cast<size_t>(b.in_channels * t.h * t.w));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 5 % 11) - 5.0f;
  const Reference r = reference_conv(layer, t, x.data(), nullptr);
  std::vector<float> y(r.y.size(), kNaN);
  run(plan(packed, t), {x.data(), nullptr, y.data(), -kInf, kInf, 1});
  for (size_t i = 0; i < y.size(); ++i) {
    const double error = std::fabs(static_cast<double>(y[i]) - r.y[i]);
    CHECK(error <= error_bound(r, i, false), "output %zu: got %g, expected %g", i, static_cast<double>(y[i]), r.y[i]);
  }
}

void check_builder(const PackedBuilder& b, const std::vector<float>& values) {
  const Bytes bytes = b.bytes();
  Packed packed;
  REQUIRE(read_bytes(bytes, &packed) == PCONV_OK, "read: %s", pconv_last_error());
  std::vector<float> bias;
  const std::vector<float> weights = dense_weights(b, values);
  check_equal(unpack(packed, &bias), weights, "weights");
  check_equal(bias, b.bias, "bias");
  check_accepted(packed, bytes);
  const bool finite = std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
  if (b.kernel_h == 3 && b.kernel_w == 3 && finite) check_output(b, packed, weights);
}

TEST(hand_built_sample) {
  const PackedBuilder b = sample_builder();
  check_builder(b, b.weights);
}

TEST(hand_built_zero_and_special_weights) {
  PackedBuilder b = sample_builder();
  b.weights[0] = 0.0f;
  b.weights[1] = -0.0f;
  b.weights[2] = kNaN;
  b.weights[3] = -kInf;
  check_builder(b, b.weights);
}

TEST(hand_built_block_2) {
  PackedBuilder b = sample_builder();
  b.block = 2;
  b.kernel_start = {0, 3, 4};
  b.run_start = {0, 2, 3};
  b.runs = {{0, 2}, {1, 1}, {2, 1}};
  b.channels = {0, 2, 1, 1};
  b.weights.resize(2 * (3 * 4 + 9));
  for (size_t i = 0; i < b.weights.size(); ++i) b.weights[i] = static_cast<float>(i) - 20.5f;
  check_builder(b, b.weights);
}

TEST(hand_built_fp16_weights) {
  PackedBuilder b = sample_builder();
  const size_t size = b.weights.size();
  b.weights.clear();
  b.fp16 = true;
  constexpr uint16_t kHalves[] = {0x3c00, 0xc000, 0x3555, 0x0001, 0x8001, 0x03ff,
                                  0x0400, 0x7bff, 0x7c00, 0xfc00, 0x0000};
  constexpr float kFloats[] = {1.0f,     -2.0f,    0x1.554p-2f, 0x1p-24f, -0x1p-24f, 0x3ffp-24f,
                               0x1p-14f, 65504.0f, kInf,        -kInf,    0.0f};
  for (const size_t n_halves : {std::size(kHalves), size_t{8}}) {  // with and without infinities
    std::vector<float> values;
    b.weights16.clear();
    for (size_t i = 0; i < size; ++i) {
      b.weights16.push_back(kHalves[i % n_halves]);
      values.push_back(kFloats[i % n_halves]);
    }
    check_builder(b, values);
  }
}

TEST(hand_built_large_kernels) {
  PackedBuilder b;
  b.kernel_h = b.kernel_w = 5;
  b.pad = 2;
  b.masks = {uint64_t{1} << 24 | 1, 0x1ffffff};
  b.in_channels = 3;
  b.filter_order = {0};
  b.kernel_start = {0, 2};
  b.run_start = {0, 2};
  b.runs = {{1, 1}, {0, 1}};
  b.channels = {2, 0};
  for (int i = 0; i < 27; ++i) b.weights.push_back(static_cast<float>(i) + 0.5f);
  check_builder(b, b.weights);

  b.kernel_h = b.kernel_w = 11;  // two words a mask; the last bit is 120
  b.pad = 5;
  b.masks = {uint64_t{1} << 63 | 4, 1, 0, uint64_t{1} << 56};
  b.runs = {{1, 1}, {0, 1}};
  b.weights.assign({1.5f, 2.5f, 3.5f, 4.5f});
  check_builder(b, b.weights);
  b.masks[3] |= uint64_t{1} << 57;  // bit 121: beyond the kernel
  b.weights.push_back(1.0f);
  Packed packed;
  CHECK(read_bytes(b.bytes(), &packed) == PCONV_BAD_FORMAT, "bit 121 of an 11x11 mask was accepted");
}

TEST(newer_minor_version_is_read) {
  for (const size_t header : {size_t{0}, size_t{8}, size_t{64}}) {
    for (const size_t section : {size_t{0}, size_t{8}, size_t{4096}}) {
      PackedBuilder b = sample_builder();
      b.minor = header % 16 == 8 ? 1 : 7;
      b.extra_header = header;
      b.extra_section = section;
      set_context(format("minor %d, header + %zu, %zu bytes more", b.minor, header, section));
      check_builder(b, b.weights);
    }
  }
}

// The layer of the golden file: kernel [filter][channel of the group], nine values; all others are empty.
struct GoldenKernel {
  int64_t filter, channel;
  float taps[9];
};
constexpr GoldenKernel kGoldenKernels[] = {{0, 0, {0, 1.5f, 0, -2, 3, 0.25f, 0, 0, 0}},
                                           {0, 2, {0, 4, 0, 5, 6, 7, 0, 0, 0}},
                                           {0, 1, {0, 0, 0, 0.125f, -1, 1, 0, 9, 0}},
                                           {1, 2, {0, 8, 0, 0, 0.5f, 0.75f, 0, -0.0625f, 0}},
                                           {3, 0, {1, 2, 3, 4, 5, 6, 7, 8, 9}},
                                           {3, 1, {0, -1, 0, -2, -3, -4, 0, 0, 0}},
                                           {4, 1, {1e30f, 0, 0, 0, 0, 0, 0, 0, 0x1p-140f}},
                                           {5, 0, {0, 1, 0, 1, 1, 1, 0, 0, 0}},
                                           {5, 2, {0, 2, 0, 2, 2, 2, 0, 0, 0}},
                                           {5, 1, {0, 0, 0, 3, 3, 3, 0, 3, 0}}};

Layer golden_layer() {
  Layer layer = make_layer(6, 6, 2, 1);
  layer.conv.pad_top = 0;
  layer.conv.pad_right = 2;
  for (const GoldenKernel& k : kGoldenKernels) std::copy(k.taps, k.taps + 9, layer.kernel(k.filter, k.channel));
  layer.bias = {0.5f, -0.5f, 1.0f, -1.0f, 2.0f, -2.0f};
  return layer;
}

TEST(golden_file) {
  const Layer want = golden_layer();
  if (!options().golden.empty()) {
    const Bytes bytes = bytes_of(pack(want));
    std::ofstream(options().golden, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  std::ifstream file(kGoldenFile, std::ios::binary);
  const Bytes bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  REQUIRE(!bytes.empty(), "cannot read %s", kGoldenFile);
  Packed packed;
  REQUIRE(read_bytes(bytes, &packed) == PCONV_OK, "read: %s", pconv_last_error());
  CHECK(bytes_of(packed) == bytes, "the bytes changed on the way");
  std::vector<float> bias;
  check_equal(unpack(packed, &bias), want.weights, "weights");
  check_equal(bias, want.bias, "bias");
  pconv_packed_info info{};
  REQUIRE(pconv_query_packed(packed.get(), &info) == PCONV_OK, "query: %s", pconv_last_error());
  CHECK(std::memcmp(&info.conv, &want.conv, sizeof info.conv) == 0, "the description differs");
  CHECK(info.n_kernels == 10 && info.n_patterns == 5 && info.n_weights == 43 && info.block == 1 && info.mask_words == 1,
        "%lld kernels, %lld patterns, %lld weights", static_cast<long long>(info.n_kernels),
        static_cast<long long>(info.n_patterns), static_cast<long long>(info.n_weights));
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, nullptr); }
