// What an ISA computes beside convolutions: argument structs and function types. Arguments are checked by the operators
// of src/graph/. Pointers need no alignment; nothing is read or written outside the floats that are named. Elementwise
// results have the same bits on every ISA: one formula, fused multiply-adds, no library functions.
#ifndef PCONV_KERNELS_TENSOR_OPS_H_
#define PCONV_KERNELS_TENSOR_OPS_H_

#include <cstddef>
#include <cstdint>

namespace pconv {

// Numbers stand in model files: never change or reuse one.
enum class ActivationKind : int32_t {
  kNone = 0,
  kClamp = 1,        // min(max(x, alpha), beta); NaN stays NaN
  kLeakyRelu = 2,    // x > 0 ? x : alpha * x
  kPrelu = 3,        // the same, alpha by channel (dims[1]), or one for all
  kSigmoid = 4,      // 1 / (1 + exp(-x))
  kSilu = 5,         // x * sigmoid(x)
  kHardSigmoid = 6,  // clamp(x + 3, 0, 6) / 6
  kHardSwish = 7,    // x * that
  kTanh = 8,
  kGelu = 9,       // x * (1 + erf(x / sqrt 2)) / 2
  kGeluTanh = 10,  // torch's approximate="tanh"
  kElu = 11        // x > 0 ? x : alpha * (exp(x) - 1)
};
constexpr int kActivationKinds = 12;

// kPrelu reaches the kernels as kLeakyRelu, channel by channel.
struct Activation {
  ActivationKind kind;
  float alpha, beta;
};

// y[i] = activation(x[i]); y may be x.
struct ActivateArgs {
  const float* x;
  float* y;
  int64_t n;
  Activation activation;
};

enum class BinaryKind : int32_t { kAdd, kSub, kMul };

// y[i] = activation(a[i * a_step] op b[i * b_step]); steps are 0 or 1; y may be a or b where their step is 1.
struct BinaryArgs {
  const float *a, *b;
  float* y;
  int64_t n;
  int a_step, b_step;
  BinaryKind kind;
  Activation activation;
};

// y[r][o] = activation(bias[o] + sum of weights[o][i] * x[r][i]), o in [out_begin, out_end). The sum of one output does
// not depend on how many rows or outputs run together.
struct LinearArgs {
  const float* x;  // rows x_step floats apart
  int64_t x_step, rows, in;
  const float* weights;  // [out][in]
  const float* bias;     // [out], or null
  float* y;              // rows y_step floats apart
  int64_t y_step, out_begin, out_end;
  Activation activation;
};

// y[p] = sum of the floats of plane p, times scale.
struct SumArgs {
  const float* x;  // [planes][n]
  float* y;        // [planes]
  int64_t planes, n;
  float scale;
};

// Average pooling of planes by windows [y * stride - pad, + kernel), cut at the plane and `pad` around it.
struct AvgPoolArgs {
  const float* x;  // [planes][h][w]
  float* y;        // [planes][out_h][out_w]
  int64_t planes, h, w, out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
  bool count_include_pad;
  int64_t divisor;  // 0: the number of inputs of the window
};

// Bilinear interpolation of planes: output row y lies between input rows row[y] and row[y] + 1 (the last one again at
// the end), weighed 1 - row_weight[y] and row_weight[y]; columns alike. Equal heights or widths are not interpolated.
struct BilinearArgs {
  const float* x;  // [planes][h][w]
  float* y;        // [planes][out_h][out_w]
  int64_t planes, h, w, out_h, out_w;
  const int32_t* row;       // [out_h]
  const float* row_weight;  // [out_h]
  // [out_w], and any valid values up to a multiple of kBilinearColumns.
  const int32_t* column;
  const float* column_weight;
  float* line;  // [w + 1] scratch
};
constexpr int64_t kBilinearColumns = 16;

// Rows of n floats: softmax of each, or its logarithm. Either a row's floats are neighbours, and the rows follow each
// other, or the rows lie side by side and a row's floats are x_step and y_step apart.
struct SoftmaxArgs {
  const float* x;
  float* y;  // may be x, with equal steps
  int64_t rows, n;
  int64_t x_step, y_step;  // 0: neighbours
  bool log;
};

struct TensorOps {
  void (*activate)(const ActivateArgs&) noexcept;
  void (*binary)(const BinaryArgs&) noexcept;
  void (*linear)(const LinearArgs&) noexcept;
  void (*sum)(const SumArgs&) noexcept;
  void (*avg_pool)(const AvgPoolArgs&) noexcept;
  void (*bilinear)(const BilinearArgs&) noexcept;
  void (*softmax)(const SoftmaxArgs&) noexcept;
};

}  // namespace pconv
#endif  // PCONV_KERNELS_TENSOR_OPS_H_
