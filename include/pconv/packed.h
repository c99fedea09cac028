/* Constants and header of the packed bytes, version 1. docs/FORMAT.md is the specification; this file is its C form.
 * Known to pack, validate and plan. All fields little-endian. */
#ifndef PCONV_PACKED_H_
#define PCONV_PACKED_H_

#include <stdint.h>

#define PCONV_PACKED_MAGIC "PCONVPK\n"
enum {
  PCONV_PACKED_MAJOR = 1,
  PCONV_PACKED_MINOR = 0,
  PCONV_PACKED_HEADER_BYTES = 128,
  PCONV_PACKED_ALIGN = 8, /* every section starts at a multiple of this */
  PCONV_PACKED_HAS_BIAS = 1,
  PCONV_PACKED_FP32 = 0,
  PCONV_PACKED_FP16 = 1
};

typedef struct pconv_packed_header {
  char magic[8];
  uint16_t version_major, version_minor;
  uint32_t header_bytes;
  uint64_t total_bytes;
  uint32_t crc32; /* zlib's CRC-32 of all bytes, this field taken as 0 */
  uint32_t flags;
  uint32_t out_channels, in_channels, groups;
  uint32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  uint32_t pad_top, pad_left, pad_bottom, pad_right;
  uint32_t block;
  uint32_t weight_type;
  uint32_t n_patterns;
  uint64_t n_kernels, n_runs, n_weights;
  uint64_t reserved; /* 0 */
} pconv_packed_header;

typedef struct pconv_packed_run {
  uint32_t pattern; /* index into the mask table */
  uint32_t n_kernels;
} pconv_packed_run;

#endif /* PCONV_PACKED_H_ */
