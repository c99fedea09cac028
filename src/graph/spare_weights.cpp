// A prepacked form holds every weight of the layer at a place of its own, between added zeros. Where it put them shows
// when a layer of the same structure is prepacked whose weights are their own numbers.
#include "spare_weights.h"

#include <algorithm>
#include <cstring>

#include "pack.h"
#include "prepack.h"
#include "status.h"
#include "write_packed.h"

namespace pconv {
namespace {

// Exact as fp32, from 1 on: 0 marks what was added.
constexpr uint64_t kNumbers = uint64_t{1} << 23;

using Values = std::vector<float>;

Values values_of(const Prepacked& form) {
  Values values = form.weights;
  for (const DepthwiseTap& tap : form.depthwise_taps) values.push_back(tap.weight);
  return values;
}

// The values of the form that `packed` would have with these weights.
pconv_status form_with(const pconv_packed& packed, const pconv_packed::CacheEntry& entry, const Values& weights,
                       Values* values) {
  PackedView view = packed.view;
  view.header.weight_type = PCONV_PACKED_FP32;
  const std::vector<unsigned char> bytes = write_packed(view, weights.data());
  std::unique_ptr<pconv_packed> numbered;
  if (const pconv_status s = read_packed(bytes.data(), bytes.size(), &numbered)) return s;
  *values = values_of(*prepack(*numbered, *entry.ukernel, entry.options));
  return PCONV_OK;
}

// The weights of the packed bytes from a prepacked form of them.
pconv_status recover(const pconv_packed& packed, const pconv_packed::CacheEntry& entry, Values* weights) {
  const uint64_t n = packed.view.header.n_weights;
  Values numbers(n), low, high;
  for (uint64_t i = 0; i < n; ++i) numbers[i] = static_cast<float>(i % kNumbers + 1);
  if (const pconv_status s = form_with(packed, entry, numbers, &low)) return s;
  if (n > kNumbers) {
    for (uint64_t i = 0; i < n; ++i) numbers[i] = static_cast<float>(i / kNumbers + 1);
    if (const pconv_status s = form_with(packed, entry, numbers, &high)) return s;
  }
  const Values values = values_of(*entry.prepacked);
  std::vector<bool> found(n, false);
  weights->assign(n, 0.0f);
  if (values.size() != low.size()) return fail(PCONV_INVALID_ARGUMENT, "layer: its prepacked form is of another shape");
  for (size_t i = 0; i < values.size(); ++i) {
    if (low[i] == 0.0f) continue;
    const uint64_t above = high.empty() ? 0 : (static_cast<uint64_t>(high[i]) - 1) * kNumbers;
    const uint64_t at = above + static_cast<uint64_t>(low[i]) - 1;
    (*weights)[at] = values[i];
    found[at] = true;
  }
  const bool all = std::all_of(found.begin(), found.end(), [](bool f) { return f; });
  return all ? PCONV_OK : fail(PCONV_INVALID_ARGUMENT, "layer: its prepacked form has not all weights");
}

bool same_bits(const PackedView& v, const Values& weights) {
  for (uint64_t i = 0; i < v.header.n_weights; ++i) {
    const float was = v.weight(i);
    if (std::memcmp(&was, &weights[i], sizeof(was)) != 0) return false;
  }
  return true;
}

// Of the forms in the cache those that plans use, or else the last one.
void drop_unused(std::vector<pconv_packed::CacheEntry>* cache) {
  const pconv_packed::CacheEntry last = cache->back();
  const auto unused = [&](const pconv_packed::CacheEntry& entry) {
    return entry.prepacked.use_count() == (entry.prepacked == last.prepacked ? 2 : 1);
  };
  cache->erase(std::remove_if(cache->begin(), cache->end(), unused), cache->end());
  if (cache->empty()) cache->push_back(last);
}

// Copies `count` items to `*at`, which moves to the next section, and says where they lie now.
template <typename T>
const T* move_section(const T* items, uint64_t count, uint64_t** at) {
  T* const to = reinterpret_cast<T*>(*at);
  std::copy(items, items + count, to);
  *at += (count * sizeof(T) + sizeof(uint64_t) - 1) / sizeof(uint64_t);
  return to;
}

// The layer's bytes without weights. They are no packed bytes any more: only the view reads them.
void drop_weights(pconv_packed* packed) {
  PackedView& v = packed->view;
  const uint64_t n_starts = static_cast<uint64_t>(v.n_units()) + 1;
  const uint64_t weights = v.header.n_weights * (v.header.weight_type == PCONV_PACKED_FP16 ? 2 : 4);
  std::unique_ptr<uint64_t[]> fresh(new uint64_t[(packed->n_bytes - weights) / sizeof(uint64_t) + 1]);
  uint64_t* at = fresh.get();
  v.masks = move_section(v.masks, v.header.n_patterns * static_cast<uint64_t>(v.mask_words), &at);
  v.filter_order = move_section(v.filter_order, v.header.out_channels, &at);
  v.kernel_start = move_section(v.kernel_start, n_starts, &at);
  v.run_start = move_section(v.run_start, n_starts, &at);
  v.runs = move_section(v.runs, v.header.n_runs, &at);
  v.channels = move_section(v.channels, v.header.n_kernels, &at);
  if (v.bias != nullptr) v.bias = move_section(v.bias, v.header.out_channels, &at);
  v.weights = nullptr;
  packed->storage = std::move(fresh);
  packed->n_bytes = static_cast<size_t>(at - packed->storage.get()) * sizeof(uint64_t);
}

pconv_status recover_any(const pconv_packed& packed, Values* weights) {
  if (packed.cache.empty()) return fail(PCONV_INVALID_ARGUMENT, "layer: no form of its weights is left");
  return recover(packed, packed.cache.front(), weights);
}

}  // namespace

void spare_weights(pconv_packed* packed) {
  if (packed->view.weights == nullptr || packed->cache.empty()) return;
  // Of a newer version we do not know all sections: its bytes stay as they are.
  if (packed->view.header.version_minor > PCONV_PACKED_MINOR) return;
  drop_unused(&packed->cache);
  Values weights;
  if (recover_any(*packed, &weights) == PCONV_OK && same_bits(packed->view, weights)) drop_weights(packed);
}

pconv_status copy_layer(const pconv_packed& packed, std::unique_ptr<pconv_packed>* copy) {
  if (packed.view.weights != nullptr) return read_packed(packed.storage.get(), packed.n_bytes, copy);
  Values weights;
  if (const pconv_status s = recover_any(packed, &weights)) return s;
  const std::vector<unsigned char> bytes = write_packed(packed.view, weights.data());
  return read_packed(bytes.data(), bytes.size(), copy);
}

pconv_status restore_weights(pconv_packed* packed) {
  if (packed->view.weights != nullptr) return PCONV_OK;
  std::unique_ptr<pconv_packed> whole;
  if (const pconv_status s = copy_layer(*packed, &whole)) return s;
  // The header stays: shapes are inferred from it while others plan.
  PackedView view = whole->view;
  packed->view.masks = view.masks, packed->view.filter_order = view.filter_order;
  packed->view.kernel_start = view.kernel_start, packed->view.run_start = view.run_start;
  packed->view.runs = view.runs, packed->view.channels = view.channels;
  packed->view.weights = view.weights, packed->view.bias = view.bias;
  packed->storage = std::move(whole->storage);
  packed->n_bytes = whole->n_bytes;
  return PCONV_OK;
}

}  // namespace pconv
