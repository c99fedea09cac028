// Packed layer + input shape -> plan: which ukernel, how the output is cut into tiles, and the prepacked weights.
#include "plan.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstring>

#include "cache_sizes.h"
#include "phases.h"
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
  if (conv.stride_w > 1) {  // no sum moves to the left
    c.end = out_w;
    return c;
  }
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

// Outputs of planes are numbered in 32 bits.
constexpr int64_t kMaxFlatOutputs = int64_t{1} << 30;

// May bands lie side by side? Every column that is read is stored too, and a tile reaches over one seam at most. NHWC
// and what will be pooled stage the rows of a strip, which should stay in L2.
bool strips_fit(const pconv_plan& plan, const Ukernel& u, int64_t width) {
  return plan.layout == PCONV_NCHW && plan.pool == 1 && u.info->body == Body::kPattern && u.info->stride == 1 &&
         plan.conv.pad_left > 0 && plan.conv.pad_right > 0 && plan.out_w >= width;
}

// A 3x3 layer that pattern ukernels of this stride compute.
bool is_pattern_layer(const pconv_conv_desc& c, int stride) {
  return c.kernel_h == 3 && c.kernel_w == 3 && c.stride_h == stride && c.stride_w == stride && c.dilation_h == 1 &&
         c.dilation_w == 1;
}

// A tile that is read in place counts too: its bytes are what the plan weighs.
bool planes_fit(const PlanesLayout& planes) {
  return planes.tile_bytes <= kMaxTileBytes && planes.total <= kMaxTileBytes / static_cast<int64_t>(sizeof(float));
}

// Rows of outputs lie in one strip with those that they are pooled with.
bool pools(const pconv_plan& plan, const KernelInfo& kernel) {
  const bool strips = kernel.body == Body::kPattern || kernel.body == Body::kLine || kernel.body == Body::kWindow;
  return strips && kernel.band_rows % plan.pool == 0;
}

// Does the ukernel take this layer and map?
bool takes(const pconv_plan& plan, const pconv_packed& packed, const Ukernel& u) {
  const pconv_conv_desc& c = plan.conv;
  if (plan.pool > 1 && !pools(plan, *u.info)) return false;
  switch (u.info->body) {
    case Body::kPattern:
    case Body::kLine:
      return is_pattern_layer(c, u.info->stride);
    case Body::kMap:
    case Body::kTinyMap: {
      const bool one_around = c.pad_top == 1 && c.pad_left == 1 && c.pad_bottom == 1 && c.pad_right == 1;
      // A vertical tap moves sums by up to w + 1 lanes, and they come from the vector beside at most.
      return is_pattern_layer(c, u.info->stride) && one_around && plan.w + 1 <= u.isa->table->lanes &&
             plan.h * plan.w <= u.info->band_rows && taps_cover(packed, u.info->taps);
    }
    case Body::kWindow:
      return block_fits(packed, u.info->block) && checked(tile_bytes(plan, u)).at_most(kMaxTileBytes);
    case Body::kDepthwise:
      return plan.layout == PCONV_NCHW && c.in_channels == c.groups &&
             phase_bytes(c, plan.out_w, 1, u.isa->table->lanes).at_most(kMaxTileBytes);
    case Body::kDwDirect:
      return plan.layout == PCONV_NCHW && c.in_channels == c.groups && c.stride_w <= u.isa->table->dwdirect_stride_w &&
             direct_takes(c, plan.h, plan.w, plan.out_h, plan.out_w);
    case Body::kPlanes:
    case Body::kScatter:
      // NHWC would have to be transposed for single outputs.
      return plan.layout == PCONV_NCHW && block_fits(packed, std::max(u.info->block, 1)) &&
             plan.own_planes.n * (c.in_channels / c.groups) < kMaxPlanes &&
             plan.out_h * plan.out_w <= kMaxFlatOutputs && planes_fit(lay_out_planes(plan, u));
  }
  return false;
}

// Kept kernels and kept weights of a filter, in the mean, and masks of the layer.
struct FilterWork {
  double kernels, taps, masks;
};

// Work of a filter in one tile, in multiply-add instructions; a load counts as the share of one that the table says.
// docs/PERFORMANCE.md has the measurements behind the weights.
double pattern_work(const pconv_plan& plan, const Ukernel& u, const Columns& columns, const FilterWork& work) {
  const int64_t rows = u.info->rows, vectors = u.info->vectors;
  const bool map = u.info->whole_map();
  // A kernel is a multiply-add and its loads, a run's end its moves.
  if (u.info->body == Body::kTinyMap) return 1.5 * work.kernels + 80.0;
  const IsaTable& table = *u.isa->table;
  const double sums = static_cast<double>(rows * vectors);
  const double taps = work.kernels > 0 ? work.taps / work.kernels : 0;  // of a kernel
  if (u.info->body == Body::kLine) {  // the loads of a few taps take longer than their multiply-adds
    return std::max(7.0 * sums + 12.0, taps * sums + 8.0) * work.kernels + 5.0 * sums + 20.0;
  }
  double loads = static_cast<double>((map ? rows : rows + 2) * vectors);
  if (u.info->stride == 2) loads = 3.2 * sums;  // of an SCP: hardly any row is another tap's too
  const double load_cost = tile_bytes(plan, u) <= kL1TileBytes ? table.load_cost_l1 : table.load_cost_l2;
  double finish = 5.0 * sums + (columns.carry ? 6.0 * static_cast<double>(rows) : 0.0) + 20.0;
  if (map) finish = 25.0 * sums + 20.0;  // estimated: each tap's sums are permuted and added
  return (taps * sums + load_cost * loads + table.kernel_cost) * work.kernels + finish;
}

// Steps of a block for each tap that one of its filters keeps on its own: filters that keep the same kernels need not
// keep the same taps, and the last block of a group may have less of them.
double steps_per_tap(const pconv_plan& plan, const Ukernel& u, const FilterWork& work) {
  const double block = u.info->block, filters = static_cast<double>(plan.conv.out_channels / plan.conv.groups);
  const double kernel_taps = static_cast<double>(plan.conv.kernel_h * plan.conv.kernel_w);
  const double share = work.kernels > 0 ? std::min(1.0, work.taps / (work.kernels * kernel_taps)) : 1.0;
  const double together = work.masks <= 1 ? share : 1.0 - std::pow(1.0 - share, block);
  return together / share * std::ceil(filters / block) * block / filters;
}

// The same of a tap stream: a step takes its multiply-adds or its loads, whichever is more. Inputs of a tile that lies
// in L2 come a line in so many multiply-adds.
constexpr double kL2LineWork = 4.6;
double taps_work(const pconv_plan& plan, const Ukernel& u, const FilterWork& work) {
  const double block = u.info->block, sums = static_cast<double>(u.info->rows * u.info->vectors);
  // Vectors that start anywhere often lie in two lines. Where many filters share a load of a plane, that does not show.
  const bool aligned = u.info->planes() || (plan.conv.kernel_w == 1 && plan.conv.stride_w == 1);
  double loads = sums * (aligned ? 1.0 : 2.0);
  double lines = tile_bytes(plan, u) <= kL1TileBytes ? 0 : sums * (aligned ? 1.0 : 1.5);
  if (u.isa->table->lanes < 16) lines *= static_cast<double>(u.isa->table->lanes) / 16;
  const double step = std::max({sums * block, loads + 1 + block, lines * kL2LineWork});
  return step / block * work.taps * steps_per_tap(plan, u, work) + 5.0 * sums + 20.0;
}

// The same of a scatter ukernel: a run of kernels costs its loads and a mispredicted exit, a kernel a load and a store
// of its sums.
double scatter_work(const pconv_plan& plan, const Ukernel& u, const FilterWork& work) {
  constexpr double kRunWork = 40.0, kKernelWork = 3.0;
  const double vectors = u.info->vectors, filters = static_cast<double>(plan.conv.out_channels);
  const double channels = static_cast<double>(plan.conv.in_channels / plan.conv.groups);
  const int64_t per_group = plan.conv.out_channels / plan.conv.groups;
  const auto units = static_cast<double>(div_up(per_group, scatter_unit(plan.conv, *u.info)) * plan.conv.groups);
  const double taps_of_kernel = work.kernels > 0 ? work.taps / work.kernels : 0;
  const double parts = work.kernels * std::ceil(taps_of_kernel / kScatterTaps);
  const double runs =
      std::min(parts * filters, units * channels * work.masks * std::ceil(taps_of_kernel / kScatterTaps));
  const double multiply_adds = work.taps * vectors + parts * (vectors + kKernelWork);
  return multiply_adds + runs / filters * (kScatterTaps * vectors + kRunWork) + 8.0 * vectors + 10.0;
}

// Packing so many floats of windows or planes for a tile, spread over the filters.
double packing_work(const pconv_plan& plan, const Ukernel& u, double floats) {
  constexpr double kVectorWork = 10.0;  // of a vector, in multiply-adds
  return floats / u.isa->table->lanes * kVectorWork / static_cast<double>(plan.conv.out_channels / plan.conv.groups);
}

struct Choice {
  const Ukernel* ukernel;
  Columns columns;
  PlanesLayout planes;
  double work;
};

// Predicted work of a layer with one ukernel and cut.
double predict(const pconv_plan& plan, const Ukernel& u, const Columns& columns, const FilterWork& work) {
  const double tile_floats = static_cast<double>(tile_bytes(plan, u)) / sizeof(float);
  const double tile = u.info->pattern() ? pattern_work(plan, u, columns, work)
                                        : taps_work(plan, u, work) + packing_work(plan, u, tile_floats);
  return tile * static_cast<double>(columns.n_tiles_of_image(div_up(plan.out_h, u.info->band_rows)));
}

Choice cut_planes(const pconv_plan& plan, const Ukernel& u, const FilterWork& work) {
  const PlanesLayout planes = lay_out_planes(plan, u);
  const double tile = (u.info->body == Body::kScatter ? scatter_work(plan, u, work) : taps_work(plan, u, work)) +
                      packing_work(plan, u, planes.packed_floats());
  // Tiles are not all full: half of the work goes by vectors.
  const double full = static_cast<double>(planes.flat.n_vectors()) / static_cast<double>(u.info->vectors);
  return {&u, {}, planes, tile * (full + static_cast<double>(planes.flat.n_tiles)) / 2};
}

// Strips of rows whose padded inputs stay in L1. Nothing else comes near: no work is predicted.
Choice cut_depthwise(const pconv_plan& plan, const Ukernel& u) {
  Columns columns = cut_evenly(plan.out_w, plan.out_w);
  const auto fits = [&](int64_t rows) {
    return phase_bytes(plan.conv, plan.out_w, rows, u.isa->table->lanes).at_most(kL1TileBytes);
  };
  while (columns.strip_bands < plan.out_h && fits(columns.strip_bands + 1)) ++columns.strip_bands;
  return {&u, columns, {}, 0.0};
}

// The best cut for one ukernel: bands on their own, or as few of them side by side as have the lowest cost.
Choice choose_cut(const pconv_plan& plan, const Ukernel& u, const FilterWork& work) {
  if (u.info->planes()) return cut_planes(plan, u, work);
  if (u.info->body == Body::kDepthwise) return cut_depthwise(plan, u);
  if (u.info->body == Body::kDwDirect) return {&u, cut_evenly(plan.out_w, plan.out_w), {}, 0.0};
  const int64_t width = u.width();
  if (u.info->body == Body::kWindow || u.info->body == Body::kLine) {
    const Columns columns = cut_evenly(plan.out_w, width);
    return {&u, columns, {}, predict(plan, u, columns, work)};
  }
  Choice best = {&u, cut_columns(plan.conv, plan.out_w, width), {}, 0};
  best.work = predict(plan, u, best.columns, work);
  if (!strips_fit(plan, u, width)) return best;
  const int64_t bands = std::min(div_up(plan.out_h, u.info->band_rows), kMaxStripBands);
  for (int64_t n = 2; n <= bands; ++n) {
    const Columns columns = cut_strip(best.columns, width, n);
    const double total = predict(plan, u, columns, work);
    const auto further_bands = static_cast<double>(n - best.columns.strip_bands);
    if (total < best.work * (1 - kGainPerBand * further_bands)) best = {&u, columns, {}, total};
  }
  return best;
}

// Where a pattern ukernel takes the layer, of the general ones those for depthwise layers are asked, and those whose
// filters share loads of planes, if the filters of a block keep the same kernels (in dense layers all do).
bool shares_planes(const KernelInfo& kernel) { return kernel.body == Body::kPlanes && kernel.block > 1; }
bool is_asked(const pconv_plan& plan, const KernelInfo& kernel) {
  return kernel.pattern() || kernel.depthwise() || shares_planes(kernel) || !is_pattern_layer(plan.conv, 1);
}

// Of the plan's ISA. Of the depthwise ones the first in the table is taken. No ukernel: null.
Choice choose_ukernel(const pconv_plan& plan, const pconv_packed& packed, const FilterWork& work) {
  const Registry& r = registry();
  Choice best = {};
  for (int i = 0; i < r.n_ukernels; ++i) {
    const Ukernel& u = r.ukernels[i];
    if (u.isa != plan.isa || !takes(plan, packed, u)) continue;
    if (!is_asked(plan, *u.info)) continue;
    Choice choice = choose_cut(plan, u, work);
    // The table says how far sharing falls short of the predicted work where patterns do not.
    if (shares_planes(*u.info) && is_pattern_layer(plan.conv, 1)) choice.work *= plan.isa->table->sharing_cost;
    if (best.ukernel == nullptr || choice.work < best.work) best = choice;
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

pconv_status read_pool(const pconv_plan_options& options, pconv_plan* p) {
  p->pool = std::max(options.max_pool, 1);
  if (options.max_pool == 0) return PCONV_OK;
  if (options.max_pool != 2) {
    return fail(PCONV_INVALID_ARGUMENT, "max_pool: got %d, allowed 0 and 2", options.max_pool);
  }
  if (p->layout != PCONV_NCHW) return fail(PCONV_INVALID_ARGUMENT, "max_pool: needs layout 0 (NCHW)");
  if (p->out_h >= 2 && p->out_w >= 2) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "max_pool: the convolution's map is %" PRId64 "x%" PRId64 ", need 2x2 or more",
              p->out_h, p->out_w);
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
  if (u.info->planes()) return lay_out_planes(plan, u).tile_bytes;
  CheckedSize floats = checked(u.info->tile_floats);
  if (u.info->body == Body::kWindow) floats = TileShape(plan.conv, u).floats();
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
  if (const pconv_status s = read_pool(options, &p)) return s;
  if (const pconv_status s = find_isa(options.isa, &p.isa)) return s;
  p.own_planes = channel_planes(packed, false);
  p.shifted_planes = channel_planes(packed, true);
  const double filters = static_cast<double>(p.conv.out_channels);
  const FilterWork work = {static_cast<double>(packed.view.header.n_kernels * packed.view.header.block) / filters,
                           static_cast<double>(p.nnz) / filters, static_cast<double>(packed.view.header.n_patterns)};
  Choice choice = {};
  if (options.ukernel != nullptr) {
    if (const pconv_status s = find_ukernel(options.ukernel, *p.isa, &choice.ukernel)) return s;
    if (!takes(p, packed, *choice.ukernel)) {
      return fail(PCONV_UNSUPPORTED, "ukernel: \"%s\" does not take this layer on a %" PRId64 "x%" PRId64 " map",
                  choice.ukernel->name, p.h, p.w);
    }
    choice = choose_cut(p, *choice.ukernel, work);
  } else {
    choice = choose_ukernel(p, packed, work);
    if (choice.ukernel == nullptr) return too_large_tile(p.conv);
  }
  p.ukernel = choice.ukernel;
  p.columns = choice.columns;
  p.planes = choice.planes;
  if (p.ukernel->info->body == Body::kDwDirect) {
    p.direct = cut_direct(p.conv, p.h, p.w, p.out_h, p.out_w, p.isa->table->lanes, p.ukernel->info->vectors);
  }
  p.scratch_bytes = scratch_bytes(p);
  if (p.scratch_bytes < 0) {
    return fail(PCONV_INVALID_ARGUMENT, "w: %" PRId64 " columns of all channels do not fit into memory", p.w);
  }
  p.prepacked = prepack(packed, *p.ukernel, {options.no_reorder == 0, p.planes.shift_columns});
  if (p.ukernel->info->body == Body::kPlanes) p.placed = place_taps(p);
  *plan = std::make_unique<pconv_plan>(p);
  return PCONV_OK;
}

}  // namespace pconv
