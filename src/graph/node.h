// A network as data: values with shapes, nodes with attributes. What operators do with them stands in op.h.
#ifndef PCONV_GRAPH_NODE_H_
#define PCONV_GRAPH_NODE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "layer.h"

namespace pconv {

constexpr int kMaxRank = 6;
constexpr int64_t kMaxTensorFloats = int64_t{1} << 40;

struct Shape {
  int rank = 0;
  int64_t dims[kMaxRank] = {};

  int64_t count() const {  // at most kMaxTensorFloats once an operator's rule or the reader has let it through
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= dims[i];
    return n;
  }
  // Floats of everything behind the first `from` dims.
  int64_t inner(int from) const {
    int64_t n = 1;
    for (int i = from; i < rank; ++i) n *= dims[i];
    return n;
  }
  // Floats of one of the parts that a step parts: all behind dims[0].
  int64_t part() const { return inner(rank > 0 ? 1 : 0); }
  bool operator==(const Shape& o) const {
    if (rank != o.rank) return false;
    for (int i = 0; i < rank; ++i) {
      if (dims[i] != o.dims[i]) return false;
    }
    return true;
  }
  bool operator!=(const Shape& o) const { return !(*this == o); }
};

// A value in memory: dims[0] parts, `step` floats apart, each contiguous. Rank 0: one float.
struct Tensor {
  float* data = nullptr;
  Shape shape;
  int64_t step = 0;

  bool contiguous() const { return shape.rank == 0 || shape.dims[0] <= 1 || step == shape.inner(1); }
};

// What a node's data is for; numbers stand in model files.
enum class Role : uint16_t { kLayer = 0, kWeight = 1, kBias = 2, kSlope = 3, kValue = 4 };
constexpr int kRoles = 5;

struct Data {
  Role role = Role::kValue;
  const float* values = nullptr;  // of a tensor
  int64_t count = 0;
  std::shared_ptr<const void> owner;    // keeps `values`; null: the caller does
  std::shared_ptr<pconv_packed> layer;  // kLayer
  bool is_fp16 = false;                 // as it came; values are fp32 all the same

  // The same for data that are shared.
  const void* identity() const { return layer != nullptr ? static_cast<const void*>(layer.get()) : values; }
};

struct OpInfo;

struct Node {
  const OpInfo* op;
  std::string name;
  std::vector<int> inputs;  // values
  int output;               // value
  std::vector<int64_t> ints;
  std::vector<float> floats;
  std::vector<Data> data;
  int first_data = 0;  // number of data[0] among those of all nodes

  const Data* find(Role role) const {
    for (const Data& d : data) {
      if (d.role == role) return &d;
    }
    return nullptr;
  }
};

}  // namespace pconv
#endif  // PCONV_GRAPH_NODE_H_
