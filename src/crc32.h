// CRC-32 as zlib computes it.
#ifndef PCONV_CRC32_H_
#define PCONV_CRC32_H_

#include <cstddef>
#include <cstdint>

namespace pconv {

// Continues `crc` (0 at the start) over n bytes.
uint32_t crc32(uint32_t crc, const void* bytes, size_t n);

}  // namespace pconv
#endif  // PCONV_CRC32_H_
