// CPU features, known to dispatch only, the number of CPUs, known to the pool, and the size of L1, to the runners.
#ifndef PCONV_CPU_H_
#define PCONV_CPU_H_

#include <cstdint>

namespace pconv {

// True when this CPU (and its operating system) has every feature of a comma-separated list.
bool cpu_has(const char* features);
// CPUs this process may run on, at least 1.
int available_cpus();
// Of a core's L1 data cache; what cache_sizes.h counts on where the system does not say.
int64_t l1_bytes();

}  // namespace pconv
#endif  // PCONV_CPU_H_
