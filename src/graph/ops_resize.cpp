// upsample: nearest and bilinear interpolation with torch's sizes and coordinates.
#include <cinttypes>
#include <cmath>
#include <cstring>

#include "checked.h"
#include "rules.h"
#include "scratch.h"

namespace pconv {
namespace {

enum Mode : int64_t { kNearest = 0, kBilinear = 1 };

// The number that a user meant: 1.3 as a float is less, and floor(10 * 1.3) must be 13; 2 / 3 must go 1.5 inputs ahead.
// The simplest fraction that gives the float is that number, and otherwise as near to it as the float.
double meant(float scale) {
  for (double below = 1; below <= 1000; ++below) {
    const double fraction = std::round(static_cast<double>(scale) * below) / below;
    if (static_cast<float>(fraction) == scale) return fraction;
  }
  return static_cast<double>(scale);
}

pconv_status check_axis(const char* axis, int64_t size, int64_t out, float scale, int64_t* result) {
  if (out != 0) {
    if (scale == 0.0f) return *result = out, PCONV_OK;
    return fail(PCONV_INVALID_ARGUMENT, "scale_%s: got %g beside a size, allowed is 0", axis,
                static_cast<double>(scale));
  }
  if (!(scale > 0.0f) || std::isinf(scale)) {
    return fail(PCONV_INVALID_ARGUMENT, "scale_%s: got %g without a size, allowed are numbers above 0", axis,
                static_cast<double>(scale));
  }
  const double scaled = std::floor(static_cast<double>(size) * meant(scale));
  if (scaled < 1.0 || scaled > static_cast<double>(kMaxSide)) {
    return fail(PCONV_INVALID_ARGUMENT, "scale_%s: %g times %" PRId64 " gives a size of %g, allowed 1 to %" PRId64,
                axis, static_cast<double>(scale), size, scaled, kMaxSide);
  }
  *result = static_cast<int64_t>(scaled);
  return PCONV_OK;
}

pconv_status infer_upsample(const Node& node, const Shape* inputs, Shape* output) {
  if (const pconv_status s = check_rank(inputs[0], 4, 4)) return s;
  if (const pconv_status s = check_ints(node, 0, 2, 0, 1)) return s;
  if (const pconv_status s = check_ints(node, 2, 4, 0, kMaxSide)) return s;
  if (node.ints[0] == kNearest && node.ints[1] != 0) {
    return fail(PCONV_INVALID_ARGUMENT, "align_corners: got 1, allowed is 0 for mode 0, nearest");
  }
  if ((node.ints[2] != 0) != (node.ints[3] != 0)) {
    return fail(PCONV_INVALID_ARGUMENT, "out_h, out_w: got %" PRId64 " and %" PRId64 ", allowed are two sizes or 0, 0",
                node.ints[2], node.ints[3]);
  }
  *output = inputs[0];
  for (int i = 0; i < 2; ++i) {
    const int64_t size = inputs[0].dims[2 + i];
    if (size < 1 || size > kMaxSide) {
      return fail(PCONV_INVALID_ARGUMENT, "input 0: got planes with a side of %" PRId64 ", allowed 1 to %" PRId64, size,
                  kMaxSide);
    }
    const auto at = static_cast<size_t>(i);
    const int64_t out = node.ints[2 + at];
    if (const pconv_status s = check_axis(i == 0 ? "h" : "w", size, out, node.floats[at], &output->dims[2 + i])) {
      return s;
    }
  }
  return PCONV_OK;
}

// Coordinates along one axis. torch computes them in float too, and so must we: a rounding decides where an output
// lies.
struct Axis {
  int64_t in, out;
  float ratio;  // inputs for an output
  bool align_corners;

  Axis(const Node& node, int axis, int64_t size, int64_t result)
      : in(size), out(result), align_corners(node.ints[1] != 0) {
    const float scale = node.floats[static_cast<size_t>(axis)];
    if (align_corners) {
      ratio = out > 1 ? static_cast<float>(in - 1) / static_cast<float>(out - 1) : 0.0f;
    } else if (scale > 0.0f) {
      ratio = static_cast<float>(1.0 / meant(scale));
    } else {
      ratio = static_cast<float>(in) / static_cast<float>(out);
    }
  }

  int64_t nearest(int64_t i) const {
    if (out == in) return i;
    if (out == 2 * in) return i / 2;
    return std::min(static_cast<int64_t>(static_cast<float>(i) * ratio), in - 1);
  }
  // The input below and how far the output lies from it towards the next.
  int64_t below(int64_t i, float* weight) const {
    if (out == in) return *weight = 0.0f, i;
    const float place =
        align_corners ? ratio * static_cast<float>(i) : std::max(ratio * (static_cast<float>(i) + 0.5f) - 0.5f, 0.0f);
    const int64_t input = std::min(static_cast<int64_t>(place), in - 1);
    *weight = std::min(std::max(place - static_cast<float>(input), 0.0f), 1.0f);
    return input;
  }
};

// Tables of this call, in the caller's scratch.
struct Tables {
  int32_t *row = nullptr, *column = nullptr;
  float *row_weight = nullptr, *column_weight = nullptr;
  float* lines = nullptr;  // [n_lines][line_floats]
  int64_t line_floats = 0;

  pconv_status make(const Axis& rows, const Axis& columns, int64_t n_lines) {
    const int64_t out_h = div_up(rows.out, kBilinearColumns) * kBilinearColumns;
    const int64_t out_w = div_up(columns.out, kBilinearColumns) * kBilinearColumns;
    line_floats = div_up(columns.in + 1, kBilinearColumns) * kBilinearColumns;
    const CheckedSize words = checked(2) * (checked(out_h) + checked(out_w)) + checked(n_lines) * checked(line_floats);
    const CheckedSize bytes = words * checked(sizeof(float));
    unsigned char* scratch = bytes.at_most(PTRDIFF_MAX) ? thread_scratch(bytes.value()) : nullptr;
    if (scratch == nullptr) {
      return fail(PCONV_OUT_OF_MEMORY, "scratch: could not allocate %" PRIu64 " floats", words.value());
    }
    row = reinterpret_cast<int32_t*>(scratch), column = row + out_h;
    row_weight = reinterpret_cast<float*>(column + out_w), column_weight = row_weight + out_h;
    lines = column_weight + out_w;
    std::memset(column, 0, static_cast<size_t>(out_w) * sizeof(*column));
    std::memset(column_weight, 0, static_cast<size_t>(out_w) * sizeof(*column_weight));
    return PCONV_OK;
  }
};

void nearest_plane(const Tables& tables, const float* x, float* y, const Axis& rows, const Axis& columns) {
  const auto row_bytes = static_cast<size_t>(columns.out) * sizeof(float);
  for (int64_t i = 0; i < rows.out; ++i, y += columns.out) {
    const float* from = x + tables.row[i] * columns.in;
    if (i > 0 && tables.row[i] == tables.row[i - 1]) {
      std::memcpy(y, y - columns.out, row_bytes);
    } else if (columns.out == columns.in) {
      std::memcpy(y, from, row_bytes);
    } else if (columns.out == 2 * columns.in) {
      for (int64_t j = 0; j < columns.in; ++j) y[2 * j] = y[2 * j + 1] = from[j];
    } else {
      for (int64_t j = 0; j < columns.out; ++j) y[j] = from[tables.column[j]];
    }
  }
}

pconv_status run_nearest(const OpCall& call, const Planes& planes, const Axis& rows, const Axis& columns) {
  Tables tables;
  if (const pconv_status s = tables.make(rows, columns, 0)) return s;
  for (int64_t i = 0; i < rows.out; ++i) tables.row[i] = static_cast<int32_t>(rows.nearest(i));
  for (int64_t j = 0; j < columns.out; ++j) tables.column[j] = static_cast<int32_t>(columns.nearest(j));
  for_parts(planes.parts, planes.planes, planes.out, call.n_threads, [&](int64_t part, int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      nearest_plane(tables, call.inputs[0].data + part * planes.in_step + p * planes.in,
                    call.output.data + part * planes.out_step + p * planes.out, rows, columns);
    }
  });
  return PCONV_OK;
}

// Tasks are counted here, as each has a line of its own.
pconv_status run_bilinear(const OpCall& call, const Planes& planes, const Axis& rows, const Axis& columns) {
  const int64_t n = planes.parts * planes.planes, n_tasks = count_tasks(n, 2 * planes.out, call.n_threads);
  Tables tables;
  if (const pconv_status s = tables.make(rows, columns, n_tasks)) return s;
  for (int64_t i = 0; i < rows.out; ++i) {
    tables.row[i] = static_cast<int32_t>(rows.below(i, &tables.row_weight[i]));
  }
  for (int64_t j = 0; j < columns.out; ++j) {
    tables.column[j] = static_cast<int32_t>(columns.below(j, &tables.column_weight[j]));
  }
  for_ranges(n_tasks, n / n_tasks * 2 * planes.out, call.n_threads, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t begin = n * task / n_tasks, end = n * (task + 1) / n_tasks;
      for (int64_t p = begin; p < end;) {
        const int64_t part = p / planes.planes, at = p % planes.planes, count = std::min(planes.planes - at, end - p);
        call.table.ops->bilinear({call.inputs[0].data + part * planes.in_step + at * planes.in,
                                  call.output.data + part * planes.out_step + at * planes.out, count, rows.in,
                                  columns.in, rows.out, columns.out, tables.row, tables.row_weight, tables.column,
                                  tables.column_weight, tables.lines + task * tables.line_floats});
        p += count;
      }
    }
  });
  return PCONV_OK;
}

pconv_status run_upsample(const OpCall& call) {
  const Tensor &x = call.inputs[0], &y = call.output;
  if (y.shape.count() == 0) return PCONV_OK;
  const Planes planes(x, y);
  const Axis rows(call.node, 0, x.shape.dims[2], y.shape.dims[2]);
  const Axis columns(call.node, 1, x.shape.dims[3], y.shape.dims[3]);
  return call.node.ints[0] == kNearest ? run_nearest(call, planes, rows, columns)
                                       : run_bilinear(call, planes, rows, columns);
}

}  // namespace

namespace rules {
const OpRule upsample = {infer_upsample, run_upsample, nullptr};
}  // namespace rules

}  // namespace pconv
