// Sizes of caches that plans count on.
#ifndef PCONV_CACHE_SIZES_H_
#define PCONV_CACHE_SIZES_H_

#include <cstdint>

namespace pconv {

// L1 where it was measured. A larger tile streams from L2 and is prefetched; a tile of four fifths of it stays in L1
// beside weights and outputs (37 KB ran 5 % faster than 40 KB: 64 channels at 224x224, tiles of 7 and of 8 rows).
constexpr int64_t kL1Bytes = 48 * 1024, kL1TileBytes = kL1Bytes * 4 / 5;
// L1 of many CPUs: windows that are larger may stream there, and where they do not prefetching them is free.
constexpr int64_t kSmallL1Bytes = 32 * 1024;

// What a thread may keep in L2 beside weights and outputs.
constexpr int64_t kL2Bytes = 768 * 1024;

}  // namespace pconv
#endif  // PCONV_CACHE_SIZES_H_
