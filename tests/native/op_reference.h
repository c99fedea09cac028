// What operators compute, in float64 and index by index: the truth for op_test.
#ifndef PCONV_TESTS_NATIVE_OP_REFERENCE_H_
#define PCONV_TESTS_NATIVE_OP_REFERENCE_H_

#include "op_support.h"

namespace pconv_test {

// Results, and how far a float may be from each.
struct Truth {
  Dims dims;
  std::vector<double> y, bound;

  void add(double value, double allowed) { y.push_back(value), bound.push_back(allowed); }
};

constexpr double kRounding = 0x1p-24;

inline Dims unravel(int64_t i, const Dims& dims) {
  Dims at(dims.size());
  for (size_t d = dims.size(); d-- > 0;) at[d] = i % dims[d], i /= dims[d];
  return at;
}
inline int64_t ravel(const Dims& at, const Dims& dims) {
  int64_t i = 0;
  for (size_t d = 0; d < dims.size(); ++d) i = i * dims[d] + at[d];
  return i;
}
inline double value_at(const Floats& x, int64_t i) { return static_cast<double>(x[static_cast<size_t>(i)]); }

// Values of x that only move: from(at) is where the output at `at` comes from, negative dims: `otherwise`.
template <class From>
Truth moved(const Floats& x, const Dims& in, const Dims& out, From from, double otherwise = 0) {
  Truth t{out, {}, {}};
  for (int64_t i = 0; i < count(out); ++i) {
    const Dims at = from(unravel(i, out));
    bool inside = true;
    for (size_t d = 0; d < in.size(); ++d) inside = inside && at[d] >= 0 && at[d] < in[d];
    t.add(inside ? value_at(x, ravel(at, in)) : otherwise, 0);
  }
  return t;
}

// activation(y) of a case whose first attributes are those of activations.
inline void finish(const OpCase& c, Truth* t) {
  const Floats* slopes = nullptr;
  for (const OpData& d : c.data) slopes = std::string(d.name) == "slope" ? &d.values : slopes;
  for (int64_t i = 0; i < count(t->dims); ++i) {
    const auto at = static_cast<size_t>(i);
    double alpha = static_cast<double>(c.floats[0]);
    if (slopes != nullptr) alpha = static_cast<double>((*slopes)[0]);
    if (slopes != nullptr && slopes->size() > 1) alpha = value_at(*slopes, unravel(i, t->dims)[1]);
    const double y = activation_in_double(c.ints[0], alpha, static_cast<double>(c.floats[1]), t->y[at]);
    const double relative = c.ints[0] == 10 ? 0x1p-18 : 0x1p-21;  // activation_test.cpp looks more closely
    if (c.ints[0] != 0) t->bound[at] = 2 * t->bound[at] + std::abs(y) * relative + 0x1p-140;  // slopes are below 2
    t->y[at] = y;
  }
}

inline Truth binary_truth(const OpCase& c, const std::vector<Floats>& x) {
  const Dims &a = c.inputs[0], &b = c.inputs[1];
  Truth t{Dims(std::max(a.size(), b.size())), {}, {}};
  const auto dim = [&](const Dims& dims, size_t i) {
    const size_t missing = t.dims.size() - dims.size();
    return i < missing ? 1 : dims[i - missing];
  };
  for (size_t i = 0; i < t.dims.size(); ++i) t.dims[i] = dim(a, i) == 1 ? dim(b, i) : dim(a, i);
  for (int64_t i = 0; i < count(t.dims); ++i) {
    const Dims at = unravel(i, t.dims);
    double v[2];
    for (size_t k = 0; k < 2; ++k) {
      Dims own;
      for (size_t d = t.dims.size() - c.inputs[k].size(); d < t.dims.size(); ++d) {
        own.push_back(dim(c.inputs[k], d) == 1 ? 0 : at[d]);
      }
      v[k] = value_at(x[k], ravel(own, c.inputs[k]));
    }
    const double y = c.op == "add" ? v[0] + v[1] : c.op == "sub" ? v[0] - v[1] : v[0] * v[1];
    t.add(y, std::abs(y) * kRounding);
  }
  finish(c, &t);
  return t;
}

inline Truth linear_truth(const OpCase& c, const std::vector<Floats>& x) {
  const int64_t in = c.inputs[0].back();
  const Floats& w = c.data[0].values;
  const bool has_bias = c.data.size() > 1 && std::string(c.data[1].name) == "bias";
  Truth t{c.inputs[0], {}, {}};
  t.dims.back() = static_cast<int64_t>(w.size()) / in;
  for (int64_t i = 0; i < count(t.dims); ++i) {
    const int64_t o = i % t.dims.back(), row = i / t.dims.back();
    double sum = has_bias ? value_at(c.data[1].values, o) : 0, size = std::abs(sum);
    for (int64_t k = 0; k < in; ++k) {
      const double term = value_at(w, o * in + k) * value_at(x[0], row * in + k);
      sum += term, size += std::abs(term);
    }
    t.add(sum, static_cast<double>(in + 2) * kRounding * size);
  }
  finish(c, &t);
  return t;
}

// Calls of reduce(t, planes' values under the window, floats of the padded window) for every window.
struct Window {
  int64_t y0, x0, kernel_h, kernel_w, dilation_h, dilation_w;
};
inline int64_t windows_along(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad, bool ceil) {
  const int64_t room = in + 2 * pad - dilation * (kernel - 1) - 1;
  int64_t n = (ceil ? (room + stride - 1) / stride : room / stride) + 1;
  if (ceil && (n - 1) * stride >= in + pad) --n;
  return n;
}

inline Truth pool_truth(const OpCase& c, const Floats& x) {
  const bool max = c.op == "max_pool";
  const std::vector<int64_t>& a = c.ints;
  const int64_t dil_h = max ? a[4] : 1, dil_w = max ? a[5] : 1, pad_h = max ? a[6] : a[4], pad_w = max ? a[7] : a[5];
  const bool ceil = (max ? a[8] : a[6]) != 0;
  const size_t rank = c.inputs[0].size();
  const int64_t h = c.inputs[0][rank - 2], w = c.inputs[0][rank - 1], planes = count(c.inputs[0]) / (h * w);
  Truth t{c.inputs[0], {}, {}};
  t.dims[rank - 2] = windows_along(h, a[0], a[2], dil_h, pad_h, ceil);
  t.dims[rank - 1] = windows_along(w, a[1], a[3], dil_w, pad_w, ceil);
  for (int64_t i = 0; i < planes * t.dims[rank - 2] * t.dims[rank - 1]; ++i) {
    const int64_t ox = i % t.dims[rank - 1], oy = i / t.dims[rank - 1] % t.dims[rank - 2];
    const int64_t p = i / t.dims[rank - 1] / t.dims[rank - 2];
    double best = -static_cast<double>(kInf), sum = 0, size = 0;
    int64_t inside = 0, padded = 0;
    for (int64_t k = 0; k < a[0] * a[1]; ++k) {
      const int64_t y = oy * a[2] - pad_h + k / a[1] * dil_h, column = ox * a[3] - pad_w + k % a[1] * dil_w;
      if (y < h + pad_h && column < w + pad_w) ++padded;
      if (y < 0 || y >= h || column < 0 || column >= w) continue;
      const double v = value_at(x, (p * h + y) * w + column);
      ++inside, best = std::max(best, v), sum += v, size += std::abs(v);
    }
    if (max) {
      t.add(best, 0);
    } else {
      const auto by = static_cast<double>(a[8] != 0 ? a[8] : a[7] != 0 ? padded : inside);
      t.add(sum / by, static_cast<double>(inside + 2) * kRounding * size / std::abs(by));
    }
  }
  return t;
}

inline Truth adaptive_truth(const OpCase& c, const Floats& x) {
  const size_t rank = c.inputs[0].size();
  const int64_t h = c.inputs[0][rank - 2], w = c.inputs[0][rank - 1], planes = count(c.inputs[0]) / (h * w);
  const int64_t out_h = c.ints[0], out_w = c.ints[1];
  Truth t{c.inputs[0], {}, {}};
  t.dims[rank - 2] = out_h, t.dims[rank - 1] = out_w;
  for (int64_t i = 0; i < planes * out_h * out_w; ++i) {
    const int64_t ox = i % out_w, oy = i / out_w % out_h, p = i / out_w / out_h;
    double sum = 0, size = 0, n = 0;
    for (int64_t y = oy * h / out_h; y < (oy * h + h + out_h - 1) / out_h; ++y) {
      for (int64_t column = ox * w / out_w; column < (ox * w + w + out_w - 1) / out_w; ++column) {
        const double v = value_at(x, (p * h + y) * w + column);
        sum += v, size += std::abs(v), n += 1;
      }
    }
    t.add(sum / n, (n + 2) * kRounding * size / n);
  }
  return t;
}

inline Truth mean_truth(const OpCase& c, const Floats& x) {
  const Dims& in = c.inputs[0];
  const size_t first = in.size() - static_cast<size_t>(c.ints[0]);
  Truth t{Dims(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(first)), {}, {}};
  const int64_t outputs = count(t.dims), n = count(in) / std::max<int64_t>(outputs, 1);
  if (c.ints[1] != 0) t.dims.resize(in.size(), 1);
  for (int64_t i = 0; i < outputs; ++i) {
    double sum = 0, size = 0;
    for (int64_t k = 0; k < n; ++k) sum += value_at(x, i * n + k), size += std::abs(value_at(x, i * n + k));
    t.add(sum / static_cast<double>(n), static_cast<double>(n + 2) * kRounding * size / static_cast<double>(n));
  }
  return t;
}

inline Truth softmax_truth(const OpCase& c, const Floats& x) {
  const Dims& dims = c.inputs[0];
  Truth t{dims, {}, {}};
  const auto dim = static_cast<size_t>(c.ints[0]);
  for (int64_t i = 0; i < count(dims); ++i) {
    Dims at = unravel(i, dims);
    double top = -static_cast<double>(kInf), sum = 0;
    const int64_t n = dims.empty() ? 1 : dims[dim];
    const auto value = [&](int64_t k) {
      if (!dims.empty()) at[dim] = k;
      return value_at(x, ravel(at, dims));
    };
    for (int64_t k = 0; k < n; ++k) top = std::max(top, value(k));
    for (int64_t k = 0; k < n; ++k) sum += std::exp(value(k) - top);
    const double v = value_at(x, i) - top, terms = static_cast<double>(n) / 16 + 16;
    if (c.ints[1] != 0) {
      t.add(v - std::log(sum), (std::abs(v) * 2 + std::log(sum) + terms) * kRounding);
    } else {
      t.add(std::exp(v) / sum, std::exp(v) / sum * (std::abs(v) + terms) * kRounding + 0x1p-140);
    }
  }
  return t;
}

// Where an output lies, as torch computes it: in float.
struct Place {
  int64_t below, above;
  double weight;
};
inline Place place_of(int64_t i, int64_t in, int64_t out, double scale, const OpCase& c) {
  const bool nearest = c.ints[0] == 0, aligned = c.ints[1] != 0;
  float ratio = scale > 0 ? static_cast<float>(1 / scale) : static_cast<float>(in) / static_cast<float>(out);
  if (aligned) ratio = out > 1 ? static_cast<float>(in - 1) / static_cast<float>(out - 1) : 0.0f;
  if (in == out) return {i, i, 0};
  if (nearest) {
    const int64_t at = out == 2 * in ? i / 2 : std::min(static_cast<int64_t>(static_cast<float>(i) * ratio), in - 1);
    return {at, at, 0};
  }
  const float middle = (static_cast<float>(i) + 0.5f) * ratio;
  const float at = aligned ? ratio * static_cast<float>(i) : std::max(middle - 0.5f, 0.0f);
  const int64_t below = std::min(static_cast<int64_t>(at), in - 1);
  const float weight = std::min(at - static_cast<float>(below), 1.0f);
  return {below, std::min(below + 1, in - 1), static_cast<double>(weight)};
}

inline Truth upsample_truth(const OpCase& c, const Floats& x) {
  const Dims& in = c.inputs[0];
  Truth t{in, {}, {}};
  double scales[2];
  for (size_t i = 0; i < 2; ++i) {
    scales[i] = std::round(static_cast<double>(c.floats[i]) * 1e6) / 1e6;  // what was written, 1.3 for 1.3f
    const auto scaled = static_cast<int64_t>(std::floor(static_cast<double>(in[2 + i]) * scales[i]));
    t.dims[2 + i] = c.ints[2] != 0 ? c.ints[2 + i] : scaled;
  }
  for (int64_t i = 0; i < count(t.dims); ++i) {
    const Dims at = unravel(i, t.dims);
    const Place row = place_of(at[2], in[2], t.dims[2], scales[0], c);
    const Place column = place_of(at[3], in[3], t.dims[3], scales[1], c);
    double y = 0, size = 0;
    for (int k = 0; k < 4; ++k) {
      const double weight =
          (k / 2 != 0 ? row.weight : 1 - row.weight) * (k % 2 != 0 ? column.weight : 1 - column.weight);
      const Dims from = {at[0], at[1], k / 2 != 0 ? row.above : row.below, k % 2 != 0 ? column.above : column.below};
      y += weight * value_at(x, ravel(from, in)), size += weight * std::abs(value_at(x, ravel(from, in)));
    }
    t.add(y, c.ints[0] == 0 ? 0 : 8 * kRounding * size);
  }
  return t;
}

}  // namespace pconv_test
#endif  // PCONV_TESTS_NATIVE_OP_REFERENCE_H_
