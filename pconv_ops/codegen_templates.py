"""The fixed text of what codegen.py writes; doubled braces are single ones there."""

HEADER = """\
// A network as C++; written by `pconv compile --emit-cpp`.
#ifndef NETWORK_H_
#define NETWORK_H_

#include <cstddef>
#include <memory>
#include <string>

#include "pconv/ops.h"
#include "pconv/pconv.h"

class Network {{
 public:
  static constexpr size_t kInputSizes[] = {{{input_sizes}}};  // floats
  static constexpr size_t kOutputSizes[] = {{{output_sizes}}};

  // Reads network.weights. Throws std::runtime_error: it is missing, or was not written with this code.
  explicit Network(const std::string& weights_path);

  // Contiguous fp32; {comment}. One call at a time. n_threads 0: the library's default.
  void run({parameters}, int n_threads = 0);

 private:
  struct FreePlan {{
    void operator()(pconv_plan* p) const {{ pconv_free_plan(p); }}
  }};
  struct FreeOp {{
    void operator()(pconv_op* op) const {{ pconv_free_op(op); }}
  }};
  struct FreeArena {{
    void operator()(float* p) const;
  }};
  using Plan = std::unique_ptr<pconv_plan, FreePlan>;
  using Op = std::unique_ptr<pconv_op, FreeOp>;

  static Plan plan_conv(const unsigned char* bytes, size_t n_bytes, int64_t n, int64_t h, int64_t w, int max_pool);
  static void conv(const Plan& plan, const float* x, const float* residual, float* y, float low, float high,
                   int n_threads);

  std::unique_ptr<unsigned char[]> weights_;  // operators read theirs there; layers are kept by their plans
  Plan plans_[{n_plans}];
  Op ops_[{n_ops}];
  std::unique_ptr<float[], FreeArena> arena_;
  static constexpr size_t kArenaFloats = {arena};
}};

#endif  // NETWORK_H_
"""

SOURCE = """\
// A network as C++; written by `pconv compile --emit-cpp`.
#include "network.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <new>
#include <stdexcept>

namespace {{

constexpr size_t kWeightsBytes = {n_bytes};  // the checksum of all others in the last four

void check(pconv_status status) {{
  if (status != PCONV_OK) throw std::runtime_error(pconv_last_error());
}}

uint32_t crc32(const unsigned char* bytes, size_t n) {{
  uint32_t crc = ~0u;
  for (size_t i = 0; i < n; ++i) {{
    crc ^= bytes[i];
    for (int k = 0; k < 8; ++k) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320u : 0u);
  }}
  return ~crc;
}}

std::unique_ptr<unsigned char[]> read_weights(const std::string& path) {{
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr) throw std::runtime_error(path + ": cannot be opened");
  std::unique_ptr<unsigned char[]> bytes(new unsigned char[kWeightsBytes + 1]);
  const bool whole = std::fread(bytes.get(), 1, kWeightsBytes + 1, file.get()) == kWeightsBytes;
  const unsigned char* const sum = bytes.get() + kWeightsBytes - 4;
  const uint32_t expected = sum[0] | uint32_t{{sum[1]}} << 8 | uint32_t{{sum[2]}} << 16 | uint32_t{{sum[3]}} << 24;
  if (!whole || crc32(bytes.get(), kWeightsBytes - 4) != expected) {{
    throw std::runtime_error(path + ": are not the weights of this network");
  }}
  return bytes;
}}

pconv_op* make_op(const char* op, std::initializer_list<pconv_shape> inputs, std::initializer_list<int64_t> ints,
                  std::initializer_list<float> floats, std::initializer_list<pconv_op_data> data,
                  int64_t output_step) {{
  pconv_op_desc desc = {{}};
  desc.op = op;
  desc.inputs = inputs.begin();
  desc.n_inputs = static_cast<int>(inputs.size());
  desc.ints = ints.begin();
  desc.n_ints = static_cast<int>(ints.size());
  desc.floats = floats.begin();
  desc.n_floats = static_cast<int>(floats.size());
  desc.data = data.begin();
  desc.n_data = static_cast<int>(data.size());
  desc.output_step = output_step;
  pconv_op* made = nullptr;
  check(pconv_make_op(&desc, &made));
  return made;
}}

template <typename Op>
void run_op(const Op& op, std::initializer_list<const float*> inputs, float* output, int n_threads) {{
  check(pconv_run_op(op.get(), inputs.begin(), output, n_threads));
}}

}}  // namespace

void Network::FreeArena::operator()(float* p) const {{ std::free(p); }}

Network::Plan Network::plan_conv(const unsigned char* bytes, size_t n_bytes, int64_t n, int64_t h, int64_t w,
                                 int max_pool) {{
  pconv_packed* packed = nullptr;
  check(pconv_read_packed(bytes, n_bytes, &packed));
  const pconv_plan_options options = {{n, h, w, PCONV_NCHW, nullptr, nullptr, 0, max_pool}};
  pconv_plan* plan = nullptr;
  const pconv_status status = pconv_plan_conv(packed, &options, &plan);
  pconv_free_packed(packed);
  check(status);
  return Plan(plan);
}}

void Network::conv(const Plan& plan, const float* x, const float* residual, float* y, float low, float high,
                   int n_threads) {{
  const pconv_run_args args = {{x, residual, y, low, high, n_threads}};
  check(pconv_run_plan(plan.get(), &args));
}}

Network::Network(const std::string& weights_path) : weights_(read_weights(weights_path)) {{
  const unsigned char* const weights = weights_.get();
  const auto* const floats = reinterpret_cast<const float*>(weights);
  (void)floats;  // not every network has operators with weights
  void* arena = nullptr;
  if (posix_memalign(&arena, 64, kArenaFloats * sizeof(float)) != 0) throw std::bad_alloc();
  arena_.reset(static_cast<float*>(arena));
  {prepare}
}}

void Network::run({parameters}, int n_threads) {{
  float* const arena = arena_.get();
  const auto* const constants = reinterpret_cast<const float*>(weights_.get());
  (void)arena, (void)constants;  // not every network has some
  {calls}
}}
"""

MAIN = """\
// Runs the network once: `network WEIGHTS INPUT... OUTPUT...` with files of raw little-endian float32.
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "network.h"

namespace {{

constexpr size_t kInputs = {n_inputs}, kOutputs = {n_outputs};

std::vector<float> read_floats(const char* path, size_t count) {{
  std::vector<float> values(count + 1);
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) throw std::runtime_error(std::string(path) + ": cannot be opened");
  const size_t n = std::fread(values.data(), sizeof(float), count + 1, file);
  std::fclose(file);
  if (n != count) throw std::runtime_error(std::string(path) + ": expected " + std::to_string(count) + " numbers");
  values.resize(count);
  return values;
}}

void write_floats(const char* path, const std::vector<float>& values) {{
  std::FILE* file = std::fopen(path, "wb");
  if (file == nullptr) throw std::runtime_error(std::string(path) + ": cannot be opened");
  const bool whole = std::fwrite(values.data(), sizeof(float), values.size(), file) == values.size();
  if (std::fclose(file) != 0 || !whole) throw std::runtime_error(std::string(path) + ": cannot be written");
}}

template <size_t... kIn, size_t... kOut>
void call(Network* network, const std::vector<std::vector<float>>& inputs, std::vector<std::vector<float>>* outputs,
          std::index_sequence<kIn...>, std::index_sequence<kOut...>) {{
  network->run(inputs[kIn].data()..., (*outputs)[kOut].data()...);
}}

}}  // namespace

int main(int argc, char** argv) {{
  if (argc != static_cast<int>(2 + kInputs + kOutputs)) {{
    std::fprintf(stderr, "usage: %s WEIGHTS %zu inputs, %zu outputs: files of raw float32\\n", argv[0], kInputs,
                 kOutputs);
    return 2;
  }}
  try {{
    Network network(argv[1]);
    std::vector<std::vector<float>> inputs, outputs;
    for (size_t i = 0; i < kInputs; ++i) inputs.push_back(read_floats(argv[2 + i], Network::kInputSizes[i]));
    for (size_t i = 0; i < kOutputs; ++i) outputs.emplace_back(Network::kOutputSizes[i]);
    call(&network, inputs, &outputs, std::make_index_sequence<kInputs>(), std::make_index_sequence<kOutputs>());
    for (size_t i = 0; i < kOutputs; ++i) write_floats(argv[2 + kInputs + i], outputs[i]);
  }} catch (const std::exception& error) {{
    std::fprintf(stderr, "%s\\n", error.what());
    return 1;
  }}
  return 0;
}}
"""

CMAKE = """\
# Builds the network against libpconv: an installed one (CMAKE_PREFIX_PATH) or, with PCONV_SOURCE_DIR, its sources.
# For aarch64 add --toolchain PCONV_SOURCE_DIR/cmake/toolchains/aarch64-linux-gnu.cmake.
cmake_minimum_required(VERSION 3.20)
project(network LANGUAGES CXX)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
if(PCONV_SOURCE_DIR)
  add_subdirectory(${PCONV_SOURCE_DIR} pconv EXCLUDE_FROM_ALL)
else()
  find_package(pconv REQUIRED)
endif()
add_executable(network main.cpp network.cpp)
target_compile_features(network PRIVATE cxx_std_17)
target_link_libraries(network PRIVATE pconv::pconv_static)
"""

README = """\
# A network as C++
Written by `pconv compile --emit-cpp`. Inputs: {inputs}. Outputs: {outputs}. All float32, contiguous.

    cmake -B build -DPCONV_SOURCE_DIR=/path/to/pconv_ops   # or -DCMAKE_PREFIX_PATH=/where/pconv/is/installed
    cmake --build build
    build/network network.weights input.bin output.bin     # raw float32

`network.h` has the class to use from your own code. For aarch64 add
`--toolchain /path/to/pconv_ops/cmake/toolchains/aarch64-linux-gnu.cmake`.
"""
