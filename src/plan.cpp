// Packed layer + input shape -> plan: which ukernel, how the output is cut into tiles, and the prepacked weights.
#include "plan.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "prepack.h"
#include "prepack_taps.h"
#include "run.h"
#include "status.h"
#include "tile_shape.h"
#include "validate.h"

namespace pconv {
namespace {

// With so many bands side by side at most a sixteenth of a tile a band is left to win. A strip is one task of a thread,
// so every further band must win something.
constexpr int64_t kMaxStripBands = 16;
constexpr double kGainPerBand = 0.01;

// Tiles of `width` lanes over the columns that the outputs read, for one band. Overlapping tiles need no carry but
// waste two lanes each: taken where that costs no further tile.
Columns cut_columns(const pconv_conv_desc& conv, int64_t out_w, int64_t width) {
  Columns c = {};
  c.begin = conv.pad_left > 0 ? 0 : -1;
  c.end = out_w + (conv.pad_right > 0 ? 0 : 1);
  c.strip_bands = 1;
  c.step = width;
  c.carry = true;
  Columns overlapping = c;
  overlapping.carry = false;
  overlapping.overlap = 2;
  overlapping.step = width - 2;
  const bool one_tile = c.span() <= width;
  return one_tile || (width > 2 && overlapping.n_tiles(1) <= c.n_tiles(1)) ? overlapping : c;
}

// The same with `bands` bands side by side in a strip.
Columns cut_strip(Columns c, int64_t width, int64_t bands) {
  c.strip_bands = bands;
  c.step = width;
  c.overlap = 0;
  c.carry = true;
  return c;
}

// Tiles of a general ukernel bring all the columns they read.
Columns cut_evenly(int64_t out_w, int64_t width) {
  Columns c = {};
  c.end = out_w;
  c.step = width;
  c.strip_bands = 1;
  return c;
}

// May bands lie side by side? Every column that is read is stored too, and a tile reaches over one seam at most. NHWC
// stages the rows of a strip, which should stay in L2.
bool strips_fit(const pconv_plan& plan, const Ukernel& u, int64_t width) {
  return plan.layout == PCONV_NCHW && !u.info->whole_map && u.info->block == 0 && plan.conv.pad_left > 0 &&
         plan.conv.pad_right > 0 && plan.out_w >= width;
}

// A 3x3 layer that pattern ukernels compute.
bool is_pattern_layer(const pconv_conv_desc& c) {
  return c.kernel_h == 3 && c.kernel_w == 3 && c.stride_h == 1 && c.stride_w == 1 && c.dilation_h == 1 &&
         c.dilation_w == 1;
}

// Does the ukernel take this layer and map?
bool takes(const pconv_plan& plan, const pconv_packed& packed, const Ukernel& u) {
  const pconv_conv_desc& c = plan.conv;
  if (u.info->block > 0) {
    return block_fits(packed, u.info->block) && checked(tile_bytes(plan, u)).at_most(kMaxTileBytes);
  }
  if (!is_pattern_layer(c)) return false;
  if (!u.info->whole_map) return true;
  const bool one_around = c.pad_top == 1 && c.pad_left == 1 && c.pad_bottom == 1 && c.pad_right == 1;
  // A vertical tap moves sums by up to w + 2 lanes, and they come from the vector beside at most.
  const int64_t lanes = u.isa->table->lanes;
  return one_around && plan.w + 2 <= lanes && plan.h * (plan.w + 1) <= lanes * u.info->vectors &&
         taps_cover(packed, u.info->taps);
}

// The same for general ukernels, in multiply-add instructions: a step is bound by its loads or its multiply-adds.
double predicted_taps_cost(const pconv_plan& plan, const Ukernel& u, const Columns& columns, double taps_per_filter) {
  const double block = u.info->block, sums = static_cast<double>(u.info->rows * u.info->vectors);
  // Vectors that start anywhere often lie in two lines.
  const double load = plan.conv.kernel_w == 1 && plan.conv.stride_w == 1 ? 1.0 : 2.0;
  const double step = sums * std::max(1.0, load / block), finish = 5.0 * sums + 20.0;
  return (step * taps_per_filter + finish) *
         static_cast<double>(columns.n_tiles_of_image(div_up(plan.out_h, u.info->band_rows)));
}

// Predicted work of a layer, in multiply-add instructions; a load counts as the share of one that the table says.
// docs/PERFORMANCE.md has the measurements behind the weights.
double predicted_cost(const pconv_plan& plan, const Ukernel& u, const Columns& columns, double kernels_per_filter) {
  const int64_t rows = u.info->rows, vectors = u.info->vectors;
  const IsaTable& table = *u.isa->table;
  const double sums = static_cast<double>(rows * vectors);
  const double loads = static_cast<double>((u.info->whole_map ? rows : rows + 2) * vectors);
  const double load_cost = tile_bytes(plan, u) <= kL1TileBytes ? table.load_cost_l1 : table.load_cost_l2;
  double finish = 5.0 * sums + (columns.carry ? 6.0 * static_cast<double>(rows) : 0.0) + 20.0;
  if (u.info->whole_map) finish = 25.0 * sums + 20.0;  // estimated: each tap's sums are permuted and added
  const double tile = (4.0 * sums + load_cost * loads + table.kernel_cost) * kernels_per_filter + finish;
  return tile * static_cast<double>(columns.n_tiles_of_image(div_up(plan.out_h, u.info->band_rows)));
}

// Kept kernels and kept weights of a filter, in the mean.
struct FilterWork {
  double kernels, taps;
};

struct Choice {
  const Ukernel* ukernel;
  Columns columns;
  double cost;
};

// The best cut for one ukernel: bands on their own, or as few of them side by side as have the lowest cost.
Choice choose_columns(const pconv_plan& plan, const Ukernel& u, const FilterWork& work) {
  const int64_t width = int64_t{u.info->vectors} * u.isa->table->lanes;
  if (u.info->block > 0) {
    const Columns columns = cut_evenly(plan.out_w, width);
    return {&u, columns, predicted_taps_cost(plan, u, columns, work.taps)};
  }
  Choice best = {&u, cut_columns(plan.conv, plan.out_w, width), 0};
  best.cost = predicted_cost(plan, u, best.columns, work.kernels);
  if (!strips_fit(plan, u, width)) return best;
  const int64_t bands = std::min(div_up(plan.out_h, u.info->band_rows), kMaxStripBands);
  for (int64_t n = 2; n <= bands; ++n) {
    const Columns columns = cut_strip(best.columns, width, n);
    const double cost = predicted_cost(plan, u, columns, work.kernels);
    const auto further_bands = static_cast<double>(n - best.columns.strip_bands);
    if (cost < best.cost * (1 - kGainPerBand * further_bands)) best = {&u, columns, cost};
  }
  return best;
}

// Of the plan's ISA. Pattern ukernels go first: where one takes the layer, no general one is asked. No ukernel: null.
Choice choose_ukernel(const pconv_plan& plan, const pconv_packed& packed, const FilterWork& work) {
  const Registry& r = registry();
  Choice best = {};
  for (int i = 0; i < r.n_ukernels; ++i) {
    const Ukernel& u = r.ukernels[i];
    if (u.isa != plan.isa || !takes(plan, packed, u)) continue;
    if (u.info->block > 0 && is_pattern_layer(plan.conv)) continue;
    const Choice choice = choose_columns(plan, u, work);
    if (best.ukernel == nullptr || choice.cost < best.cost) best = choice;
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

// A 1x1 layer that moves nothing sees an image as one long row, without a column at the end of each row to spare. Not
// in NHWC, which would stage the whole image in a thread's scratch.
void flatten_pointwise(pconv_plan* p) {
  const pconv_conv_desc& c = p->conv;
  const bool moves = c.kernel_h > 1 || c.kernel_w > 1 || c.stride_h > 1 || c.stride_w > 1;
  const bool pads = c.pad_top > 0 || c.pad_left > 0 || c.pad_bottom > 0 || c.pad_right > 0;
  if (moves || pads || p->layout != PCONV_NCHW || p->w > kMaxMapSide / p->h) return;
  p->w *= p->h;
  p->out_w = p->w;
  p->h = p->out_h = 1;
}

pconv_status too_large_tile(const pconv_conv_desc& c) {
  return fail(PCONV_UNSUPPORTED,
              "conv: what one output reads with kernel %" PRId64 "x%" PRId64 ", stride %" PRId64 "x%" PRId64
              ", dilation %" PRId64 "x%" PRId64 " from %" PRId64 " channels takes more than %" PRId64 " bytes",
              c.kernel_h, c.kernel_w, c.stride_h, c.stride_w, c.dilation_h, c.dilation_w, c.in_channels / c.groups,
              kMaxTileBytes);
}

}  // namespace

int64_t tile_bytes(const pconv_plan& plan, const Ukernel& u) {
  CheckedSize floats = checked(u.info->tile_floats);
  if (u.info->block > 0) floats = TileShape(plan.conv, u).floats();
  const CheckedSize bytes = checked(plan.conv.in_channels / plan.conv.groups) * floats * checked(sizeof(float));
  return bytes.at_most(INT64_MAX) ? static_cast<int64_t>(bytes.value()) : INT64_MAX;
}

pconv_status make_plan(const pconv_packed& packed, const pconv_plan_options& options,
                       std::unique_ptr<pconv_plan>* plan) {
  pconv_plan p = {};
  p.conv = desc_of(packed.view.header);
  p.n = options.n, p.h = options.h, p.w = options.w;
  p.nnz = static_cast<int64_t>(packed.view.header.n_weights);
  if (const pconv_status s = read_layout(options, &p.layout)) return s;
  if (const pconv_status s = validate_map(p.conv, p.n, p.h, p.w, &p.out_h, &p.out_w)) return s;
  p.input = {p.h, p.w};
  p.output = {p.out_h, p.out_w};
  flatten_pointwise(&p);
  if (const pconv_status s = find_isa(options.isa, &p.isa)) return s;
  const double filters = static_cast<double>(p.conv.out_channels);
  const FilterWork work = {static_cast<double>(packed.view.header.n_kernels * packed.view.header.block) / filters,
                           static_cast<double>(p.nnz) / filters};
  if (options.ukernel != nullptr) {
    if (const pconv_status s = find_ukernel(options.ukernel, *p.isa, &p.ukernel)) return s;
    if (!takes(p, packed, *p.ukernel)) {
      return fail(PCONV_UNSUPPORTED, "ukernel: \"%s\" does not take this layer on a %" PRId64 "x%" PRId64 " map",
                  p.ukernel->name, p.h, p.w);
    }
    p.columns = choose_columns(p, *p.ukernel, work).columns;
  } else {
    const Choice choice = choose_ukernel(p, packed, work);
    if (choice.ukernel == nullptr) return too_large_tile(p.conv);
    p.ukernel = choice.ukernel;
    p.columns = choice.columns;
  }
  if (scratch_bytes(p) < 0) {
    return fail(PCONV_INVALID_ARGUMENT, "w: %" PRId64 " columns of all channels do not fit into memory", p.w);
  }
  p.prepacked = prepack(packed, *p.ukernel, options.no_reorder == 0);
  *plan = std::make_unique<pconv_plan>(p);
  return PCONV_OK;
}

}  // namespace pconv
