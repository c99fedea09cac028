// A packed layer in memory: the private copy of its bytes, a typed view of them, and what plans share.
#ifndef PCONV_LAYER_H_
#define PCONV_LAYER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/ukernel.h"
#include "pconv/packed.h"
#include "pconv/pconv.h"

namespace pconv {

// Typed pointers into validated packed bytes (docs/FORMAT.md).
struct PackedView {
  pconv_packed_header header;
  int mask_words;
  const uint64_t* masks;
  const uint32_t* filter_order;
  const uint32_t* kernel_start;
  const uint32_t* run_start;
  const pconv_packed_run* runs;
  const uint16_t* channels;
  const void* weights;
  const float* bias;  // null without one

  int64_t n_units() const { return header.out_channels / header.block; }
  // Weight `index` of the weights section as fp32.
  float weight(uint64_t index) const;
};

pconv_conv_desc desc_of(const pconv_packed_header& header);

struct Ukernel;

// What a layer's prepacked form depends on beside the ukernel.
struct PrepackOptions {
  bool reorder;  // false: kernels and filters in the layer's own order, nothing merged; to measure what that gains
  bool shift_columns;  // taps share planes with those that read the same for the output before (prepack_taps.cpp)

  bool operator==(const PrepackOptions& o) const { return reorder == o.reorder && shift_columns == o.shift_columns; }
};

// Planes that a channel's taps read, at most, and the most rows of one plane that an output's taps read from.
struct ChannelPlanes {
  int64_t n, most_rows;
};

// The weights and offsets of a layer as one ukernel reads them. Depends on the tile shape and PrepackOptions; of the
// input's size only as far as these do: a scatter layer that meets maps with and without shifted planes has two.
struct Prepacked {
  std::vector<float> weights;
  std::vector<int32_t> offsets;
  std::vector<uint16_t> channels;  // whole maps, instead
  std::vector<Run> runs;
  std::vector<FilterProgram>
      filters;  // in packed order, or with reorder off in the layer's; each group filled up to whole units
  std::vector<int64_t> cost_before{0};  // [filters + 1] running sum of the work of the filters
  int64_t group_filters = 0;            // entries of `filters` that a group has
  int64_t unit = 1;                     // filters that no cut may part
  // Ukernels that read planes:
  std::vector<Plane> planes;         // of all groups
  std::vector<int64_t> plane_begin;  // [groups + 1] of them
  std::vector<ScatterRun> scatter_runs;
  std::vector<ScatterProgram> scatter;  // one a unit
  // Depthwise:
  std::vector<DepthwiseTap> depthwise_taps;
  std::vector<DepthwiseFilter> depthwise;  // beside `filters`
  int64_t n_taps = 0;                      // of all kernels, those with added zero weights included
  int64_t bytes() const;
};

}  // namespace pconv

struct pconv_packed {
  std::unique_ptr<uint64_t[]> storage;  // 8-byte aligned bytes, never changed after creation
  size_t n_bytes = 0;
  pconv::PackedView view = {};

  // Prepacked forms by ukernel and options, shared by all plans of this layer. Only ever try_lock()ed: a plan that
  // finds the lock taken (another thread, or a thread that a fork left behind) builds a copy of its own.
  struct CacheEntry {
    const pconv::Ukernel* ukernel;
    pconv::PrepackOptions options;
    std::shared_ptr<const pconv::Prepacked> prepacked;
  };
  mutable std::mutex cache_lock;
  mutable std::vector<CacheEntry> cache;
};
#endif  // PCONV_LAYER_H_
