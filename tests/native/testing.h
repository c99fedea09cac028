// A small test harness: named tests, CHECK, visible skips, one line of totals. Every test file includes it once and
// gets its main() from PCONV_TEST_MAIN. It knows nothing of the library.
#ifndef PCONV_TESTS_NATIVE_TESTING_H_
#define PCONV_TESTS_NATIVE_TESTING_H_

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace pconv_test {

struct Options {
  bool soak = false;    // --soak: the long counts
  uint64_t seed = 1;    // --seed N: another stream of cases
  std::string isa;      // --isa NAME: only this instruction set
  std::string filter;   // any other word: only tests whose name contains it
  std::string golden;   // --write-golden FILE: format_test only
  int case_index = -1;  // --case N: replays one generated case
};

struct Test {
  std::string name;
  std::function<void()> body;
};

struct Skip {
  std::string reason;
};
struct Abort {};  // thrown by REQUIRE: the rest of the test makes no sense

struct State {
  Options options;
  std::vector<Test> tests;
  int failures = 0;           // of the running test
  char context[1024] = "";    // what the test is doing, enough to replay; read by the signal handler too
  const char* running = "-";  // name of the running test
};

inline State& state() {
  static State s;
  return s;
}
inline const Options& options() { return state().options; }

__attribute__((format(printf, 1, 2))) inline std::string format(const char* text, ...) {
  char buffer[2048];
  va_list args;
  va_start(args, text);
  vsnprintf(buffer, sizeof buffer, text, args);
  va_end(args);
  return buffer;
}

// Replay text that every failure prints until the next call.
inline void set_context(const std::string& text) {
  snprintf(state().context, sizeof state().context, "%s", text.c_str());
}

inline void report_failure(const char* file, int line, const char* what, const std::string& text) {
  constexpr int kShown = 10;
  if (++state().failures > kShown) return;
  printf("  %s:%d: %s: %s\n    [%s] seed=%llu\n", file, line, what, text.c_str(), state().context,
         static_cast<unsigned long long>(options().seed));
  if (state().failures == kShown) printf("  (further failures of this test are not shown)\n");
}

#define CHECK(condition, ...)                                                                                          \
  do {                                                                                                                 \
    if (!(condition)) ::pconv_test::report_failure(__FILE__, __LINE__, #condition, ::pconv_test::format(__VA_ARGS__)); \
  } while (0)
#define REQUIRE(condition, ...)                                                                        \
  do {                                                                                                 \
    if (!(condition)) {                                                                                \
      ::pconv_test::report_failure(__FILE__, __LINE__, #condition, ::pconv_test::format(__VA_ARGS__)); \
      throw ::pconv_test::Abort{};                                                                     \
    }                                                                                                  \
  } while (0)
#define TEST(name)                                                                                    \
  static void name();                                                                                 \
  static const bool registered_##name = (::pconv_test::state().tests.push_back({#name, name}), true); \
  static void name()

inline void on_crash(int signal_number) {
  const char* parts[] = {"\ncrashed in ", state().running, " [", state().context, "]\n"};
  for (const char* part : parts) {
    if (write(STDOUT_FILENO, part, strlen(part)) < 0) break;
  }
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

inline bool parse_options(int argc, char** argv) {
  Options& o = state().options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    const bool takes_value = word == "--seed" || word == "--isa" || word == "--case" || word == "--write-golden";
    if (takes_value && !value) return fprintf(stderr, "%s needs a value\n", word.c_str()), false;
    if (word == "--soak") o.soak = true;
    if (word == "--seed") o.seed = strtoull(value, nullptr, 10);
    if (word == "--case") o.case_index = atoi(value);
    if (word == "--isa") o.isa = value;
    if (word == "--write-golden") o.golden = value;
    if (word[0] != '-') o.filter = word;
    if (takes_value) ++i;
  }
  return true;
}

inline int run_tests() {
  int passed = 0, failed = 0, skipped = 0;
  for (const Test& test : state().tests) {
    if (test.name.find(options().filter) == std::string::npos) continue;
    state().failures = 0;
    state().running = test.name.c_str();
    set_context("");
    std::string skip;
    const auto start = std::chrono::steady_clock::now();
    try {
      test.body();
    } catch (const Skip& s) {
      skip = s.reason;
    } catch (const Abort&) {
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const bool bad = state().failures > 0;
    const char* verdict = bad ? "FAIL" : skip.empty() ? "ok  " : "skip";
    printf("%s %s (%.2f s)%s%s\n", verdict, test.name.c_str(), seconds, skip.empty() ? "" : ": ", skip.c_str());
    fflush(stdout);
    ++(bad ? failed : skip.empty() ? passed : skipped);
  }
  printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  return failed > 0 || passed + skipped == 0 ? 1 : 0;
}

// Parses the options, lets `add_tests` add the tests that come from the tables of the library, runs all.
inline int test_main(int argc, char** argv, void (*add_tests)()) {
  if (!parse_options(argc, argv)) return 2;
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM}) signal(number, on_crash);
  if (add_tests) add_tests();
  return run_tests();
}

}  // namespace pconv_test
#endif  // PCONV_TESTS_NATIVE_TESTING_H_
