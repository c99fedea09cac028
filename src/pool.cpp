// Own pool, no OpenMP: torch carries an OpenMP runtime of its own and two of them fight over the cores.
// Workers start when first needed and sleep when idle, but for KeepAwake. The pool is never destroyed: after a fork the
// child finds another process id in it, leaves it behind (its threads do not exist there) and makes a new one.
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "cpu.h"

namespace pconv {
namespace {

std::atomic<int> g_default_threads{0};  // 0: not set yet

// A worker that found nothing to do for so long sleeps after all: a step of a network that runs on one thread may be
// followed by one for all.
constexpr auto kLooking = std::chrono::milliseconds(1);

inline void relax_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Job {
  void (*task)(void*, int64_t) noexcept;
  void* context;
  int64_t n_tasks;
  std::atomic<int64_t> next{0};
  int places;  // workers that may still join; guarded by the pool's lock

  void work() {
    for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < n_tasks;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      task(context, i);
    }
  }
};

}  // namespace

class Pool {
 public:
  explicit Pool(pid_t pid) : pid_(pid) {}
  pid_t pid() const { return pid_; }

  void keep_awake(int more) { awake_.fetch_add(more, std::memory_order_relaxed); }

  // False when another call holds the pool.
  bool try_run(Job& job) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    const int wanted = job.places;
    int asleep = wanted;  // of the wanted workers
    {
      std::lock_guard<std::mutex> lock(lock_);
      start_workers(wanted);
      job_ = &job;
      asleep -= n_looking_ < wanted ? n_looking_ : wanted;
      posted_.fetch_add(1, std::memory_order_release);
    }
    if (asleep >= n_workers_) {
      wake_.notify_all();
    } else {
      for (int i = 0; i < asleep; ++i) wake_.notify_one();
    }
    job.work();
    {
      std::lock_guard<std::mutex> lock(lock_);
      job_ = nullptr;  // nobody joins any more
    }
    wait_until_idle();
    busy_.store(false, std::memory_order_release);
    return true;
  }

 private:
  void start_workers(int wanted) {
    // Signals belong to the application's threads.
    sigset_t all, before;
    sigfillset(&all);
    if (n_workers_ < wanted) pthread_sigmask(SIG_SETMASK, &all, &before);
    const bool masked = n_workers_ < wanted;
    try {
      while (n_workers_ < wanted) {
        std::thread(&Pool::worker, this).detach();
        ++n_workers_;
      }
    } catch (const std::system_error&) {  // no more threads to be had: the caller does their share
    } catch (const std::bad_alloc&) {
    }
    if (masked) pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  bool has_place() const { return job_ != nullptr && job_->places > 0; }

  void worker() {
    std::unique_lock<std::mutex> lock(lock_);
    for (;;) {
      const auto until = std::chrono::steady_clock::now() + kLooking;
      while (!has_place() && looks_for_work() && std::chrono::steady_clock::now() < until) {
        const uint64_t seen = posted_.load(std::memory_order_relaxed);  // changes under the lock alone
        ++n_looking_;
        lock.unlock();
        look_for_work(seen, until);
        lock.lock();
        --n_looking_;
      }
      wake_.wait(lock, [this] { return has_place(); });
      Job* job = job_;
      --job->places;
      active_.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      job->work();
      lock.lock();
      if (active_.fetch_sub(1, std::memory_order_release) == 1) idle_.notify_one();
    }
  }

  // With two of KeepAwake there are two callers, for whom workers that look may leave no CPU.
  bool looks_for_work() const { return awake_.load(std::memory_order_relaxed) == 1; }

  // Until a job is posted after number `seen`.
  void look_for_work(uint64_t seen, std::chrono::steady_clock::time_point until) const {
    while (posted_.load(std::memory_order_acquire) == seen && looks_for_work()) {
      relax_cpu();
      if (std::chrono::steady_clock::now() > until) return;
    }
  }

  // The last tasks usually end within microseconds of each other: look for a while before sleeping.
  void wait_until_idle() {
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    while (active_.load(std::memory_order_acquire) != 0) {
      if (std::chrono::steady_clock::now() > until) {
        std::unique_lock<std::mutex> lock(lock_);
        idle_.wait(lock, [this] { return active_.load(std::memory_order_acquire) == 0; });
        return;
      }
    }
  }

  const pid_t pid_;
  std::atomic<bool> busy_{false};
  std::mutex lock_;
  std::condition_variable wake_, idle_;
  Job* job_ = nullptr;
  std::atomic<uint64_t> posted_{0};  // jobs so far
  std::atomic<int> awake_{0};        // of KeepAwake
  std::atomic<int> active_{0};
  int n_looking_ = 0;  // workers that look for work; guarded by the lock
  int n_workers_ = 0;  // only changed while busy_ is held
};

namespace {

std::atomic<Pool*> g_pool{nullptr};

// This process's pool, or null when memory is out. No lock: one could be held by a thread that a fork left behind.
Pool* current_pool() {
  const pid_t pid = getpid();
  Pool* pool = g_pool.load(std::memory_order_acquire);
  while (pool == nullptr || pool->pid() != pid) {
    Pool* fresh = new (std::nothrow) Pool(pid);
    if (fresh == nullptr) return nullptr;
    if (g_pool.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel)) return fresh;
    delete fresh;
  }
  return pool;
}

}  // namespace

void parallel_for(int64_t n_tasks, int n_threads, void (*task)(void*, int64_t) noexcept, void* context) {
  const int64_t useful = n_tasks < n_threads ? n_tasks : n_threads;
  if (useful > 1) {
    Job job{task, context, n_tasks, {0}, static_cast<int>(useful) - 1};
    Pool* pool = current_pool();
    if (pool != nullptr && pool->try_run(job)) return;
  }
  for (int64_t i = 0; i < n_tasks; ++i) task(context, i);
}

KeepAwake::KeepAwake(int n_threads) : pool_(n_threads > 1 && n_threads <= available_cpus() ? current_pool() : nullptr) {
  if (pool_ != nullptr) pool_->keep_awake(1);
}

KeepAwake::~KeepAwake() {
  if (pool_ != nullptr) pool_->keep_awake(-1);
}

int default_threads() {
  int n = g_default_threads.load(std::memory_order_relaxed);
  if (n == 0) {
    n = available_cpus();
    int unset = 0;
    if (!g_default_threads.compare_exchange_strong(unset, n)) n = unset;
  }
  return n;
}

void set_default_threads(int n) { g_default_threads.store(n, std::memory_order_relaxed); }

}  // namespace pconv
