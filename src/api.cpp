// C API entry points: check pointers, hand over to the parts, turn failed allocations into a status.
#include <algorithm>
#include <memory>

#include "clock.h"
#include "dispatch.h"
#include "guarded.h"
#include "max_pool.h"
#include "pack.h"
#include "plan.h"
#include "pool.h"
#include "run.h"
#include "status.h"
#include "validate.h"

#define PCONV_STRING_(x) #x
#define PCONV_STRING(x) PCONV_STRING_(x)

namespace pconv {
namespace {

struct PeakRound {
  const IsaTable* table;
  int64_t iterations;
};

double run_peak(const PeakRound& round, int64_t iterations) {
  float values[kPeakValues];
  for (int i = 0; i < kPeakValues; ++i) values[i] = static_cast<float>(i + 1) / (kPeakValues + 1);
  return round.table->peak(iterations, values);
}

void peak_task(void* context, int64_t) noexcept {
  const auto& round = *static_cast<const PeakRound*>(context);
  run_peak(round, round.iterations);
}

// GFLOP/s of one round, all threads starting together.
double peak_round(const PeakRound& round, int n_threads) {
  PeakRound copy = round;
  const double flops_per_iteration = run_peak(round, 1);
  const double start = seconds_now();
  parallel_for(n_threads, n_threads, peak_task, &copy);
  const double seconds = seconds_now() - start;
  return flops_per_iteration * static_cast<double>(round.iterations) * n_threads / seconds * 1e-9;
}

}  // namespace
}  // namespace pconv

using pconv::fail;
using pconv::guarded;
using pconv::null_argument;

const char* pconv_last_error(void) { return pconv::last_error(); }

const char* pconv_status_name(pconv_status status) {
  switch (status) {
    case PCONV_OK:
      return "PCONV_OK";
    case PCONV_INVALID_ARGUMENT:
      return "PCONV_INVALID_ARGUMENT";
    case PCONV_BAD_FORMAT:
      return "PCONV_BAD_FORMAT";
    case PCONV_UNSUPPORTED:
      return "PCONV_UNSUPPORTED";
    case PCONV_UNAVAILABLE:
      return "PCONV_UNAVAILABLE";
    case PCONV_OUT_OF_MEMORY:
      return "PCONV_OUT_OF_MEMORY";
    case PCONV_FILE_ERROR:
      return "PCONV_FILE_ERROR";
  }
  return "unknown status";
}

const char* pconv_version(void) {
  return PCONV_STRING(PCONV_VERSION_MAJOR) "." PCONV_STRING(PCONV_VERSION_MINOR) "." PCONV_STRING(PCONV_VERSION_PATCH);
}

pconv_status pconv_pack_weights(const pconv_conv_desc* conv, const float* weights, const float* bias,
                                pconv_packed** packed) {
  if (conv == nullptr) return null_argument("conv");
  if (weights == nullptr) return null_argument("weights");
  if (packed == nullptr) return null_argument("packed");
  if (const pconv_status s = pconv::validate_desc(*conv)) return s;
  return guarded([&] {
    std::unique_ptr<pconv_packed> result;
    const pconv_status s = pconv::pack_weights(*conv, weights, bias, &result);
    if (s == PCONV_OK) *packed = result.release();
    return s;
  });
}

pconv_status pconv_read_packed(const void* bytes, size_t n_bytes, pconv_packed** packed) {
  if (bytes == nullptr) return null_argument("bytes");
  if (packed == nullptr) return null_argument("packed");
  return guarded([&] {
    std::unique_ptr<pconv_packed> result;
    const pconv_status s = pconv::read_packed(bytes, n_bytes, &result);
    if (s == PCONV_OK) *packed = result.release();
    return s;
  });
}

void pconv_free_packed(pconv_packed* packed) { delete packed; }

pconv_status pconv_get_bytes(const pconv_packed* packed, const void** bytes, size_t* n_bytes) {
  if (packed == nullptr) return null_argument("packed");
  if (bytes == nullptr || n_bytes == nullptr) return null_argument("bytes");
  *bytes = packed->storage.get();
  *n_bytes = packed->n_bytes;
  return PCONV_OK;
}

pconv_status pconv_query_packed(const pconv_packed* packed, pconv_packed_info* info) {
  if (packed == nullptr) return null_argument("packed");
  if (info == nullptr) return null_argument("info");
  const pconv::PackedView& v = packed->view;
  *info = {};
  info->conv = pconv::desc_of(v.header);
  info->block = v.header.block;
  info->weight_is_fp16 = v.header.weight_type == PCONV_PACKED_FP16;
  info->has_bias = v.bias != nullptr;
  info->n_patterns = v.header.n_patterns;
  info->n_kernels = static_cast<int64_t>(v.header.n_kernels);
  info->n_runs = static_cast<int64_t>(v.header.n_runs);
  info->n_weights = static_cast<int64_t>(v.header.n_weights);
  info->mask_words = v.mask_words;
  info->masks = v.masks;
  info->filter_order = v.filter_order;
  info->kernel_start = v.kernel_start;
  info->run_start = v.run_start;
  info->runs = reinterpret_cast<const uint32_t*>(v.runs);
  info->channels = v.channels;
  return PCONV_OK;
}

pconv_status pconv_get_output_size(const pconv_packed* packed, int64_t h, int64_t w, int64_t* out_h, int64_t* out_w) {
  if (packed == nullptr) return null_argument("packed");
  if (out_h == nullptr || out_w == nullptr) return null_argument("out_h, out_w");
  return pconv::validate_map(pconv::desc_of(packed->view.header), 1, h, w, out_h, out_w);
}

pconv_status pconv_unpack_weights(const pconv_packed* packed, float* weights, float* bias) {
  if (packed == nullptr) return null_argument("packed");
  if (weights == nullptr) return null_argument("weights");
  pconv::unpack_weights(packed->view, weights, bias);
  return PCONV_OK;
}

pconv_status pconv_plan_conv(const pconv_packed* packed, const pconv_plan_options* options, pconv_plan** plan) {
  if (packed == nullptr) return null_argument("packed");
  if (options == nullptr) return null_argument("options");
  if (plan == nullptr) return null_argument("plan");
  return guarded([&] {
    std::unique_ptr<pconv_plan> result;
    const pconv_status s = pconv::make_plan(*packed, *options, &result);
    if (s == PCONV_OK) *plan = result.release();
    return s;
  });
}

void pconv_free_plan(pconv_plan* plan) { delete plan; }

pconv_status pconv_query_plan(const pconv_plan* plan, pconv_plan_info* info) {
  if (plan == nullptr) return null_argument("plan");
  if (info == nullptr) return null_argument("info");
  *info = {plan->n,
           plan->conv.in_channels,
           plan->h,
           plan->w,
           plan->conv.out_channels,
           plan->y_h(),
           plan->y_w(),
           plan->nnz,
           static_cast<int64_t>(plan->prepacked->runs.size()),
           plan->n_lanes(),
           plan->prepacked->n_taps - plan->nnz,
           plan->isa->name,
           plan->ukernel->name,
           plan->prepacked->bytes() + plan->own_bytes(),
           plan->scratch_bytes};
  return PCONV_OK;
}

pconv_status pconv_run_plan(const pconv_plan* plan, const pconv_run_args* args) {
  if (plan == nullptr) return null_argument("plan");
  if (args == nullptr) return null_argument("args");
  if (const pconv_status s = pconv::validate_run(*plan, *args)) return s;
  return guarded([&] { return pconv::run_plan(*plan, pconv::contiguous(*plan, *args)); });
}

pconv_status pconv_max_pool(const pconv_max_pool_args* args) {
  if (args == nullptr) return null_argument("args");
  if (const pconv_status s = pconv::validate_max_pool(*args)) return s;
  const pconv::Isa* isa = nullptr;
  if (const pconv_status s = pconv::find_isa(args->isa, &isa)) return s;
  return guarded([&] { return pconv::max_pool(*args, *isa->table); });
}

pconv_status pconv_set_num_threads(int n) {
  if (n < 1 || n > pconv::kMaxThreads) {
    return fail(PCONV_INVALID_ARGUMENT, "n: got %d threads, allowed 1 to %d", n, pconv::kMaxThreads);
  }
  pconv::set_default_threads(n);
  return PCONV_OK;
}

int pconv_get_num_threads(void) { return pconv::default_threads(); }

int pconv_list_isa(int index, pconv_isa_info* info) {
  const pconv::Registry& r = pconv::registry();
  if (info == nullptr || index < 0 || index >= r.n_isas) return 0;
  const pconv::Isa& isa = r.isas[index];
  *info = {isa.name, isa.features, isa.supported ? 1 : 0, isa.table->lanes};
  return 1;
}

int pconv_list_ukernel(int index, pconv_ukernel_info* info) {
  const pconv::Registry& r = pconv::registry();
  if (info == nullptr || index < 0 || index >= r.n_ukernels) return 0;
  const pconv::Ukernel& u = r.ukernels[index];
  *info = {u.name,          u.isa->name,         u.info->name,  u.info->stride, u.info->rows,
           u.info->vectors, u.isa->table->lanes, u.info->block, u.info->taps};
  return 1;
}

int pconv_list_pattern(int index, pconv_pattern_info* info) {
  static const pconv_pattern_info patterns[] = {
#define PCONV_PATTERN(id, name, mask) {#name, mask},
#include "pconv/patterns.def"
#undef PCONV_PATTERN
  };
  if (info == nullptr || index < 0 || index >= static_cast<int>(sizeof(patterns) / sizeof(patterns[0]))) return 0;
  *info = patterns[index];
  return 1;
}

pconv_status pconv_get_isa(const char** name) {
  if (name == nullptr) return null_argument("name");
  const pconv::Isa* isa = nullptr;
  if (const pconv_status s = pconv::find_isa(nullptr, &isa)) return s;
  *name = isa->name;
  return PCONV_OK;
}

pconv_status pconv_measure_peak(const char* isa_name, int n_threads, int rounds, double* gflops) {
  if (gflops == nullptr) return null_argument("gflops");
  if (n_threads < 1 || n_threads > pconv::kMaxThreads) {
    return fail(PCONV_INVALID_ARGUMENT, "n_threads: got %d, allowed 1 to %d", n_threads, pconv::kMaxThreads);
  }
  if (rounds < 1) return fail(PCONV_INVALID_ARGUMENT, "rounds: got %d, allowed 1 or more", rounds);
  const pconv::Isa* isa = nullptr;
  if (const pconv_status s = pconv::find_isa(isa_name, &isa)) return s;
  return guarded([&] {
    const pconv::PeakRound round = {isa->table, 1 << 20};  // some milliseconds
    const double warm = pconv::seconds_now() + 0.3;
    while (pconv::seconds_now() < warm) pconv::peak_round(round, n_threads);
    double best = 0;
    for (int i = 0; i < rounds; ++i) best = std::max(best, pconv::peak_round(round, n_threads));
    *gflops = best;
    return PCONV_OK;
  });
}
