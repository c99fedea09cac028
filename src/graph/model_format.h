// C form of the model files, version 1; docs/FORMAT.md is the specification. All fields little-endian.
#ifndef PCONV_GRAPH_MODEL_FORMAT_H_
#define PCONV_GRAPH_MODEL_FORMAT_H_

#include <cstdint>

#include "node.h"

namespace pconv {

constexpr char kModelMagic[9] = "PCONVNN\n";
constexpr uint16_t kModelMajor = 1, kModelMinor = 0;
constexpr uint64_t kSectionAlign = 8, kDataAlign = 64;
constexpr uint32_t kSingleOutput = 1;  // the only flag

struct ModelHeader {
  char magic[8];
  uint16_t version_major, version_minor;
  uint32_t header_bytes;
  uint64_t total_bytes;
  uint32_t crc32;  // zlib's, of all bytes, this field taken as 0
  uint32_t flags;
  uint32_t n_inputs, n_nodes, n_outputs, n_choices;
  uint32_t n_links, n_ints, n_floats, n_data;  // of all nodes
  uint64_t text_bytes;
  uint64_t reserved[5];  // 0
};
static_assert(sizeof(ModelHeader) == 112, "as in docs/FORMAT.md");

struct InputRecord {
  uint32_t rank, free_dims;
  int64_t dims[kMaxRank];  // 0 behind the rank
  uint32_t name_bytes, reserved;
};
static_assert(sizeof(InputRecord) == 64, "as in docs/FORMAT.md");

// A node's links, attributes and data are the next ones of their sections.
struct NodeRecord {
  uint16_t op, n_links, n_ints, n_floats, n_data, reserved;
  uint32_t name_bytes;
};
static_assert(sizeof(NodeRecord) == 16, "as in docs/FORMAT.md");

struct OutputRecord {
  uint32_t value, name_bytes;
};

struct ChoiceRecord {
  uint32_t node, isa_bytes, ukernel_bytes, reserved;
  int64_t n, h, w;
};
static_assert(sizeof(ChoiceRecord) == 40, "as in docs/FORMAT.md");

enum DataKind : uint16_t {
  kPackedLayer = 0,  // `count` bytes of a packed layer
  kFp32 = 1,         // `count` numbers
  kFp16 = 2,         // the same
  kShared = 3        // nothing here: the data of record number `count`
};

struct DataRecord {
  uint16_t role, kind;
  uint32_t reserved;
  uint64_t count;
};
static_assert(sizeof(DataRecord) == 16, "as in docs/FORMAT.md");

}  // namespace pconv
#endif  // PCONV_GRAPH_MODEL_FORMAT_H_
