// Times one pruned layer through the C API, without Python: random weights are pruned as PCONV does, packed,
// planned and run on random input. With --runs N --no-timing it only runs, so that an instruction counter can subtract
// two calls. It does not check results (the tests do) and reads no files.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "pconv/pconv.h"

namespace {

constexpr char kUsage[] =
    "pconv_layer_bench --layer IC,OC,H,W [options]: time one pruned layer\n"
    "  --batch N            images of a run (1)\n"
    "  --kernel K --stride S --dilation D --groups G   geometry (3, 1, 1, 1)\n"
    "  --pad P              zeros around the input (dilation * (kernel / 2))\n"
    "  --connectivity R     keep one kernel of R (3.1); kernels of other sizes than 3x3 keep all their taps\n"
    "  --block B            filters that keep the same kernels (1)\n"
    "  --patterns SET       scp4; random8, random12: the 4 SCPs and 4 or 8 random four-tap masks; scp1, scp2: one of\n"
    "                       the SCPs, one that spans two rows or one that spans three (scp4)\n"
    "  --dense              prune nothing\n"
    "  --density-seed S     seed of weights, patterns and places of kept kernels (0)\n"
    "  --threads N          threads of a run (1)\n"
    "  --isa NAME           instruction set; default: the best of this CPU\n"
    "  --ukernel NAME       force a ukernel\n"
    "  --no-reorder         without filter kernel reorder: kernels by channel, filters as they come, no merged runs\n"
    "  --max-pool           what windows of 2x2 outputs hold at most instead of the outputs\n"
    "  --rounds N           measured rounds; the median counts (11)\n"
    "  --repeat N           runs of a round; 0: as many as take 20 ms (0)\n"
    "  --runs N --no-timing do N runs and measure nothing\n"
    "  --json               print one JSON object\n"
    "  --list               print what this build holds, as JSON\n";

// Some of the SCPs, which open the manifest, and random four-tap masks.
struct PatternSet {
  const char* name;
  int scp_begin, scp_end, n_random;
};
constexpr PatternSet kPatternSets[] = {
    {"scp4", 0, 4, 0}, {"random8", 0, 4, 4}, {"random12", 0, 4, 8}, {"scp1", 0, 1, 0}, {"scp2", 1, 2, 0}};

struct Options {
  int64_t batch = 1, in_channels = 0, out_channels = 0, h = 0, w = 0, pad = -1;
  int64_t kernel = 3, stride = 1, dilation = 1, groups = 1, block = 1;
  double connectivity = 3.1;
  const PatternSet* patterns = kPatternSets;
  uint64_t seed = 0;
  int threads = 1, rounds = 11, repeat = 0, runs = 0;
  std::string isa, ukernel;
  bool dense = false, reorder = true, max_pool = false, timing = true, json = false, list = false;
};

struct Result {
  pconv_plan_info plan;
  double median_ms, best_ms, useful_gflops, peak_fraction;
};

void check(pconv_status status) {
  if (status != PCONV_OK) throw std::runtime_error(std::string(pconv_status_name(status)) + ": " + pconv_last_error());
}

double to_number(const std::string& option, const std::string& text, double low, double high) {
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value >= low && value <= high)) {
    throw std::invalid_argument(option + ": got '" + text + "', allowed are numbers from " + std::to_string(low) +
                                " to " + std::to_string(high));
  }
  return value;
}

int64_t to_integer(const std::string& option, const std::string& text, int64_t low, int64_t high) {
  double value = to_number(option, text, static_cast<double>(low), static_cast<double>(high));
  if (value != std::floor(value)) throw std::invalid_argument(option + ": got '" + text + "', expected an integer");
  return static_cast<int64_t>(value);
}

void parse_layer(const std::string& text, Options* options) {
  int64_t* fields[] = {&options->in_channels, &options->out_channels, &options->h, &options->w};
  size_t start = 0;
  for (size_t i = 0; i < 4; ++i) {
    size_t comma = text.find(',', start);
    if ((comma == std::string::npos) != (i == 3)) {
      throw std::invalid_argument("--layer: got '" + text + "', expected IC,OC,H,W");
    }
    *fields[i] = to_integer("--layer", text.substr(start, comma - start), 1, 65535);
    start = comma + 1;
  }
}

void parse_patterns(const std::string& text, Options* options) {
  for (const PatternSet& set : kPatternSets) {
    if (text == set.name) {
      options->patterns = &set;
      return;
    }
  }
  throw std::invalid_argument("--patterns: got '" + text + "', allowed are scp4, random8, random12, scp1, scp2");
}

// Options that take no value; false when `name` is none of them.
bool parse_switch(const std::string& name, Options* options) {
  if (name == "--dense") {
    options->dense = true;
  } else if (name == "--no-reorder") {
    options->reorder = false;
  } else if (name == "--max-pool") {
    options->max_pool = true;
  } else if (name == "--no-timing") {
    options->timing = false;
  } else if (name == "--json") {
    options->json = true;
  } else if (name == "--list") {
    options->list = true;
  } else {
    return false;
  }
  return true;
}

void parse_value(const std::string& name, const std::string& value, Options* options) {
  if (name == "--layer") {
    parse_layer(value, options);
  } else if (name == "--batch") {
    options->batch = to_integer(name, value, 1, 65535);
  } else if (name == "--pad") {
    options->pad = to_integer(name, value, 0, 65535);
  } else if (name == "--kernel") {
    options->kernel = to_integer(name, value, 1, 255);
  } else if (name == "--stride") {
    options->stride = to_integer(name, value, 1, 255);
  } else if (name == "--dilation") {
    options->dilation = to_integer(name, value, 1, 255);
  } else if (name == "--groups") {
    options->groups = to_integer(name, value, 1, 65535);
  } else if (name == "--block") {
    options->block = to_integer(name, value, 1, 255);
  } else if (name == "--connectivity") {
    options->connectivity = to_number(name, value, 1, 1e6);
  } else if (name == "--patterns") {
    parse_patterns(value, options);
  } else if (name == "--density-seed") {
    options->seed = static_cast<uint64_t>(to_integer(name, value, 0, 1LL << 52));
  } else if (name == "--threads") {
    options->threads = static_cast<int>(to_integer(name, value, 1, 1024));
  } else if (name == "--isa") {
    options->isa = value;
  } else if (name == "--ukernel") {
    options->ukernel = value;
  } else if (name == "--rounds") {
    options->rounds = static_cast<int>(to_integer(name, value, 1, 100000));
  } else if (name == "--repeat") {
    options->repeat = static_cast<int>(to_integer(name, value, 0, 1000000));
  } else if (name == "--runs") {
    options->runs = static_cast<int>(to_integer(name, value, 0, 1000000));
  } else {
    throw std::invalid_argument("unknown option " + name);
  }
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (parse_switch(name, &options)) continue;
    if (i + 1 == argc) throw std::invalid_argument(name + ": unknown, or its value is missing");
    parse_value(name, argv[++i], &options);
  }
  if (!options.list && options.in_channels == 0) throw std::invalid_argument("--layer is missing");
  if (options.pad < 0) options.pad = options.dilation * (options.kernel / 2);
  if (options.in_channels % options.groups != 0 || options.out_channels % options.groups != 0 ||
      options.out_channels / options.groups % options.block != 0) {
    throw std::invalid_argument("--groups must divide the channels, --block the output channels of a group");
  }
  if (!options.timing && options.runs == 0) throw std::invalid_argument("--no-timing needs --runs N");
  if (options.timing && options.runs != 0) throw std::invalid_argument("--runs N needs --no-timing");
  return options;
}

std::vector<uint32_t> choose_masks(const PatternSet& set, std::mt19937_64* rng) {
  constexpr int kScps = 4;
  std::vector<uint32_t> masks, others;
  pconv_pattern_info pattern;
  for (int i = 0; pconv_list_pattern(i, &pattern); ++i) {
    if (i >= set.scp_begin && i < set.scp_end) {
      masks.push_back(pattern.mask);
    } else if (i >= kScps && __builtin_popcount(pattern.mask) == 4) {
      others.push_back(pattern.mask);
    }
  }
  std::shuffle(others.begin(), others.end(), *rng);
  masks.insert(masks.end(), others.begin(), others.begin() + set.n_random);
  return masks;
}

// OIHW weights [out_channels][in_channels/groups][kernel][kernel]: round(kernels/R) kernels at random places, whole
// blocks of them, 3x3 ones with a random pattern.
std::vector<float> make_weights(const Options& options, std::mt19937_64* rng) {
  const auto taps = static_cast<size_t>(options.kernel * options.kernel);
  const auto channels = static_cast<size_t>(options.in_channels / options.groups);
  const auto block = static_cast<size_t>(options.block);
  const size_t n_kernels = static_cast<size_t>(options.out_channels) * channels;
  std::normal_distribution<float> normal(0.0f, std::sqrt(2.0f / static_cast<float>(taps * channels)));
  std::vector<float> weights(n_kernels * taps);
  for (float& weight : weights) weight = normal(*rng);
  if (options.dense) return weights;
  std::vector<uint32_t> masks = choose_masks(*options.patterns, rng);
  std::uniform_int_distribution<size_t> pick(0, masks.size() - 1);
  const size_t n_blocks = n_kernels / block;
  const auto n_kept = static_cast<size_t>(std::llround(static_cast<double>(n_blocks) / options.connectivity));
  std::vector<size_t> order(n_blocks);
  for (size_t i = 0; i < n_blocks; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), *rng);
  for (size_t i = 0; i < n_blocks; ++i) {
    const uint32_t mask = i >= n_kept ? 0 : options.kernel == 3 ? masks[pick(*rng)] : ~0u;
    const size_t filter = order[i] / channels * block, channel = order[i] % channels;
    for (size_t b = 0; b < block; ++b) {
      for (size_t tap = 0; tap < taps; ++tap) {
        const bool kept = options.kernel == 3 ? mask >> tap & 1 : mask != 0;
        if (!kept) weights[((filter + b) * channels + channel) * taps + tap] = 0.0f;
      }
    }
  }
  return weights;
}

struct FreePlan {
  void operator()(pconv_plan* plan) const { pconv_free_plan(plan); }
};
using PlanPtr = std::unique_ptr<pconv_plan, FreePlan>;

PlanPtr make_plan(const Options& options, std::mt19937_64* rng) {
  pconv_conv_desc conv = {};
  conv.out_channels = options.out_channels;
  conv.in_channels = options.in_channels;
  conv.groups = options.groups;
  conv.kernel_h = conv.kernel_w = options.kernel;
  conv.stride_h = conv.stride_w = options.stride;
  conv.dilation_h = conv.dilation_w = options.dilation;
  conv.pad_top = conv.pad_left = conv.pad_bottom = conv.pad_right = options.pad;
  std::vector<float> weights = make_weights(options, rng);
  std::vector<float> bias(static_cast<size_t>(options.out_channels), 0.1f);
  pconv_packed* packed = nullptr;
  check(pconv_pack_weights(&conv, weights.data(), bias.data(), &packed));
  pconv_plan_options shape = {};
  shape.n = options.batch;
  shape.h = options.h;
  shape.w = options.w;
  shape.layout = PCONV_NCHW;
  shape.isa = options.isa.empty() ? nullptr : options.isa.c_str();
  shape.ukernel = options.ukernel.empty() ? nullptr : options.ukernel.c_str();
  shape.no_reorder = options.reorder ? 0 : 1;
  shape.max_pool = options.max_pool ? 2 : 0;
  pconv_plan* plan = nullptr;
  pconv_status status = pconv_plan_conv(packed, &shape, &plan);
  pconv_free_packed(packed);
  check(status);
  return PlanPtr(plan);
}

// Aligned to a cache line, as torch's tensors are.
struct FreeBuffer {
  void operator()(float* p) const { ::operator delete(p, kCacheLine); }
  static constexpr std::align_val_t kCacheLine{64};
};
using Buffer = std::unique_ptr<float[], FreeBuffer>;

Buffer allocate(int64_t n_floats) {
  const size_t bytes = static_cast<size_t>(n_floats) * sizeof(float);
  return Buffer(static_cast<float*>(::operator new(bytes, FreeBuffer::kCacheLine)));
}

// Median and best over rounds of the milliseconds of one run.
void measure_ms(const Options& options, const pconv_plan* plan, const pconv_run_args& args, Result* result) {
  using Clock = std::chrono::steady_clock;
  auto round_ms = [&](int repeat) {
    auto start = Clock::now();
    for (int i = 0; i < repeat; ++i) check(pconv_run_plan(plan, &args));
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count() / repeat;
  };
  round_ms(1);
  int repeat = options.repeat;
  if (repeat == 0) repeat = static_cast<int>(std::clamp(20.0 / std::max(round_ms(3), 1e-5), 1.0, 1e6));
  std::vector<double> rounds;
  for (int i = 0; i < options.rounds; ++i) rounds.push_back(round_ms(repeat));
  std::sort(rounds.begin(), rounds.end());
  result->median_ms = rounds[rounds.size() / 2];
  result->best_ms = rounds[0];
}

Result bench(const Options& options, const PlanPtr& plan, std::mt19937_64* rng) {
  Result result = {};
  check(pconv_query_plan(plan.get(), &result.plan));
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  const int64_t n_in = options.batch * options.in_channels * options.h * options.w;
  const int64_t pooled = options.max_pool ? 4 : 1;  // outputs of the convolution for each one of the plan
  const int64_t positions = options.batch * result.plan.out_h * result.plan.out_w * pooled;
  const Buffer x = allocate(n_in), y = allocate(options.out_channels * positions);
  for (int64_t i = 0; i < n_in; ++i) x.get()[i] = uniform(*rng);
  pconv_run_args args = {};
  args.x = x.get();
  args.y = y.get();
  args.clamp_min = 0.0f;
  args.clamp_max = std::numeric_limits<float>::infinity();
  args.n_threads = options.threads;
  for (int i = 0; i < options.runs; ++i) check(pconv_run_plan(plan.get(), &args));
  if (!options.timing) return result;
  measure_ms(options, plan.get(), args, &result);
  double useful_flop = 2.0 * static_cast<double>(result.plan.nnz * positions);
  result.useful_gflops = useful_flop / result.median_ms * 1e-6;
  double peak_gflops = 0;
  check(pconv_measure_peak(result.plan.isa, options.threads, 5, &peak_gflops));
  result.peak_fraction = result.useful_gflops / peak_gflops;
  return result;
}

void print(const Options& options, const Result& result) {
  double density =
      static_cast<double>(result.plan.nnz) / static_cast<double>(options.out_channels * options.in_channels /
                                                                 options.groups * options.kernel * options.kernel);
  const char* format =
      options.json
          ? "{\"batch\": %lld, \"ic\": %lld, \"oc\": %lld, \"h\": %lld, \"w\": %lld, \"pattern_set\": \"%s\", "
            "\"density\": %.6f, "
            "\"isa\": \"%s\", \"ukernel\": \"%s\", \"threads\": %d, \"runs\": %lld, \"lanes\": %lld, \"added_taps\": "
            "%lld"
          : "batch %lld  layer %lld,%lld,%lld,%lld  patterns %s  density %.4f\nisa %s  ukernel %s  threads %d  runs "
            "%lld  lanes "
            "%lld  added "
            "taps %lld\n";
  std::printf(format, static_cast<long long>(options.batch), static_cast<long long>(options.in_channels),
              static_cast<long long>(options.out_channels), static_cast<long long>(options.h),
              static_cast<long long>(options.w), options.dense ? "dense" : options.patterns->name, density,
              result.plan.isa, result.plan.ukernel, options.threads, static_cast<long long>(result.plan.n_runs),
              static_cast<long long>(result.plan.n_lanes), static_cast<long long>(result.plan.added_taps));
  if (options.timing) {
    const char* times = options.json
                            ? ", \"ms\": %.6f, \"best_ms\": %.6f, \"useful_gflops\": %.3f, \"peak_fraction\": %.4f"
                            : "median %.4f ms  best %.4f ms  useful %.1f GFLOP/s  peak fraction %.3f\n";
    std::printf(times, result.median_ms, result.best_ms, result.useful_gflops, result.peak_fraction);
  }
  if (options.json) std::printf("}\n");
}

// {"version", "isas": [...], "ukernels": [{"name", "isa"}], "n_patterns"}: rows of the tables in this build.
void print_tables() {
  std::printf("{\"version\": \"%s\", \"isas\": [", pconv_version());
  pconv_isa_info isa;
  for (int i = 0; pconv_list_isa(i, &isa); ++i) {
    std::printf("%s{\"name\": \"%s\", \"supported\": %s}", i ? ", " : "", isa.name, isa.supported ? "true" : "false");
  }
  std::printf("], \"ukernels\": [");
  pconv_ukernel_info ukernel;
  for (int i = 0; pconv_list_ukernel(i, &ukernel); ++i) {
    std::printf("%s{\"name\": \"%s\", \"isa\": \"%s\"}", i ? ", " : "", ukernel.name, ukernel.isa);
  }
  int n_patterns = 0;
  pconv_pattern_info pattern;
  while (pconv_list_pattern(n_patterns, &pattern)) ++n_patterns;
  std::printf("], \"n_patterns\": %d}\n", n_patterns);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 2 && (std::string(argv[1]) == "--help" || std::string(argv[1]) == "-h")) {
      std::fputs(kUsage, stdout);
      return 0;
    }
    Options options = parse(argc, argv);
    if (options.list) {
      print_tables();
      return 0;
    }
    std::mt19937_64 rng(options.seed);
    PlanPtr plan = make_plan(options, &rng);
    print(options, bench(options, plan, &rng));
    return 0;
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "%s\n\n%s", error.what(), kUsage);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
