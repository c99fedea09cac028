// Threads and processes: many callers of one plan, nested and busy calls, forks, and the default number of threads.
// Anything that hangs dies by alarm.
#include "pool.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "shared_layer.h"

namespace pconv_test {
namespace {

#ifdef PCONV_TESTS_EMULATED
constexpr unsigned kAlarmSeconds = 1200;  // the long counts need more than two minutes of two cores under qemu
#else
constexpr unsigned kAlarmSeconds = 120;
#endif

TEST(concurrent_runs_of_one_plan) {
  alarm(kAlarmSeconds);
  const Bench bench;
  const std::vector<float> want = bench.output(1);
  const int n_calls = options().soak ? 1000 : 20;
  std::atomic<int> n_bad{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&, t] {
      std::vector<float> y;
      for (int i = 0; i < n_calls; ++i) {
        if (!bench.run_into(y, 1 + (t + i) % 4) || !equal(y, want)) ++n_bad;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(n_bad == 0, "%d of %d calls failed or gave other bytes", n_bad.load(), 16 * n_calls);
  alarm(0);
}

TEST(plans_are_made_concurrently) {
  alarm(kAlarmSeconds);
  const Bench bench;
  const std::vector<float> want = bench.output(1);
  std::atomic<int> n_bad{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        const pconv_plan_options plan_options = {
            1, 40, 40, PCONV_NCHW, options().isa.empty() ? nullptr : options().isa.c_str(), nullptr, 0, 0};
        pconv_plan* raw = nullptr;
        if (pconv_plan_conv(bench.packed.get(), &plan_options, &raw) != PCONV_OK) ++n_bad;
        const Plan own(raw);
        std::vector<float> y(bench.out_size, kNaN);
        const pconv_run_args args = {bench.x.data(), nullptr, y.data(), -kInf, kInf, 2};
        if (!own || pconv_run_plan(own.get(), &args) != PCONV_OK || !equal(y, want)) ++n_bad;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(n_bad == 0, "%d calls failed or gave other bytes", n_bad.load());
  alarm(0);
}

struct Counted {
  std::vector<std::atomic<int>> calls;
  std::vector<std::thread::id> thread;
  int inner;  // tasks of a nested call, 0: none
  std::atomic<int> n_inner{0}, n_elsewhere{0};
  Counted(int64_t n, int inner_tasks)
      : calls(static_cast<size_t>(n)), thread(static_cast<size_t>(n)), inner(inner_tasks) {}
};

struct Nested {
  Counted* outer;
  std::thread::id caller;
};

void inner_task(void* context, int64_t) noexcept {
  const Nested& nested = *static_cast<Nested*>(context);
  ++nested.outer->n_inner;
  if (std::this_thread::get_id() != nested.caller) ++nested.outer->n_elsewhere;
}

void outer_task(void* context, int64_t index) noexcept {
  Counted& counted = *static_cast<Counted*>(context);
  const size_t i = static_cast<size_t>(index);
  ++counted.calls[i];
  counted.thread[i] = std::this_thread::get_id();
  std::this_thread::sleep_for(std::chrono::microseconds(200));
  if (counted.inner == 0) return;
  Nested nested{&counted, std::this_thread::get_id()};
  pconv::parallel_for(counted.inner, 4, inner_task, &nested);
}

TEST(every_task_runs_once_on_at_most_n_threads) {
  alarm(kAlarmSeconds);
  for (int n_threads : {1, 2, 3, 4, 7, 64}) {
    for (int64_t n_tasks : {0, 1, 2, 7, 100}) {
      set_context(format("%lld tasks on %d threads", static_cast<long long>(n_tasks), n_threads));
      Counted counted(n_tasks, 0);
      pconv::parallel_for(n_tasks, n_threads, outer_task, &counted);
      std::vector<std::thread::id> ids;
      for (size_t i = 0; i < counted.calls.size(); ++i) {
        CHECK(counted.calls[i] == 1, "task %zu ran %d times", i, counted.calls[i].load());
        bool known = false;
        for (const std::thread::id& id : ids) known = known || id == counted.thread[i];
        if (!known) ids.push_back(counted.thread[i]);
      }
      CHECK(ids.size() <= static_cast<size_t>(n_threads), "%zu threads took part", ids.size());
    }
  }
  alarm(0);
}

// Forks; the child runs `body` under an alarm and exits with its result. Returns true if the child returned true in
// time.
template <typename Body>
bool in_child(Body body) {
  const pid_t pid = fork();
  REQUIRE(pid >= 0, "fork failed");
  if (pid == 0) {
    signal(SIGALRM, SIG_DFL);
    alarm(kAlarmSeconds / 2);
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(pid, &status, 0) == pid, "waitpid failed");
  if (WIFSIGNALED(status))
    CHECK(false, "the child died of signal %d%s", WTERMSIG(status), WTERMSIG(status) == SIGALRM ? ": it hung" : "");
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Threads of a forked child: qemu-user aborts in its own code when such a child starts one (seen with qemu 7.2 and a
// program of std::thread and fork alone).
void skip_under_emulation() {
#ifdef PCONV_TESTS_EMULATED
  throw Skip{"qemu-user aborts when a forked child starts threads"};
#endif
}

void count(void* context, int64_t index) noexcept {
  ++static_cast<Counted*>(context)->calls[static_cast<size_t>(index)];
}

// Calls that follow each other at once, after a while, and after so long that workers sleep; from two threads; in a
// child.
bool calls_are_whole_while_awake(int n_calls) {
  const pconv::KeepAwake awake(2);
  std::atomic<int> n_bad{0};
  const auto caller = [&] {
    for (int i = 0; i < n_calls; ++i) {
      Counted counted(1 + i % 5, 0);
      pconv::parallel_for(1 + i % 5, 2 + i % 3, count, &counted);
      for (const std::atomic<int>& calls : counted.calls) n_bad += calls != 1;
      if (i % 50 == 49) std::this_thread::sleep_for(std::chrono::microseconds(i % 100 == 99 ? 1500 : 100));
    }
  };
  std::thread other(caller);
  caller();
  other.join();
  return n_bad == 0;
}

TEST(workers_that_are_kept_awake_lose_no_task) {
  alarm(kAlarmSeconds);
  CHECK(calls_are_whole_while_awake(options().soak ? 100000 : 2000), "a task did not run once");
  alarm(0);
}

TEST(a_child_of_one_that_is_kept_awake_runs) {
  skip_under_emulation();
  alarm(kAlarmSeconds);
  const pconv::KeepAwake awake(2);
  CHECK(in_child([] { return calls_are_whole_while_awake(200); }), "a task did not run once in a child");
  alarm(0);
}

TEST(several_threads_take_part) {
  alarm(kAlarmSeconds);
  bool seen = false;
  for (int attempt = 0; attempt < 50 && !seen; ++attempt) {
    Counted counted(100, 0);
    pconv::parallel_for(100, 4, outer_task, &counted);
    for (const std::thread::id& id : counted.thread) seen = seen || id != counted.thread[0];
  }
  CHECK(seen, "100 tasks of 0.2 ms on 4 threads all ran on one, 50 times");
  alarm(0);
}

TEST(nested_calls_run_inline) {
  alarm(kAlarmSeconds);
  Counted counted(20, 5);
  pconv::parallel_for(20, 4, outer_task, &counted);
  CHECK(counted.n_inner == 100, "%d inner tasks", counted.n_inner.load());
  CHECK(counted.n_elsewhere == 0, "%d inner tasks ran on another thread", counted.n_elsewhere.load());
  alarm(0);
}

TEST(busy_pool_makes_callers_run_inline) {
  alarm(kAlarmSeconds);
  struct Gate {
    std::atomic<int> entered{0};
    std::atomic<bool> open{false};
  } gate;
  // Holds the pool until the gate opens.
  std::thread holder([&gate] {
    pconv::parallel_for(
        2, 2,
        [](void* context, int64_t) noexcept {
          Gate& g = *static_cast<Gate*>(context);
          ++g.entered;
          while (!g.open) std::this_thread::yield();
        },
        &gate);
  });
  while (gate.entered == 0) std::this_thread::yield();
  Counted counted(10, 0);
  pconv::parallel_for(10, 4, outer_task, &counted);
  for (size_t i = 0; i < counted.calls.size(); ++i) {
    CHECK(counted.calls[i] == 1 && counted.thread[i] == std::this_thread::get_id(), "task %zu ran elsewhere", i);
  }
  gate.open = true;
  holder.join();
  alarm(0);
}

TEST(fork_after_use) {
  skip_under_emulation();
  alarm(kAlarmSeconds * 4);
  const Bench bench;
  const std::vector<float> want = bench.output(4);
  for (int round = 0; round < (options().soak ? 100 : 20); ++round) {
    set_context(format("round %d", round));
    const bool good = in_child([&] {
      std::vector<float> y;
      return bench.run_into(y, 4) && equal(y, want) && bench.run_into(y, 3) && equal(y, want);
    });
    CHECK(good, "the child's output differs, or its call failed");
    CHECK(equal(bench.output(4), want), "the parent's output differs after the fork");
  }
  alarm(0);
}

// The fork falls into other threads' calls: their locks and workers do not exist in the child.
TEST(fork_during_use) {
  skip_under_emulation();
#ifdef __SANITIZE_ADDRESS__
  // GCC 12's AddressSanitizer forks without taking its allocator's locks: a child of a thread that allocates waits for
  // ever on the first allocation (seen in libsanitizer's SizeClassAllocator64, under load).
  throw Skip{"AddressSanitizer's own locks do not survive a fork while another thread allocates"};
#endif
  alarm(kAlarmSeconds * 4);
  const Bench bench;
  const std::vector<float> want = bench.output(4);
  std::atomic<bool> stop{false};
  std::vector<std::thread> others;
  for (int t = 0; t < 2; ++t) {
    others.emplace_back([&] {
      std::vector<float> y;
      while (!stop) bench.run_into(y, 3);
    });
  }
  for (int round = 0; round < (options().soak ? 100 : 20); ++round) {
    set_context(format("round %d", round));
    std::vector<float> y(bench.out_size);  // no allocation in the child before its call
    CHECK(in_child([&] { return bench.run_into(y, 4) && equal(y, want); }), "the child's output differs");
  }
  stop = true;
  for (std::thread& other : others) other.join();
  alarm(0);
}

TEST(grandchildren_run) {
  skip_under_emulation();
  alarm(kAlarmSeconds);
  const Bench bench;
  const std::vector<float> want = bench.output(4);
  const bool good = in_child([&] {
    std::vector<float> y;
    if (!bench.run_into(y, 2) || !equal(y, want)) return false;
    return in_child([&] { return bench.run_into(y, 4) && equal(y, want); });
  });
  CHECK(good, "a grandchild failed");
  alarm(0);
}

TEST(default_number_of_threads) {
  const int before = pconv_get_num_threads();
  CHECK(before >= 1 && before <= 1024, "it starts as %d", before);
  for (const int n : {1, 2, 7, 1024}) {
    CHECK(pconv_set_num_threads(n) == PCONV_OK, "%d: %s", n, pconv_last_error());
    CHECK(pconv_get_num_threads() == n, "set %d, got %d", n, pconv_get_num_threads());
  }
  for (const int n : {0, -1, 1025}) {
    CHECK(pconv_set_num_threads(n) == PCONV_INVALID_ARGUMENT, "%d was accepted", n);
    CHECK(pconv_get_num_threads() == 1024, "%d changed the number to %d", n, pconv_get_num_threads());
  }
  const Bench bench;
  const std::vector<float> want = bench.output(1);
  for (const int n : {3, before}) {
    REQUIRE(pconv_set_num_threads(n) == PCONV_OK, "%s", pconv_last_error());
    CHECK(equal(bench.output(0), want), "n_threads = 0 gives other bytes with %d threads", n);
  }
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, nullptr); }
