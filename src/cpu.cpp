// CPU features, CPU count, L1.
#include "cpu.h"

#include <sched.h>
#include <unistd.h>

#include <string_view>

#include "cache_sizes.h"

namespace pconv {
namespace {

bool has_one(std::string_view feature) {
#if defined(__x86_64__)
  // __builtin_cpu_supports takes literals only; it also asks the operating system for the wide registers.
  if (feature == "avx2") return __builtin_cpu_supports("avx2");
  if (feature == "fma") return __builtin_cpu_supports("fma");
  if (feature == "avx512f") return __builtin_cpu_supports("avx512f");
  if (feature == "avx512bw") return __builtin_cpu_supports("avx512bw");
  if (feature == "avx512dq") return __builtin_cpu_supports("avx512dq");
  if (feature == "avx512vl") return __builtin_cpu_supports("avx512vl");
#elif defined(__aarch64__)
  if (feature == "asimd") return true;  // part of the architecture
#endif
  return false;
}

}  // namespace

bool cpu_has(const char* features) {
  std::string_view rest(features);
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    if (!has_one(rest.substr(0, comma))) return false;
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
  }
  return true;
}

int available_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    const int n = CPU_COUNT(&set);
    if (n > 0) return n;
  }
  const long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? static_cast<int>(n) : 1;
}

int64_t l1_bytes() {
  static const int64_t bytes = [] {
#ifdef _SC_LEVEL1_DCACHE_SIZE
    const long said = sysconf(_SC_LEVEL1_DCACHE_SIZE);
    if (said > 0) return int64_t{said};
#endif
    return kL1Bytes;
  }();
  return bytes;
}

}  // namespace pconv
