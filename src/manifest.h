// The rows of patterns.def: the masks that every 3x3 ukernel has code for.
#ifndef PCONV_MANIFEST_H_
#define PCONV_MANIFEST_H_

#include <cstdint>

#include "kernels/ukernel.h"

namespace pconv {

struct ManifestRow {
  uint32_t mask;
  int taps;
};

constexpr int count_bits(uint32_t mask) {
  int n = 0;
  for (; mask != 0; mask &= mask - 1) ++n;
  return n;
}

constexpr ManifestRow kManifest[] = {
#define PCONV_PATTERN(id, name, mask) {mask, count_bits(mask)},
#include "pconv/patterns.def"
#undef PCONV_PATTERN
};
constexpr uint32_t kManifestSize = sizeof(kManifest) / sizeof(kManifest[0]);

constexpr bool is_manifest_row(uint32_t mask) {
  for (const ManifestRow& row : kManifest) {
    if (row.mask == mask) return true;
  }
  return false;
}
static_assert(is_manifest_row(kAllTaps) && is_manifest_row(kCrossTaps),
              "what covers every mask within a ukernel's taps must be a row");

}  // namespace pconv
#endif  // PCONV_MANIFEST_H_
