// Checks of packed bytes against every rule of docs/FORMAT.md. The bytes may be hostile: sizes go through checked.h,
// every id and offset is range-checked here once, and nothing below checks it again.
#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <numeric>
#include <vector>

#include "checked.h"
#include "crc32.h"
#include "status.h"
#include "validate.h"

namespace pconv {
namespace {

pconv_status bad(const char* field, const char* rule) {
  return fail(PCONV_BAD_FORMAT, "packed bytes: %s: %s", field, rule);
}

pconv_status bad_at(const char* field, uint64_t index, const char* rule) {
  return fail(PCONV_BAD_FORMAT, "packed bytes: %s[%" PRIu64 "]: %s", field, index, rule);
}

// Byte offsets of the sections.
struct Layout {
  uint64_t masks, filter_order, kernel_start, run_start, runs, channels, weights, bias;
};

// Places the sections one behind the other; BAD_FORMAT unless they end where the bytes end.
pconv_status lay_out(const pconv_packed_header& h, int mask_words, Layout* layout) {
  const uint64_t n_starts = uint64_t{h.out_channels} / h.block + 1;
  CheckedSize at = checked(h.header_bytes);
  const auto section = [&at](uint64_t* offset, uint64_t count, uint64_t item_bytes) {
    *offset = at.value();
    at = (at + checked(count) * checked(item_bytes)).round_up(PCONV_PACKED_ALIGN);
  };
  section(&layout->masks, h.n_patterns, 8 * static_cast<uint64_t>(mask_words));
  section(&layout->filter_order, h.out_channels, 4);
  section(&layout->kernel_start, n_starts, 4);
  section(&layout->run_start, n_starts, 4);
  section(&layout->runs, h.n_runs, sizeof(pconv_packed_run));
  section(&layout->channels, h.n_kernels, 2);
  section(&layout->weights, h.n_weights, h.weight_type == PCONV_PACKED_FP16 ? 2 : 4);
  section(&layout->bias, (h.flags & PCONV_PACKED_HAS_BIAS) ? h.out_channels : 0, 4);
  const bool newer = h.version_minor > PCONV_PACKED_MINOR;  // may append sections
  if (!at.ok() || at.value() > h.total_bytes) return bad("total_bytes", "the sections need more bytes than there are");
  if (!newer && at.value() != h.total_bytes) return bad("total_bytes", "bytes follow the last section");
  return PCONV_OK;
}

// Padding between sections must be zero, so that equal content means equal bytes.
pconv_status check_padding(const unsigned char* bytes, uint64_t end, uint64_t next) {
  for (uint64_t i = end; i < next; ++i) {
    if (bytes[i] != 0) return bad_at("byte", i, "padding between sections must be 0");
  }
  return PCONV_OK;
}

pconv_status check_all_padding(const unsigned char* bytes, const pconv_packed_header& h, const Layout& l) {
  const uint64_t n_starts = uint64_t{h.out_channels} / h.block + 1;
  const uint64_t weight_bytes = h.n_weights * (h.weight_type == PCONV_PACKED_FP16 ? 2 : 4);
  const uint64_t bias_bytes = (h.flags & PCONV_PACKED_HAS_BIAS) ? uint64_t{h.out_channels} * 4 : 0;
  const uint64_t end = (checked(l.bias) + checked(bias_bytes)).round_up(PCONV_PACKED_ALIGN).value();
  const uint64_t spans[][2] = {{l.filter_order + uint64_t{h.out_channels} * 4, l.kernel_start},
                               {l.kernel_start + n_starts * 4, l.run_start},
                               {l.run_start + n_starts * 4, l.runs},
                               {l.channels + h.n_kernels * 2, l.weights},
                               {l.weights + weight_bytes, l.bias},
                               {l.bias + bias_bytes, end}};
  for (const auto& span : spans) {
    if (const pconv_status s = check_padding(bytes, span[0], span[1])) return s;
  }
  return PCONV_OK;
}

pconv_status check_geometry(const pconv_packed_header& h) {
  const pconv_conv_desc desc = desc_of(h);
  if (validate_desc(desc) != PCONV_OK) {
    char reason[256];
    std::strncpy(reason, last_error(), sizeof(reason) - 1);
    reason[sizeof(reason) - 1] = '\0';
    return fail(PCONV_BAD_FORMAT, "packed bytes: %s", reason);
  }
  if (h.block == 0 || (h.out_channels / h.groups) % h.block != 0) {
    return bad("block", "must be at least 1 and divide out_channels / groups");
  }
  if (h.weight_type != PCONV_PACKED_FP32 && h.weight_type != PCONV_PACKED_FP16) {
    return bad("weight_type", "must be 0 (fp32) or 1 (fp16)");
  }
  if ((h.flags & ~uint32_t{PCONV_PACKED_HAS_BIAS}) != 0) return bad("flags", "has bits this reader does not know");
  if (h.reserved != 0) return bad("reserved", "must be 0");
  if (h.n_kernels > UINT32_MAX) return bad("n_kernels", "must be below 2^32");
  if (h.n_runs > h.n_kernels) return bad("n_runs", "is more than n_kernels");
  if (h.n_patterns > h.n_runs) return bad("n_patterns", "is more than n_runs");
  return PCONV_OK;
}

int popcount(const uint64_t* words, int n) {
  int bits = 0;
  for (int i = 0; i < n; ++i) bits += __builtin_popcountll(words[i]);
  return bits;
}

int compare_masks(const uint64_t* a, const uint64_t* b, int words) {
  for (int i = 0; i < words; ++i) {
    if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
  }
  return 0;
}

pconv_status check_masks(const PackedView& v) {
  const int words = v.mask_words, taps = static_cast<int>(v.header.kernel_h * v.header.kernel_w);
  for (uint64_t p = 0; p < v.header.n_patterns; ++p) {
    const uint64_t* mask = v.masks + p * words;
    if (popcount(mask, words) == 0) return bad_at("masks", p, "keeps no tap");
    if (taps % 64 != 0 && (mask[words - 1] >> (taps % 64)) != 0)
      return bad_at("masks", p, "has bits beyond the kernel");
  }
  std::vector<uint32_t> order(v.header.n_patterns);
  std::iota(order.begin(), order.end(), 0u);
  const auto compare = [&](uint32_t a, uint32_t b) {
    return compare_masks(v.masks + uint64_t{a} * words, v.masks + uint64_t{b} * words, words);
  };
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return compare(a, b) < 0; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (compare(order[i - 1], order[i]) == 0) return bad_at("masks", order[i], "stands twice in the table");
  }
  return PCONV_OK;
}

pconv_status check_filter_order(const PackedView& v) {
  const uint32_t out_channels = v.header.out_channels, per_group = out_channels / v.header.groups;
  std::vector<bool> seen(out_channels, false);
  for (uint32_t f = 0; f < out_channels; ++f) {
    const uint32_t original = v.filter_order[f];
    if (original >= out_channels) return bad_at("filter_order", f, "must be below out_channels");
    if (seen[original]) return bad_at("filter_order", f, "names a filter twice");
    if (original / per_group != f / per_group) return bad_at("filter_order", f, "leaves its group");
    seen[original] = true;
  }
  return PCONV_OK;
}

pconv_status check_starts(const char* field, const uint32_t* starts, int64_t n_units, uint64_t total) {
  if (starts[0] != 0) return bad_at(field, 0, "must be 0");
  for (int64_t u = 0; u < n_units; ++u) {
    if (starts[u + 1] < starts[u]) return bad_at(field, static_cast<uint64_t>(u) + 1, "must not fall");
  }
  if (starts[n_units] != total) return bad_at(field, static_cast<uint64_t>(n_units), "must be the total count");
  return PCONV_OK;
}

// Which unit last used a pattern or a channel: finds repeats without clearing a table for every unit.
struct Marks {
  explicit Marks(size_t n) : last(n, -1) {}
  bool repeated(uint64_t index, int64_t unit) {
    const bool again = last[index] == unit;
    last[index] = unit;
    return again;
  }
  std::vector<int64_t> last;
};

// Checks the channels of one run, [begin, end).
pconv_status check_channels(const PackedView& v, uint64_t begin, uint64_t end, int64_t unit, Marks* channels) {
  const uint32_t per_group = v.header.in_channels / v.header.groups;
  for (uint64_t k = begin; k < end; ++k) {
    if (v.channels[k] >= per_group) return bad_at("channels", k, "must be below in_channels / groups");
    if (k > begin && v.channels[k] <= v.channels[k - 1]) return bad_at("channels", k, "must rise inside a run");
    if (channels->repeated(v.channels[k], unit)) return bad_at("channels", k, "stands twice in a unit");
  }
  return PCONV_OK;
}

pconv_status check_runs(const PackedView& v) {
  Marks patterns(v.header.n_patterns), channels(v.header.in_channels / v.header.groups);
  CheckedSize n_weights = checked(0);
  for (int64_t u = 0; u < v.n_units(); ++u) {
    uint64_t kernel = v.kernel_start[u];
    const uint64_t kernel_end = v.kernel_start[u + 1];
    for (uint64_t r = v.run_start[u]; r < v.run_start[u + 1]; ++r) {
      const pconv_packed_run run = v.runs[r];
      if (run.pattern >= v.header.n_patterns) return bad_at("runs", r, "pattern must be below n_patterns");
      if (run.n_kernels == 0) return bad_at("runs", r, "n_kernels must be at least 1");
      if (run.n_kernels > kernel_end - kernel) return bad_at("runs", r, "has more kernels than its unit");
      if (patterns.repeated(run.pattern, u)) return bad_at("runs", r, "pattern comes twice in a unit");
      if (const pconv_status s = check_channels(v, kernel, kernel + run.n_kernels, u, &channels)) return s;
      kernel += run.n_kernels;
      const int taps = popcount(v.masks + uint64_t{run.pattern} * v.mask_words, v.mask_words);
      n_weights = n_weights + checked(run.n_kernels) * checked(taps) * checked(v.header.block);
    }
    if (kernel != kernel_end)
      return bad_at("runs", v.run_start[u + 1], "the runs of a unit must add up to its kernels");
  }
  if (!n_weights.equals(v.header.n_weights)) return bad("n_weights", "must be the taps of all kernels");
  for (uint64_t p = 0; p < v.header.n_patterns; ++p) {
    if (patterns.last[p] < 0) return bad_at("masks", p, "is not used");
  }
  return PCONV_OK;
}

pconv_status check_header(const void* bytes, size_t n_bytes) {
  if (n_bytes < PCONV_PACKED_HEADER_BYTES) {
    return fail(PCONV_BAD_FORMAT, "packed bytes: %zu bytes are fewer than a header's %d", n_bytes,
                PCONV_PACKED_HEADER_BYTES);
  }
  pconv_packed_header h;
  std::memcpy(&h, bytes, sizeof(h));
  if (std::memcmp(h.magic, PCONV_PACKED_MAGIC, sizeof(h.magic)) != 0) return bad("magic", "these are no packed bytes");
  if (h.version_major != PCONV_PACKED_MAJOR) {
    return fail(PCONV_BAD_FORMAT, "packed bytes: version_major: got version %d.%d, this library reads %d.x",
                h.version_major, h.version_minor, PCONV_PACKED_MAJOR);
  }
  const bool newer = h.version_minor > PCONV_PACKED_MINOR;
  if (h.total_bytes != n_bytes) {
    return fail(PCONV_BAD_FORMAT, "packed bytes: total_bytes: says %" PRIu64 ", there are %zu", h.total_bytes, n_bytes);
  }
  if (h.header_bytes < PCONV_PACKED_HEADER_BYTES || h.header_bytes % PCONV_PACKED_ALIGN != 0 ||
      h.header_bytes > n_bytes || (!newer && h.header_bytes != PCONV_PACKED_HEADER_BYTES)) {
    return bad("header_bytes", "must be 128 (a multiple of 8 above that in a newer minor version)");
  }
  const size_t crc_at = offsetof(pconv_packed_header, crc32);
  const uint32_t zero = 0;
  uint32_t crc = crc32(0, bytes, crc_at);
  crc = crc32(crc, &zero, sizeof(zero));
  crc = crc32(crc, static_cast<const unsigned char*>(bytes) + crc_at + 4, n_bytes - crc_at - 4);
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  if (crc != h.crc32) return bad("crc32", "the bytes were damaged");
#endif
  return check_geometry(h);
}

}  // namespace

pconv_status validate_packed(const void* bytes, size_t n_bytes, PackedView* view) {
  if (const pconv_status s = check_header(bytes, n_bytes)) return s;
  PackedView& v = *view;
  std::memcpy(&v.header, bytes, sizeof(v.header));
  v.mask_words = static_cast<int>((v.header.kernel_h * v.header.kernel_w + 63) / 64);
  Layout l;
  if (const pconv_status s = lay_out(v.header, v.mask_words, &l)) return s;
  const auto* base = static_cast<const unsigned char*>(bytes);
  if (const pconv_status s = check_all_padding(base, v.header, l)) return s;
  v.masks = reinterpret_cast<const uint64_t*>(base + l.masks);
  v.filter_order = reinterpret_cast<const uint32_t*>(base + l.filter_order);
  v.kernel_start = reinterpret_cast<const uint32_t*>(base + l.kernel_start);
  v.run_start = reinterpret_cast<const uint32_t*>(base + l.run_start);
  v.runs = reinterpret_cast<const pconv_packed_run*>(base + l.runs);
  v.channels = reinterpret_cast<const uint16_t*>(base + l.channels);
  v.weights = base + l.weights;
  v.bias = (v.header.flags & PCONV_PACKED_HAS_BIAS) ? reinterpret_cast<const float*>(base + l.bias) : nullptr;
  if (const pconv_status s = check_masks(v)) return s;
  if (const pconv_status s = check_filter_order(v)) return s;
  if (const pconv_status s = check_starts("kernel_start", v.kernel_start, v.n_units(), v.header.n_kernels)) return s;
  if (const pconv_status s = check_starts("run_start", v.run_start, v.n_units(), v.header.n_runs)) return s;
  return check_runs(v);
}

}  // namespace pconv
