// What the native tests share: owners of the library's objects, layers and shapes, a seeded generator of numbers, and
// the rows of the library's tables.
#ifndef PCONV_TESTS_NATIVE_SUPPORT_H_
#define PCONV_TESTS_NATIVE_SUPPORT_H_

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "pconv/pconv.h"
#include "testing.h"

namespace pconv_test {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct FreePacked {
  void operator()(pconv_packed* p) const { pconv_free_packed(p); }
};
struct FreePlan {
  void operator()(pconv_plan* p) const { pconv_free_plan(p); }
};
using Packed = std::unique_ptr<pconv_packed, FreePacked>;
using Plan = std::unique_ptr<pconv_plan, FreePlan>;

// splitmix64: the same numbers everywhere, unlike std::uniform_int_distribution.
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  // lo <= result <= hi
  int64_t between(int64_t lo, int64_t hi) {
    return lo + static_cast<int64_t>(next() % static_cast<uint64_t>(hi - lo + 1));
  }
  bool chance(double p) { return unit() < p; }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  template <typename T, size_t N>
  T pick(const T (&values)[N]) {
    return values[next() % N];
  }

 private:
  uint64_t state_;
};

// Floats that end, or begin, at a page without access.
class Guarded {
 public:
  Guarded(size_t count, bool at_end) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), size = count * sizeof(float);
    const size_t inner = (std::max<size_t>(size, 1) + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    map_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(map_ != MAP_FAILED && mprotect(map_ + page, inner, PROT_READ | PROT_WRITE) == 0, "mmap of %zu bytes", size);
    data_ = reinterpret_cast<float*>(map_ + page + (at_end ? inner - size : 0));
  }
  ~Guarded() { munmap(map_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  float* data() const { return data_; }

 private:
  char* map_;
  float* data_;
  size_t mapped_;
};

// A dense layer, as a user hands it over. weights: OIHW; bias: [out_channels] or empty.
struct Layer {
  pconv_conv_desc conv{};
  std::vector<float> weights, bias;

  int64_t group_in() const { return conv.in_channels / conv.groups; }
  int64_t taps() const { return conv.kernel_h * conv.kernel_w; }
  // First weight of the kernel of filter `o` for channel `i` of its group.
  float* kernel(int64_t o, int64_t i) { return &weights[static_cast<size_t>((o * group_in() + i) * taps())]; }
  const float* kernel(int64_t o, int64_t i) const { return const_cast<Layer*>(this)->kernel(o, i); }
};

// A 3x3 stride-1 layer of zeros, padded by `pad` on every side.
inline Layer make_layer(int64_t out_channels, int64_t in_channels, int64_t groups, int64_t pad) {
  Layer layer;
  layer.conv = {out_channels, in_channels, groups, 3, 3, 1, 1, 1, 1, pad, pad, pad, pad};
  layer.weights.assign(static_cast<size_t>(out_channels * (in_channels / groups) * 9), 0.0f);
  return layer;
}

inline Packed pack(const Layer& layer) {
  pconv_packed* packed = nullptr;
  const float* bias = layer.bias.empty() ? nullptr : layer.bias.data();
  const pconv_status status = pconv_pack_weights(&layer.conv, layer.weights.data(), bias, &packed);
  REQUIRE(status == PCONV_OK, "pack: %s: %s", pconv_status_name(status), pconv_last_error());
  return Packed(packed);
}

// An input shape and what to run it with; empty isa or ukernel: the library's choice.
struct Target {
  int64_t n = 1, h = 1, w = 1;
  pconv_layout layout = PCONV_NCHW;
  std::string isa, ukernel;
  bool reorder = true;
  int max_pool = 0;
};

inline Plan plan(const Packed& packed, const Target& target) {
  const pconv_plan_options options = {target.n,
                                      target.h,
                                      target.w,
                                      target.layout,
                                      target.isa.empty() ? nullptr : target.isa.c_str(),
                                      target.ukernel.empty() ? nullptr : target.ukernel.c_str(),
                                      target.reorder ? 0 : 1,
                                      target.max_pool};
  pconv_plan* p = nullptr;
  const pconv_status status = pconv_plan_conv(packed.get(), &options, &p);
  REQUIRE(status == PCONV_OK, "plan: %s: %s", pconv_status_name(status), pconv_last_error());
  return Plan(p);
}

inline pconv_plan_info query(const Plan& p) {
  pconv_plan_info info{};
  REQUIRE(pconv_query_plan(p.get(), &info) == PCONV_OK, "query: %s", pconv_last_error());
  return info;
}

inline void run(const Plan& p, const pconv_run_args& args) {
  const pconv_status status = pconv_run_plan(p.get(), &args);
  REQUIRE(status == PCONV_OK, "run: %s: %s", pconv_status_name(status), pconv_last_error());
}

// Element (n, c, y, x) of a [n][c][h][w] or [n][h][w][c] tensor.
inline size_t at(pconv_layout layout, int64_t channels, int64_t h, int64_t w, int64_t n, int64_t c, int64_t y,
                 int64_t x) {
  const int64_t i = layout == PCONV_NCHW ? ((n * channels + c) * h + y) * w + x : ((n * h + y) * w + x) * channels + c;
  return static_cast<size_t>(i);
}

// Same bits, or both zero of whatever sign.
inline bool same_up_to_zero_sign(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (a == 0.0f && b == 0.0f);
}

// One way to run a layer, and one test id: a ukernel by name, or the default plan of an ISA (ukernel empty).
struct Way {
  std::string isa, ukernel;
  int rows, vectors, lanes;
  int map_pixels = 0;    // takes only maps padded by 1 of at most so many; 0: does not matter
  int taps = 0x1ff;      // takes only masks within these
  int block = 0;         // filters with the same kernels that run together; 0: does not matter
  bool general = false;  // a ukernel of any geometry
  bool nchw_only = false;
  bool depthwise = false;     // takes only filters of one channel
  int stride = 0;             // of a pattern ukernel; 0: any
  int64_t most_stride_w = 0;  // of others; 0: any
  int64_t step() const { return std::max(stride, 1); }
  bool any_geometry() const { return general || ukernel.empty(); }
  bool all_kernels() const { return block > 1; }  // takes layers that keep every kernel, or whole blocks of them
  pconv_layout layout(pconv_layout wanted) const { return nchw_only ? PCONV_NCHW : wanted; }
  std::string id() const {
    return (ukernel.empty() ? "default_" + isa : ukernel) + (depthwise && stride > 1 ? "_strided" : "");
  }
  bool fits(int64_t h, int64_t w) const { return map_pixels == 0 || (w < lanes && h * w <= map_pixels); }
  // A target of this way: h x w, or the largest map of several rows that it takes.
  Target target(int64_t n, int64_t h, int64_t w, pconv_layout layout) const {
    if (map_pixels > 0) {
      w = std::min<int64_t>({w, lanes - 1, std::max(map_pixels / 3 - 1, 2)});
      h = std::min<int64_t>(h + 99, map_pixels / w);
    }
    return {n, h, w, this->layout(layout), isa, ukernel};
  }
};

// Calls `add(way)` for each default plan and each ukernel of the ISAs this CPU runs, and adds a visible skip named
// `prefix/isa` for each ISA of isas.def that is not built or not supported.
inline void for_each_way(const std::string& prefix, const std::function<void(const Way&)>& add) {
#define PCONV_ISA(name, architecture, features, flags) #name,
  const char* const names[] = {
#include "isas.def"
  };
#undef PCONV_ISA
  for (const char* name : names) {
    if (!options().isa.empty() && options().isa != name) continue;
    pconv_isa_info isa{}, found{};
    for (int i = 0; pconv_list_isa(i, &isa); ++i) {
      if (isa.name == std::string(name)) found = isa;
    }
    if (!found.name || !found.supported) {
      const std::string reason = found.name ? std::string("this CPU lacks ") + found.features : "not in this build";
      state().tests.push_back({prefix + "/" + name, [reason] { throw Skip{reason}; }});
      continue;
    }
    add({name, "", 8, 1, found.lanes, 0, 0x1ff});
    pconv_ukernel_info row{};
    for (int i = 0; pconv_list_ukernel(i, &row); ++i) {
      if (row.isa != std::string(name)) continue;
      const std::string body = row.body;
      const int pixels = body == "map3x3" ? row.vectors * row.lanes : body == "tiny3x3" ? row.lanes / 4 : 0;
      const bool direct = body == "dwdirect", depthwise = body == "depthwise" || direct;
      const bool planes = body == "planes" || body == "scatter" || depthwise;
      Way way = {name, row.name, row.rows, row.vectors, row.lanes, pixels, static_cast<int>(row.taps), row.block};
      way.general = planes || body == "taps";
      way.nchw_only = planes;
      way.depthwise = depthwise;
      way.stride = row.stride;
      if (direct) way.most_stride_w = row.lanes == 16 ? 2 : 1;
      add(way);
      way.stride = 2;  // for tests that draw no stride themselves
      if (depthwise && way.most_stride_w != 1) add(way);
    }
  }
}

}  // namespace pconv_test
#endif  // PCONV_TESTS_NATIVE_SUPPORT_H_
