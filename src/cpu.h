// CPU features, known to dispatch only, and the number of CPUs, known to the pool.
#ifndef PCONV_CPU_H_
#define PCONV_CPU_H_

namespace pconv {

// True when this CPU (and its operating system) has every feature of a comma-separated list.
bool cpu_has(const char* features);
// CPUs this process may run on, at least 1.
int available_cpus();

}  // namespace pconv
#endif  // PCONV_CPU_H_
