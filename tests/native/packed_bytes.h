// Builds packed bytes by hand from docs/FORMAT.md alone, so that reader and writer of the library are tested against
// the page and not against each other. Every field may be set to nonsense; bytes() adds the sections, gaps and
// checksum.
#ifndef PCONV_TESTS_NATIVE_PACKED_BYTES_H_
#define PCONV_TESTS_NATIVE_PACKED_BYTES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "support.h"

namespace pconv_test {

using Bytes = std::vector<uint8_t>;

// zlib's CRC-32; the four bytes at 24 count as zero.
inline uint32_t crc_of(const Bytes& bytes) {
  static const std::vector<uint32_t> table = [] {
    std::vector<uint32_t> entries(256);
    for (uint32_t i = 0; i < 256; ++i) {
      entries[i] = i;
      for (int bit = 0; bit < 8; ++bit) entries[i] = (entries[i] >> 1) ^ ((entries[i] & 1) ? 0xedb88320u : 0u);
    }
    return entries;
  }();
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < bytes.size(); ++i) {
    crc = (crc >> 8) ^ table[(crc ^ (i >= 24 && i < 28 ? 0u : bytes[i])) & 0xff];
  }
  return ~crc;
}

// Writes the low `width` bytes of `value` at `offset`, little-endian.
inline void put(Bytes& bytes, size_t offset, uint64_t value, size_t width) {
  for (size_t i = 0; i < width; ++i) bytes[offset + i] = static_cast<uint8_t>(value >> (8 * i));
}
inline void fix_crc(Bytes& bytes) {
  if (bytes.size() >= 28) put(bytes, 24, crc_of(bytes), 4);
}

struct HeaderField {
  const char* name;
  size_t offset, width;
};
constexpr HeaderField kHeaderFields[] = {
    {"magic", 0, 8},        {"version_major", 8, 2}, {"version_minor", 10, 2}, {"header_bytes", 12, 4},
    {"total_bytes", 16, 8}, {"crc32", 24, 4},        {"flags", 28, 4},         {"out_channels", 32, 4},
    {"in_channels", 36, 4}, {"groups", 40, 4},       {"kernel_h", 44, 4},      {"kernel_w", 48, 4},
    {"stride_h", 52, 4},    {"stride_w", 56, 4},     {"dilation_h", 60, 4},    {"dilation_w", 64, 4},
    {"pad_top", 68, 4},     {"pad_left", 72, 4},     {"pad_bottom", 76, 4},    {"pad_right", 80, 4},
    {"block", 84, 4},       {"weight_type", 88, 4},  {"n_patterns", 92, 4},    {"n_kernels", 96, 8},
    {"n_runs", 104, 8},     {"n_weights", 112, 8},   {"reserved", 120, 8}};

inline const HeaderField& header_field(const std::string& name) {
  for (const HeaderField& field : kHeaderFields) {
    if (field.name == name) return field;
  }
  REQUIRE(false, "no header field %s", name.c_str());
  return kHeaderFields[0];
}

struct PackedRun {
  uint32_t pattern, n_kernels;
};

// A layer as arrays of the page. Counts in the header follow from the arrays.
struct PackedBuilder {
  uint32_t out_channels = 1, in_channels = 1, groups = 1, kernel_h = 3, kernel_w = 3, pad = 1, block = 1;
  bool fp16 = false;
  std::vector<uint64_t> masks;  // mask_words each
  std::vector<uint32_t> filter_order, kernel_start, run_start;
  std::vector<PackedRun> runs;
  std::vector<uint16_t> channels, weights16;
  std::vector<float> weights, bias;
  uint16_t minor = 0;
  size_t extra_header = 0, extra_section = 0;  // bytes a later minor version appended
  uint8_t gap_byte = 0;                        // what fills the bytes between sections

  size_t mask_words() const { return (size_t{kernel_h} * kernel_w + 63) / 64; }

  Bytes bytes() const {
    Bytes out(128 + extra_header, 0);
    std::memset(out.data() + 128, 0xab, extra_header);
    append(out, masks);
    append(out, filter_order);
    append(out, kernel_start);
    append(out, run_start);
    append(out, runs);
    append(out, channels);
    fp16 ? append(out, weights16) : append(out, weights);
    append(out, bias);
    out.insert(out.end(), extra_section, 0xcd);
    write_header(out);
    fix_crc(out);
    return out;
  }

 private:
  template <typename T>
  void append(Bytes& out, const std::vector<T>& section) const {
    const auto* begin = reinterpret_cast<const uint8_t*>(section.data());
    out.insert(out.end(), begin, begin + section.size() * sizeof(T));
    while (out.size() % 8 != 0) out.push_back(gap_byte);
  }

  void write_header(Bytes& out) const {
    const uint64_t values[] = {0,
                               1,
                               minor,
                               128 + extra_header,
                               out.size(),
                               0,
                               bias.empty() ? 0u : 1u,
                               out_channels,
                               in_channels,
                               groups,
                               kernel_h,
                               kernel_w,
                               1,
                               1,
                               1,
                               1,
                               pad,
                               pad,
                               pad,
                               pad,
                               block,
                               fp16 ? 1u : 0u,
                               masks.size() / mask_words(),
                               channels.size(),
                               runs.size(),
                               fp16 ? weights16.size() : weights.size(),
                               0};
    for (size_t i = 0; i < std::size(values); ++i) {
      if (i > 0) put(out, kHeaderFields[i].offset, values[i], kHeaderFields[i].width);
    }
    std::memcpy(out.data(), "PCONVPK\n", 8);
  }
};

// Two groups of two filters, one of them empty; filters 0 and 1 of the first group change places; three masks.
inline PackedBuilder sample_builder() {
  PackedBuilder b;
  b.out_channels = 4;
  b.in_channels = 6;
  b.groups = 2;
  b.masks = {0x03a, 0x0b2, 0x1ff};
  b.filter_order = {1, 0, 2, 3};
  b.kernel_start = {0, 3, 4, 4, 7};
  b.run_start = {0, 2, 3, 3, 5};
  b.runs = {{0, 2}, {1, 1}, {1, 1}, {0, 1}, {2, 2}};
  b.channels = {0, 2, 1, 0, 2, 0, 1};
  for (int i = 0; i < 3 * 4 + 4 + 4 + 2 * 9; ++i) b.weights.push_back(static_cast<float>(i + 1) * 0.375f);
  b.bias = {0.5f, -1.0f, 2.0f, 3.0f};
  return b;
}

// The dense OIHW weights that the arrays mean; `values` are the weights of the section as fp32.
inline std::vector<float> dense_weights(const PackedBuilder& b, const std::vector<float>& values) {
  const size_t taps = size_t{b.kernel_h} * b.kernel_w, group_in = b.in_channels / b.groups, words = b.mask_words();
  std::vector<float> dense(b.out_channels * group_in * taps, 0.0f);
  size_t next = 0;
  for (size_t unit = 0; unit * b.block < b.out_channels; ++unit) {
    size_t kernel = b.kernel_start[unit];
    for (size_t r = b.run_start[unit]; r < b.run_start[unit + 1]; ++r) {
      for (size_t end = kernel + b.runs[r].n_kernels; kernel < end; ++kernel) {
        for (size_t f = 0; f < b.block; ++f) {
          const size_t filter = b.filter_order[unit * b.block + f];
          for (size_t tap = 0; tap < taps; ++tap) {
            if ((b.masks[b.runs[r].pattern * words + tap / 64] >> (tap % 64) & 1) == 0) continue;
            dense[(filter * group_in + b.channels[kernel]) * taps + tap] = values[next++];
          }
        }
      }
    }
  }
  REQUIRE(next == values.size(), "the sample has %zu weights, %zu used", values.size(), next);
  return dense;
}

// Reads the bytes from a private copy of exactly their size, so that a sanitizer sees a read behind the end.
inline pconv_status read_bytes(const Bytes& bytes, Packed* packed) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes.size()]);
  std::copy(bytes.begin(), bytes.end(), exact.get());
  pconv_packed* p = nullptr;
  const pconv_status status = pconv_read_packed(exact.get(), bytes.size(), &p);
  packed->reset(p);
  return status;
}

inline Bytes bytes_of(const Packed& packed) {
  const void* data = nullptr;
  size_t size = 0;
  REQUIRE(pconv_get_bytes(packed.get(), &data, &size) == PCONV_OK, "get_bytes: %s", pconv_last_error());
  const auto* begin = static_cast<const uint8_t*>(data);
  return Bytes(begin, begin + size);
}

}  // namespace pconv_test
#endif  // PCONV_TESTS_NATIVE_PACKED_BYTES_H_
