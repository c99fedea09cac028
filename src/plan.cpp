// Packed layer + input shape -> plan: which ukernel, how the output is cut into tiles, and the prepacked weights.
#include "plan.h"

#include <cinttypes>
#include <cstring>

#include "prepack.h"
#include "run.h"
#include "status.h"
#include "validate.h"

namespace pconv {
namespace {

int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Tiles of `width` lanes over the columns that the outputs read. Overlapping tiles need no carry but waste two lanes
// each: taken where that costs no further tile.
Columns cut_columns(const pconv_conv_desc& conv, int64_t out_w, int64_t width) {
  Columns c;
  c.begin = conv.pad_left > 0 ? 0 : -1;
  c.end = out_w + (conv.pad_right > 0 ? 0 : 1);
  const int64_t span = c.end - c.begin;
  const int64_t touching = div_up(span, width);
  const int64_t overlapping = span <= width ? 1 : width > 2 ? div_up(span - 2, width - 2) : touching + 1;
  c.carry = overlapping > touching;
  c.n_tiles = c.carry ? touching : overlapping;
  c.step = c.carry ? width : width - 2;
  return c;
}

// Does the ukernel take this layer and map? Only whole-map ukernels ask for something.
bool takes(const pconv_plan& plan, const pconv_packed& packed, const Ukernel& u) {
  if (!u.info->whole_map) return true;
  const pconv_conv_desc& c = plan.conv;
  const bool one_around = c.pad_top == 1 && c.pad_left == 1 && c.pad_bottom == 1 && c.pad_right == 1;
  // A vertical tap moves sums by up to w + 2 lanes, and they come from the vector beside at most.
  const int64_t lanes = u.isa->table->lanes;
  return one_around && plan.w + 2 <= lanes && plan.h * (plan.w + 1) <= lanes * u.info->vectors &&
         taps_cover(packed, u.info->taps);
}

// Predicted work of a layer on a tile shape, in multiply-add instructions; a load counts as the share of one that the
// table says. docs/PERFORMANCE.md has the measurements behind the weights.
double predicted_cost(const pconv_plan& plan, const Ukernel& u, double kernels_per_filter) {
  const int64_t rows = u.info->rows, vectors = u.info->vectors;
  const IsaTable& table = *u.isa->table;
  const Columns columns = cut_columns(plan.conv, plan.out_w, vectors * table.lanes);
  const double sums = static_cast<double>(rows * vectors);
  const double loads = static_cast<double>((u.info->whole_map ? rows : rows + 2) * vectors);
  const double load_cost = tile_bytes(plan, u) <= kL1TileBytes ? table.load_cost_l1 : table.load_cost_l2;
  double finish = 5.0 * sums + (columns.carry ? 6.0 * static_cast<double>(rows) : 0.0) + 20.0;
  if (u.info->whole_map) finish = 25.0 * sums + 20.0;  // estimated: each tap's sums are permuted and added
  const double tile = (4.0 * sums + load_cost * loads + table.kernel_cost) * kernels_per_filter + finish;
  return tile * static_cast<double>(div_up(plan.out_h, u.info->band_rows) * columns.n_tiles);
}

const Ukernel* choose_ukernel(const pconv_plan& plan, const pconv_packed& packed, double kernels_per_filter) {
  const Registry& r = registry();
  const Ukernel* best = nullptr;
  double best_cost = 0;
  for (int i = 0; i < r.n_ukernels; ++i) {
    const Ukernel& u = r.ukernels[i];
    if (u.isa != plan.isa || !takes(plan, packed, u)) continue;
    const double cost = predicted_cost(plan, u, kernels_per_filter);
    if (best == nullptr || cost < best_cost) {
      best = &u;
      best_cost = cost;
    }
  }
  return best;
}

// Reading another value as the enum would already be undefined: look at its bytes first.
pconv_status read_layout(const pconv_plan_options& options, pconv_layout* layout) {
  int value = 0;
  static_assert(sizeof(value) == sizeof(options.layout), "a C enum is an int");
  std::memcpy(&value, &options.layout, sizeof(value));
  if (value != PCONV_NCHW && value != PCONV_NHWC) {
    return fail(PCONV_INVALID_ARGUMENT, "layout: got %d, allowed 0 (NCHW) and 1 (NHWC)", value);
  }
  *layout = static_cast<pconv_layout>(value);
  return PCONV_OK;
}

pconv_status check_supported(const pconv_conv_desc& c) {
  if (c.kernel_h == 3 && c.kernel_w == 3 && c.stride_h == 1 && c.stride_w == 1 && c.dilation_h == 1 &&
      c.dilation_w == 1) {
    return PCONV_OK;
  }
  return fail(PCONV_UNSUPPORTED,
              "conv: kernel %" PRId64 "x%" PRId64 ", stride %" PRId64 "x%" PRId64 ", dilation %" PRId64 "x%" PRId64
              " has no ukernel yet; kernel 3x3 with stride 1 and dilation 1 has",
              c.kernel_h, c.kernel_w, c.stride_h, c.stride_w, c.dilation_h, c.dilation_w);
}

}  // namespace

int64_t tile_bytes(const pconv_plan& plan, const Ukernel& u) {
  return plan.conv.in_channels / plan.conv.groups * u.info->tile_floats * static_cast<int64_t>(sizeof(float));
}

pconv_status make_plan(const pconv_packed& packed, const pconv_plan_options& options,
                       std::unique_ptr<pconv_plan>* plan) {
  pconv_plan p = {};
  p.conv = desc_of(packed.view.header);
  p.n = options.n, p.h = options.h, p.w = options.w;
  p.nnz = static_cast<int64_t>(packed.view.header.n_weights);
  if (const pconv_status s = read_layout(options, &p.layout)) return s;
  if (const pconv_status s = validate_map(p.conv, p.n, p.h, p.w, &p.out_h, &p.out_w)) return s;
  if (const pconv_status s = find_isa(options.isa, &p.isa)) return s;
  if (const pconv_status s = check_supported(p.conv)) return s;
  if (options.ukernel != nullptr) {
    if (const pconv_status s = find_ukernel(options.ukernel, *p.isa, &p.ukernel)) return s;
    if (!takes(p, packed, *p.ukernel)) {
      return fail(PCONV_UNSUPPORTED, "ukernel: \"%s\" does not take this layer on a %" PRId64 "x%" PRId64 " map",
                  p.ukernel->name, p.h, p.w);
    }
  } else {
    const double n_kernels = static_cast<double>(packed.view.header.n_kernels * packed.view.header.block);
    p.ukernel = choose_ukernel(p, packed, n_kernels / static_cast<double>(p.conv.out_channels));
  }
  const int lanes = p.isa->table->lanes;
  p.columns = cut_columns(p.conv, p.out_w, int64_t{p.ukernel->info->vectors} * lanes);
  if (scratch_bytes(p) < 0) {
    return fail(PCONV_INVALID_ARGUMENT, "w: %" PRId64 " columns of all channels do not fit into memory", p.w);
  }
  p.prepacked = prepack(packed, *p.ukernel->info);
  *plan = std::make_unique<pconv_plan>(p);
  return PCONV_OK;
}

}  // namespace pconv
