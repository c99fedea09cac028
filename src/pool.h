// The library's thread pool behind parallel_for.
#ifndef PCONV_POOL_H_
#define PCONV_POOL_H_

#include <cstdint>

namespace pconv {

// A task has at least so many floats of work, some microseconds: waking a thread takes as long.
constexpr int64_t kTaskFloats = 32 << 10;
constexpr int64_t kTasksPerThread = 4;  // threads that start late find less to do

// Calls task(context, i) once for each i in [0, n_tasks), on at most n_threads threads, the caller among them; returns
// when all are done. Tasks are handed out one by one, in order. A nested call, and one that finds the pool busy, runs
// inline. Tasks must not throw.
void parallel_for(int64_t n_tasks, int n_threads, void (*task)(void* context, int64_t index) noexcept, void* context);

class Pool;

// While one lives, workers of this process that ran a task look for the next one for a while instead of sleeping: for
// calls that follow each other within microseconds, as the steps of a network do. Does nothing where n_threads are more
// than the CPUs: who looks would take one from who works.
class KeepAwake {
 public:
  explicit KeepAwake(int n_threads);
  ~KeepAwake();
  KeepAwake(const KeepAwake&) = delete;
  KeepAwake& operator=(const KeepAwake&) = delete;

 private:
  Pool* pool_;  // null: does nothing
};

int default_threads();
void set_default_threads(int n);

}  // namespace pconv
#endif  // PCONV_POOL_H_
