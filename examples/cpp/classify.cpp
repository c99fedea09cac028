// Classifies Fashion-MNIST's test images with a network that examples/fashion_mnist trained and `pconv compile` wrote:
//   classify MODEL.pconv t10k-images-idx3-ubyte [t10k-labels-idx1-ubyte]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "pconv/network.h"

namespace {

constexpr const char* kClasses[10] = {"T-shirt/top", "trouser", "pullover", "dress", "coat",
                                      "sandal",      "shirt",   "sneaker",  "bag",   "ankle boot"};
constexpr int64_t kBatch = 100;
// The mean and deviation of the training images, as examples/fashion_mnist/data.py standardises them.
constexpr float kMean = 0.2860f, kDeviation = 0.3530f;

void check(pconv_status status) {
  if (status != PCONV_OK) throw std::runtime_error(pconv_last_error());
}

// The bytes of a file of the MNIST family: a big-endian header of 32-bit numbers, the first of which is `magic`.
struct Idx {
  std::vector<uint32_t> dims;
  std::vector<unsigned char> bytes;

  Idx(const std::string& path, uint32_t magic) {
    std::ifstream file(path, std::ios::binary);
    if (number(file) != magic) throw std::runtime_error(path + ": is not the file that it should be (unpacked?)");
    size_t size = 1;
    for (uint32_t i = 0; i < (magic & 255); ++i) {
      dims.push_back(number(file));
      size *= dims.back();
    }
    if (size > (size_t{1} << 32)) throw std::runtime_error(path + ": is too large");
    bytes.resize(size);
    file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
    if (!file) throw std::runtime_error(path + ": is shorter than it says");
  }

 private:
  static uint32_t number(std::ifstream& file) {
    unsigned char b[4] = {};
    file.read(reinterpret_cast<char*>(b), 4);
    return uint32_t{b[0]} << 24 | uint32_t{b[1]} << 16 | uint32_t{b[2]} << 8 | b[3];
  }
};

struct FreeModel {
  void operator()(pconv_model* m) const { pconv_free_model(m); }
};
struct FreeSession {
  void operator()(pconv_session* s) const { pconv_free_session(s); }
};

// A network planned for batches of kBatch images.
class Classifier {
 public:
  explicit Classifier(const std::string& path) {
    pconv_model* model = nullptr;
    check(pconv_load_model(path.c_str(), &model));
    const std::unique_ptr<pconv_model, FreeModel> owner(model);  // the session keeps what it needs
    pconv_model_info info = {};
    check(pconv_query_model(model, &info));
    if (info.n_inputs != 1 || info.n_outputs != 1) throw std::runtime_error(path + ": has not one input and output");
    const pconv_shape shape = {4, {kBatch, 1, 28, 28}, 0};
    const pconv_session_options options = {&shape, nullptr, nullptr, 0};
    pconv_session* session = nullptr;
    check(pconv_plan_model(model, &options, &session));
    session_.reset(session);
    pconv_shape out = {};
    check(pconv_get_session_output(session, 0, &out));
    if (out.rank != 2 || out.dims[0] != kBatch || out.dims[1] != 10)
      throw std::runtime_error(path + ": has not ten classes");
  }

  // The class of each of `count` <= kBatch images of 28 x 28 bytes.
  std::vector<int> classify(const unsigned char* images, int64_t count) {
    for (int64_t i = 0; i < count * 784; ++i) {
      pixels_[static_cast<size_t>(i)] = (static_cast<float>(images[i]) / 255.0f - kMean) / kDeviation;
    }
    const float* input = pixels_.data();
    float* output = logits_.data();
    const pconv_session_args args = {&input, &output, 0, nullptr};
    check(pconv_run_session(session_.get(), &args));
    std::vector<int> classes;
    for (int64_t i = 0; i < count; ++i) {
      const float* row = output + i * 10;
      classes.push_back(static_cast<int>(std::max_element(row, row + 10) - row));
    }
    return classes;
  }

 private:
  std::unique_ptr<pconv_session, FreeSession> session_;
  std::vector<float> pixels_ = std::vector<float>(kBatch * 784), logits_ = std::vector<float>(kBatch * 10);
};

void run(int argc, char** argv) {
  const Idx images(argv[2], 0x803);
  if (images.dims[1] != 28 || images.dims[2] != 28) throw std::runtime_error("images: are not of 28 x 28 pixels");
  Classifier classifier(argv[1]);
  const auto total = static_cast<int64_t>(images.dims[0]);
  std::vector<int> classes;
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < total; i += kBatch) {
    const std::vector<int> found = classifier.classify(images.bytes.data() + i * 784, std::min(kBatch, total - i));
    classes.insert(classes.end(), found.begin(), found.end());
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (size_t i = 0; i < std::min<size_t>(classes.size(), 10); ++i)
    std::printf("image %zu: %s\n", i, kClasses[classes[i]]);
  std::printf("%lld images in %.1f ms\n", static_cast<long long>(total), 1e3 * seconds);
  if (argc < 4) return;
  const Idx labels(argv[3], 0x801);
  if (labels.dims[0] != images.dims[0]) throw std::runtime_error("labels: are not as many as images");
  int64_t right = 0;
  for (size_t i = 0; i < classes.size(); ++i) right += classes[i] == labels.bytes[i];
  std::printf("accuracy %.2f %%\n", 100.0 * static_cast<double>(right) / static_cast<double>(total));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: classify MODEL.pconv IMAGES [LABELS]: unpacked files of Fashion-MNIST\n");
    return 2;
  }
  try {
    run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "classify: %s\n", error.what());
    return 1;
  }
  return 0;
}
