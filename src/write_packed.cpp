#include "write_packed.h"

#include <cstring>
#include <utility>

#include "crc32.h"
#include "half.h"

namespace pconv {
namespace {

// Appends items and pads with zeros to the next section.
class Writer {
 public:
  template <typename T>
  void section(const T* items, size_t count) {
    append(items, count);
    bytes_.resize((bytes_.size() + PCONV_PACKED_ALIGN - 1) / PCONV_PACKED_ALIGN * PCONV_PACKED_ALIGN, 0);
  }
  std::vector<unsigned char>& bytes() { return bytes_; }

 private:
  template <typename T>
  void append(const T* items, size_t count) {
    if (count == 0) return;
    const auto* p = reinterpret_cast<const unsigned char*>(items);
    bytes_.insert(bytes_.end(), p, p + count * sizeof(T));
  }
  std::vector<unsigned char> bytes_;
};

}  // namespace

std::vector<unsigned char> write_packed(const PackedView& v, const float* weights) {
  static_assert(sizeof(pconv_packed_header) == PCONV_PACKED_HEADER_BYTES, "the header is docs/FORMAT.md's");
  pconv_packed_header h = v.header;
  std::memcpy(h.magic, PCONV_PACKED_MAGIC, sizeof(h.magic));
  h.version_major = PCONV_PACKED_MAJOR;
  h.version_minor = PCONV_PACKED_MINOR;
  h.header_bytes = PCONV_PACKED_HEADER_BYTES;
  h.flags = v.bias != nullptr ? PCONV_PACKED_HAS_BIAS : 0;
  h.crc32 = 0;
  const auto n_starts = static_cast<size_t>(v.n_units()) + 1;
  Writer w;
  w.section(&h, 1);
  w.section(v.masks, h.n_patterns * static_cast<size_t>(v.mask_words));
  w.section(v.filter_order, h.out_channels);
  w.section(v.kernel_start, n_starts);
  w.section(v.run_start, n_starts);
  w.section(v.runs, h.n_runs);
  w.section(v.channels, h.n_kernels);
  if (h.weight_type == PCONV_PACKED_FP16) {
    std::vector<uint16_t> halves(h.n_weights);
    for (size_t i = 0; i < halves.size(); ++i) halves[i] = float_to_half(weights[i]);
    w.section(halves.data(), halves.size());
  } else {
    w.section(weights, h.n_weights);
  }
  w.section(v.bias, v.bias != nullptr ? h.out_channels : 0);
  std::vector<unsigned char>& bytes = w.bytes();
  h.total_bytes = bytes.size();
  std::memcpy(bytes.data(), &h, sizeof(h));
  h.crc32 = crc32(0, bytes.data(), bytes.size());  // over a zero in its own place
  std::memcpy(bytes.data(), &h, sizeof(h));
  return std::move(bytes);
}

}  // namespace pconv
