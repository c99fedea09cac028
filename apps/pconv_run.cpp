// Runs a model file without Python: inputs from .npy files or random ones, outputs as text or .npy, times.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "npy.h"
#include "pconv/network.h"

namespace {

using pconv_apps::Array;

constexpr char kUsage[] =
    "pconv_run MODEL.pconv [options]: run a compiled network\n"
    "  --input FILE.npy     float32, once for every input of the network, in order (random numbers)\n"
    "  --output FILE.npy    where to write an output, once for every output, in order\n"
    "  --repeat N           runs (1); with more than one, their times are printed\n"
    "  --threads N          threads of a run (the CPUs that the process may use)\n"
    "  --isa NAME           instruction set; default: the best of this CPU\n"
    "  --profile            time of every step, memory\n"
    "  --top K              largest numbers of each output to print (5)\n";

struct Options {
  std::string model, isa;
  std::vector<std::string> inputs, outputs;
  int repeat = 1, threads = 0, top = 5;
  bool profile = false;
};

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

int parse_int(const std::string& name, const char* text, int low, int high) {
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (end == text || *end != '\0' || value < low || value > high) {
    throw UsageError(name + ": got " + text + ", need " + std::to_string(low) + " to " + std::to_string(high));
  }
  return static_cast<int>(value);
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--profile") {
      o.profile = true;
      continue;
    }
    if (word.rfind("--", 0) != 0) {
      if (!o.model.empty()) throw UsageError("one model: got " + o.model + " and " + word);
      o.model = word;
      continue;
    }
    if (i + 1 == argc) throw UsageError(word + ": needs a value, or is unknown");
    const char* value = argv[++i];
    if (word == "--input") {
      o.inputs.push_back(value);
    } else if (word == "--output") {
      o.outputs.push_back(value);
    } else if (word == "--repeat") {
      o.repeat = parse_int(word, value, 1, 1000000000);
    } else if (word == "--threads") {
      o.threads = parse_int(word, value, 1, 1024);
    } else if (word == "--top") {
      o.top = parse_int(word, value, 0, 1000000);
    } else if (word == "--isa") {
      o.isa = value;
    } else {
      throw UsageError(word + ": is unknown");
    }
  }
  if (o.model.empty()) throw UsageError("which model?");
  return o;
}

void check(pconv_status status) {
  if (status != PCONV_OK) throw std::runtime_error(pconv_last_error());
}

struct FreeModel {
  void operator()(pconv_model* m) const { pconv_free_model(m); }
};
struct FreeSession {
  void operator()(pconv_session* s) const { pconv_free_session(s); }
};
using Model = std::unique_ptr<pconv_model, FreeModel>;
using Session = std::unique_ptr<pconv_session, FreeSession>;

size_t count_of(const pconv_shape& shape) {
  size_t count = 1;
  for (int i = 0; i < shape.rank; ++i) count *= static_cast<size_t>(shape.dims[i]);
  return count;
}

std::string text_of(const pconv_shape& shape) {
  std::string text;
  for (int i = 0; i < shape.rank; ++i) text += (i > 0 ? "x" : "") + std::to_string(shape.dims[i]);
  return text.empty() ? "scalar" : text;
}

std::vector<Array> read_inputs(const Options& o, const pconv_model* model, int n_inputs) {
  if (o.inputs.size() > static_cast<size_t>(n_inputs)) {
    throw UsageError("--input: given " + std::to_string(o.inputs.size()) + " times, the network has " +
                     std::to_string(n_inputs) + " inputs");
  }
  std::vector<Array> inputs;
  std::mt19937 random(0);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (int i = 0; i < n_inputs; ++i) {
    if (static_cast<size_t>(i) < o.inputs.size()) {
      inputs.push_back(pconv_apps::read_npy(o.inputs[static_cast<size_t>(i)]));
      continue;
    }
    pconv_value_info info{};
    check(pconv_get_input(model, i, &info));
    Array x = {std::vector<int64_t>(info.shape.dims, info.shape.dims + info.shape.rank), {}};
    x.values.resize(count_of(info.shape));
    for (float& v : x.values) v = uniform(random);
    inputs.push_back(std::move(x));
  }
  return inputs;
}

Session plan(const Options& o, const pconv_model* model, const std::vector<Array>& inputs) {
  std::vector<pconv_shape> shapes;
  for (const Array& x : inputs) {
    pconv_shape shape{};
    if (x.dims.size() > PCONV_MAX_RANK) throw UsageError("--input: more than 6 dims");
    shape.rank = static_cast<int>(x.dims.size());
    std::copy(x.dims.begin(), x.dims.end(), shape.dims);
    shapes.push_back(shape);
  }
  const pconv_session_options options = {shapes.data(), o.isa.empty() ? nullptr : o.isa.c_str(), nullptr, 0};
  pconv_session* session = nullptr;
  check(pconv_plan_model(model, &options, &session));
  return Session(session);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

void print_profile(const pconv_session* session, const pconv_session_info& info,
                   const std::vector<std::vector<double>>& seconds) {
  double total = 0;
  std::vector<double> medians;
  for (int i = 0; i < info.n_steps; ++i) {
    std::vector<double> of_step;
    for (const std::vector<double>& run : seconds) of_step.push_back(run[static_cast<size_t>(i)]);
    medians.push_back(median(of_step));
    total += medians.back();
  }
  for (int i = 0; i < info.n_steps; ++i) {
    pconv_step_info step{};
    check(pconv_get_step(session, i, &step));
    const double ms = 1e3 * medians[static_cast<size_t>(i)];
    std::printf("%-40s %-18s %-18s %9.4f ms %5.1f%%  %s\n", step.name, step.max_pool != 0 ? "conv+max_pool" : step.op,
                text_of(step.output.shape).c_str(), ms, total > 0 ? 1e-1 * ms / total : 0.0,
                step.ukernel != nullptr ? step.ukernel : "");
  }
  std::printf("activations %lld bytes (%lld needed at one time), weights %lld, scratch %lld a thread, %s\n",
              static_cast<long long>(info.arena_bytes), static_cast<long long>(info.live_bytes),
              static_cast<long long>(info.weight_bytes), static_cast<long long>(info.scratch_bytes_per_thread),
              info.isa);
}

void print_output(const pconv_model* model, int index, const pconv_shape& shape, const Array& y, int top) {
  pconv_value_info info{};
  check(pconv_get_output(model, index, &info));
  std::printf("%s %s:", info.name, text_of(shape).c_str());
  std::vector<size_t> order(y.values.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const size_t n = std::min(order.size(), static_cast<size_t>(top));
  const auto larger = [&](size_t a, size_t b) {
    const bool a_is_nan = y.values[a] != y.values[a], b_is_nan = y.values[b] != y.values[b];
    if (a_is_nan || b_is_nan) return a_is_nan == b_is_nan ? a < b : b_is_nan;  // the last ones
    return y.values[a] > y.values[b] || (y.values[a] == y.values[b] && a < b);
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(n), order.end(), larger);
  for (size_t i = 0; i < n; ++i) std::printf(" [%zu] %.6g", order[i], static_cast<double>(y.values[order[i]]));
  std::printf("\n");
}

void run(const Options& o) {
  pconv_model* loaded = nullptr;
  check(pconv_load_model(o.model.c_str(), &loaded));
  const Model model(loaded);
  pconv_model_info network{};
  check(pconv_query_model(model.get(), &network));
  if (o.outputs.size() > static_cast<size_t>(network.n_outputs)) {
    throw UsageError("--output: given more often than the network has outputs");
  }
  const std::vector<Array> inputs = read_inputs(o, model.get(), network.n_inputs);
  const Session session = plan(o, model.get(), inputs);
  pconv_session_info info{};
  check(pconv_query_session(session.get(), &info));

  std::vector<Array> outputs(static_cast<size_t>(network.n_outputs));
  std::vector<pconv_shape> shapes(outputs.size());
  std::vector<const float*> from;
  std::vector<float*> to;
  for (const Array& x : inputs) from.push_back(x.values.data());
  for (size_t i = 0; i < outputs.size(); ++i) {
    check(pconv_get_session_output(session.get(), static_cast<int>(i), &shapes[i]));
    outputs[i].dims.assign(shapes[i].dims, shapes[i].dims + shapes[i].rank);
    outputs[i].values.resize(count_of(shapes[i]));
    to.push_back(outputs[i].values.data());
  }
  std::vector<double> runs;
  std::vector<std::vector<double>> steps;
  for (int i = 0; i < o.repeat; ++i) {
    if (o.profile) steps.emplace_back(static_cast<size_t>(info.n_steps));
    const pconv_session_args args = {from.data(), to.data(), o.threads, o.profile ? steps.back().data() : nullptr};
    const auto start = std::chrono::steady_clock::now();
    check(pconv_run_session(session.get(), &args));
    runs.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  if (o.profile) print_profile(session.get(), info, steps);
  if (o.repeat > 1) {
    std::printf("%d runs on %d threads, %s: median %.4f ms, least %.4f ms\n", o.repeat,
                o.threads > 0 ? o.threads : pconv_get_num_threads(), info.isa, 1e3 * median(runs),
                1e3 * *std::min_element(runs.begin(), runs.end()));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    print_output(model.get(), static_cast<int>(i), shapes[i], outputs[i], o.top);
    if (i < o.outputs.size()) pconv_apps::write_npy(o.outputs[i], outputs[i]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && (std::string(argv[1]) == "--help" || std::string(argv[1]) == "-h")) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  try {
    run(parse(argc, argv));
    return 0;
  } catch (const UsageError& error) {
    std::fprintf(stderr, "pconv_run: %s\n%s", error.what(), kUsage);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "pconv_run: out of memory\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pconv_run: %s\n", error.what());
  }
  return 2;
}
