// Nothing outside the stated extents is touched: every buffer ends, then begins, at a page without access. A fault
// prints what ran. Also: input channels that no kernel keeps are never read.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "reference.h"

namespace pconv_test {
namespace {

enum class Edge { kEnd, kBegin };  // which end of the buffer touches the page without access

class GuardedBytes {
 public:
  GuardedBytes(const void* content, size_t size, Edge edge) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t inner = (std::max<size_t>(size, 1) + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    map_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(map_ != MAP_FAILED && mprotect(map_ + page, inner, PROT_READ | PROT_WRITE) == 0, "mmap of %zu bytes", size);
    data_ = edge == Edge::kEnd ? map_ + page + inner - size : map_ + page;
    if (content && size > 0) memcpy(data_, content, size);
  }
  ~GuardedBytes() { munmap(map_, mapped_); }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  void* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }

 private:
  char *map_, *data_;
  size_t mapped_;
};

GuardedBytes guarded(const std::vector<float>& values, Edge edge) {
  return GuardedBytes(values.data(), values.size() * sizeof(float), edge);
}

std::vector<float> small_integers(Rng& rng, size_t size) {
  std::vector<float> values(size);
  for (float& v : values) v = static_cast<float>(rng.between(1, 9));
  return values;
}

struct Geometry {
  int64_t kernel, stride;
};

// What the guards look at: ukernels of any geometry read planes of 1x1 layers in place, and split rows where these have
// a stride.
std::vector<Geometry> geometries(const Way& way) {
  if (!way.general || way.depthwise) return {{3, way.step()}};
  return {{3, 1}, {3, 2}, {1, 1}, {1, 2}};
}

// Several groups, so that the last one's channels end at the end of x; one filter without kernels, masks of every size.
Layer make_guard_layer(Rng& rng, const Geometry& geometry, int64_t pad, const Way& way) {
  Layer layer = way.depthwise ? make_layer(6, 3, 3, pad) : make_layer(6, 4, 2, pad);
  layer.conv.kernel_h = layer.conv.kernel_w = geometry.kernel;
  layer.conv.stride_h = layer.conv.stride_w = geometry.stride;
  layer.weights.resize(static_cast<size_t>(6 * layer.group_in() * layer.taps()));
  for (int64_t o = 0; o < 6; ++o) {
    for (int64_t i = 0; i < layer.group_in() && (o != 2 || way.all_kernels()); ++i) {
      const int64_t mask = way.all_kernels() ? 0x1ff : rng.between(1, 511) & way.taps;
      for (int k = 0; k < layer.taps(); ++k) {
        layer.kernel(o, i)[k] = static_cast<float>((mask >> k & 1) * rng.between(1, 5));
      }
    }
  }
  layer.bias = small_integers(rng, 6);
  return layer;
}

void check_between_guards(const Way& way, const Geometry& geometry, const Target& target, Edge edge, int64_t pad) {
  Rng rng(options().seed + static_cast<uint64_t>(target.w));
  const Layer layer = make_guard_layer(rng, geometry, pad, way);
  const std::vector<float> x =
      small_integers(rng, static_cast<size_t>(target.n * layer.conv.in_channels * target.h * target.w));
  const auto outputs = [&](int64_t size) { return (size + 2 * pad - geometry.kernel) / geometry.stride + 1; };
  const int64_t out_h = outputs(target.h), out_w = outputs(target.w);
  const std::vector<float> residual = small_integers(rng, static_cast<size_t>(target.n * 6 * out_h * out_w));
  const GuardedBytes weights_in = guarded(layer.weights, edge), bias_in = guarded(layer.bias, edge);
  pconv_packed *raw = nullptr, *reread = nullptr;
  REQUIRE(pconv_pack_weights(&layer.conv, weights_in.floats(), bias_in.floats(), &raw) == PCONV_OK, "pack: %s",
          pconv_last_error());
  const Packed packed(raw);
  const void* bytes = nullptr;
  size_t n_bytes = 0;
  REQUIRE(pconv_get_bytes(packed.get(), &bytes, &n_bytes) == PCONV_OK, "get_bytes: %s", pconv_last_error());
  const GuardedBytes bytes_in(bytes, n_bytes, edge);
  REQUIRE(pconv_read_packed(bytes_in.data(), n_bytes, &reread) == PCONV_OK, "read: %s", pconv_last_error());
  const Packed read(reread);
  const GuardedBytes weights_out(nullptr, layer.weights.size() * 4, edge), bias_out(nullptr, 6 * 4, edge);
  REQUIRE(pconv_unpack_weights(read.get(), weights_out.floats(), bias_out.floats()) == PCONV_OK, "unpack: %s",
          pconv_last_error());
  const Plan p = plan(read, target);
  const GuardedBytes x_in = guarded(x, edge), residual_in = guarded(residual, edge);
  const std::vector<float> nan(residual.size(), kNaN);
  const GuardedBytes y_out = guarded(nan, edge);
  const Reference r = reference_conv(layer, target, x.data(), residual.data());
  for (int n_threads : {1, 2}) {
    set_context(format("%s %s kernel=%lld stride=%lld h=%lld w=%lld pad=%lld layout=%d edge=%d threads=%d",
                       way.isa.c_str(), way.ukernel.c_str(), static_cast<long long>(geometry.kernel),
                       static_cast<long long>(geometry.stride), static_cast<long long>(target.h),
                       static_cast<long long>(target.w), static_cast<long long>(pad), target.layout,
                       static_cast<int>(edge), n_threads));
    run(p, {x_in.floats(), residual_in.floats(), y_out.floats(), -kInf, kInf, n_threads});
    for (size_t i = 0; i < r.y.size(); ++i) {
      if (y_out.floats()[i] == static_cast<float>(r.y[i])) continue;
      CHECK(false, "output %zu: got %g, expected %g", i, static_cast<double>(y_out.floats()[i]), r.y[i]);
      break;
    }
  }
}

// Every map that the way takes.
void check_maps_between_guards(const Way& way) {
  for (int64_t w = 1; w < way.lanes; ++w) {
    for (int64_t h = 1; way.fits(h, w); ++h) {
      const pconv_layout layout = way.layout((h + w) % 3 == 0 ? PCONV_NHWC : PCONV_NCHW);
      for (const Edge edge : {Edge::kEnd, Edge::kBegin}) {
        const Target target = {1 + w % 2, h, w, layout, way.isa, way.ukernel};
        check_between_guards(way, {3, way.step()}, target, edge, 1);
      }
    }
  }
}

// Widths 1 .. 2 tiles + 1 and heights around the tile's rows.
void check_widths_between_guards(const Way& way, const Geometry& geometry) {
  const int tile = way.vectors * way.lanes, rows = way.depthwise ? way.vectors : way.rows;
  for (int w = 1; w <= 2 * tile + 1; ++w) {
    for (const pconv_layout wanted : {PCONV_NCHW, PCONV_NHWC}) {
      const pconv_layout layout = way.layout(wanted);
      for (const Edge edge : {Edge::kEnd, Edge::kBegin}) {
        const int64_t pad = geometry.kernel == 1 || (w % 3 == 0 && w > 2) ? 0 : w % 3;
        const int64_t h = std::max<int64_t>(w * 4 % (2 * rows + 3) + 1, geometry.kernel - 2 * pad);
        check_between_guards(way, geometry, {1 + w % 2, h, w, layout, way.isa, way.ukernel}, edge, pad);
      }
    }
  }
}

void check_all_guards(const Way& way) {
  if (way.map_pixels > 0) return check_maps_between_guards(way);
  for (const Geometry& geometry : geometries(way)) check_widths_between_guards(way, geometry);
}

// The filters keep kernels of the even channels only; the odd ones hold NaN and Inf.
void check_unread_channels(const Way& way) {
  if (way.depthwise) return;
  Rng rng(options().seed);
  const int64_t block = std::max(way.block, 1), filters = block > 1 ? 2 * block : 5;
  Layer layer = make_layer(filters, 8, 1, 1);
  layer.conv.stride_h = layer.conv.stride_w = way.step();
  std::vector<int64_t> masks(8);
  for (int64_t o = 0; o < filters; ++o) {
    if (o % block == 0) {
      for (int64_t& mask : masks) mask = rng.between(1, 511) & way.taps;
    }
    for (int64_t i = 0; i < 8; i += 2) {
      const int64_t mask = masks[static_cast<size_t>(i)];
      for (int k = 0; k < 9; ++k) layer.kernel(o, i)[k] = static_cast<float>((mask >> k & 1) * rng.between(1, 5));
    }
  }
  const Packed packed = pack(layer);
  for (const pconv_layout wanted : {PCONV_NCHW, PCONV_NHWC}) {
    const pconv_layout layout = way.layout(wanted);
    const Target target = way.target(1, way.rows + 3, 2 * way.vectors * way.lanes + 3, layout);
    set_context(format("unread channels, layout=%d w=%lld", layout, static_cast<long long>(target.w)));
    std::vector<float> x = small_integers(rng, static_cast<size_t>(8 * target.h * target.w));
    for (int64_t c = 1; c < 8; c += 2) {
      for (int64_t i = 0; i < target.h * target.w; ++i) {
        const float poison = c % 4 == 1 ? kNaN : kInf;
        x[at(layout, 8, target.h, target.w, 0, c, i / target.w, i % target.w)] = poison;
      }
    }
    const Reference r = reference_conv(layer, target, x.data(), nullptr);
    std::vector<float> y(r.y.size(), kNaN);
    run(plan(packed, target), {x.data(), nullptr, y.data(), -kInf, kInf, 2});
    for (size_t i = 0; i < y.size(); ++i) {
      CHECK(y[i] == static_cast<float>(r.y[i]), "output %zu: got %g, expected %g", i, static_cast<double>(y[i]),
            r.y[i]);
    }
  }
}

void add_tests() {
  for_each_way("guard", [](const Way& way) {
    state().tests.push_back({"guard/" + way.id(), [way] { check_all_guards(way); }});
    state().tests.push_back({"unread_channels/" + way.id(), [way] { check_unread_channels(way); }});
  });
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, pconv_test::add_tests); }
