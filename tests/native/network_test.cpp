// Networks: what a session computes is what its nodes compute one by one, bit for bit, on every ISA, whatever shares
// memory; models come back from their bytes whole; weights exist once; warm runs allocate nothing.
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "allocations.h"
#include "network_support.h"

namespace pconv_test {
namespace {

void random_networks(const char* isa) {
  Rng rng(options().seed);
  for (int i = 0; i < (options().soak ? 3000 : 150); ++i) {
    set_context(format("%s network %d", isa, i));
    Network net(rng, isa);
    fill_random_network(rng, &net, static_cast<int>(rng.between(3, 30)));
    const Model model = net.finish();
    const Session session = plan_session(model, isa);
    for (const int n_threads : {1, 3, 1}) net.check(session.get(), n_threads);
    pconv_session_info info{};
    REQUIRE(pconv_query_session(session.get(), &info) == PCONV_OK, "%s", pconv_last_error());
    CHECK(info.live_bytes <= info.arena_bytes, "the arena has %lld bytes, %lld are needed",
          static_cast<long long>(info.arena_bytes), static_cast<long long>(info.live_bytes));
  }
}

void files_of_random_networks(const char* isa) {
  Rng rng(options().seed + 1);
  for (int i = 0; i < (options().soak ? 600 : 40); ++i) {
    set_context(format("%s network %d", isa, i));
    Network net(rng, isa);
    fill_random_network(rng, &net, static_cast<int>(rng.between(3, 20)));
    const Model model = net.finish();
    const Bytes bytes = write(model);
    const Model again = read(bytes);
    CHECK(write(again) == bytes, "another file");
    const Session session = plan_session(again, isa);
    net.check(session.get(), 1);
    CHECK(write(again) == bytes, "another file, once the weights lie in their ukernels' form");
    net.check(plan_session(again, isa).get(), 1);
    net.check(session.get(), 1);
  }
}

// Every ukernel's form gives the packed bytes back, for fp16 weights too.
void weights_exist_once(const char* isa) {
  Rng rng(options().seed);
  const int64_t shapes[][6] = {{16, 16, 3, 1, 1, 20}, {16, 24, 3, 2, 1, 14},  {32, 32, 3, 1, 1, 4},
                               {32, 32, 3, 1, 1, 2},  {24, 24, 3, 1, 24, 12}, {24, 24, 3, 2, 24, 11},
                               {16, 40, 1, 1, 1, 9},  {3, 16, 7, 2, 1, 24}};
  for (const auto& [in, out, kernel, stride, groups, size] : shapes) {
    for (const bool as_fp16 : {false, true}) {
      set_context(format("%s %lldx%lld kernel %lld at %lld fp16 %d", isa, static_cast<long long>(in),
                         static_cast<long long>(out), static_cast<long long>(kernel), static_cast<long long>(size),
                         as_fp16));
      Network net(rng, isa);
      net.input({1, in, size, size});
      const Layer layer = random_layer(rng, in, out, kernel, stride, groups, 0.4);
      net.output(net.conv(0, -1, layer, 0, kInf, as_fp16));
      const Model model = net.finish();
      const Bytes bytes = write(model);
      const Session session = plan_session(model, isa);
      pconv_session_info info{};
      REQUIRE(pconv_query_session(session.get(), &info) == PCONV_OK, "%s", pconv_last_error());
      const Packed packed = pack(layer);
      const Plan p = plan(packed, {1, size, size, PCONV_NCHW, isa, ""});
      const auto of_weights = static_cast<int64_t>(bytes.size()) - info.weight_bytes + query(p).prepacked_bytes;
      CHECK(of_weights > 0, "%lld bytes of weights, the form alone takes %lld: the packed ones are still there",
            static_cast<long long>(info.weight_bytes), static_cast<long long>(query(p).prepacked_bytes));
      CHECK(write(model) == bytes, "another file");
    }
  }
}

// Every ukernel of the ISA that takes the layer, chosen by name.
void chosen_ukernels(const char* isa) {
  Rng rng(options().seed);
  Network net(rng, isa);
  net.input({1, 16, 9, 9});
  const Layer layer = random_layer(rng, 16, 16, 3, 1, 1, 0.5);
  net.output(net.conv(0, -1, layer, 0, kInf));
  const Model model = net.finish();
  const Bytes bytes = write(model);
  int taken = 0;
  pconv_ukernel_info row{};
  for (int i = 0; pconv_list_ukernel(i, &row); ++i) {
    if (row.isa != std::string(isa)) continue;
    const pconv_choice choice = {0, isa, row.name, 1, 9, 9};
    const pconv_session_options options = {nullptr, isa, &choice, 1};
    pconv_session* raw = nullptr;
    REQUIRE(pconv_plan_model(model.get(), &options, &raw) == PCONV_OK, "%s", pconv_last_error());
    const Session session(raw);
    pconv_step_info step{};
    REQUIRE(pconv_get_step(session.get(), 0, &step) == PCONV_OK, "%s", pconv_last_error());
    taken += std::string(step.ukernel) == row.name;
    CHECK(write(model) == bytes, "another file after %s", row.name);
    void* with_choice = nullptr;
    size_t n = 0;
    REQUIRE(pconv_write_model(model.get(), &choice, 1, &with_choice, &n) == PCONV_OK, "%s", pconv_last_error());
    const auto* start = static_cast<const unsigned char*>(with_choice);
    const Model tuned = read(Bytes(start, start + n));
    pconv_free_bytes(with_choice);
    pconv_choice found{};
    REQUIRE(pconv_get_choice(tuned.get(), 0, &found) == PCONV_OK, "%s", pconv_last_error());
    CHECK(std::string(found.ukernel) == row.name && found.h == 9, "the choice in the file is %s", found.ukernel);
  }
  CHECK(taken >= 2, "%d ukernels take the layer", taken);
}

void warm_runs_allocate_nothing(const char* isa) {
  Rng rng(options().seed);
  Network net(rng, isa);
  fill_random_network(rng, &net, 30);
  const Model model = net.finish();
  const Session session = plan_session(model, isa);
  std::vector<Floats> memory;
  std::vector<const float*> inputs;
  std::vector<float*> outputs;
  pconv_model_info info{};
  REQUIRE(pconv_query_model(model.get(), &info) == PCONV_OK, "%s", pconv_last_error());
  for (int i = 0; i < info.n_inputs; ++i) inputs.push_back(net.value(i).floats.data());
  memory.reserve(static_cast<size_t>(info.n_outputs));
  for (int i = 0; i < info.n_outputs; ++i) {
    pconv_shape shape{};
    REQUIRE(pconv_get_session_output(session.get(), i, &shape) == PCONV_OK, "%s", pconv_last_error());
    memory.emplace_back(static_cast<size_t>(count(Dims(shape.dims, shape.dims + shape.rank))));
    outputs.push_back(memory.back().data());
  }
  const pconv_session_args args = {inputs.data(), outputs.data(), 3, nullptr};
  // Which thread gets which task differs from run to run: each must have met the largest scratch.
  for (int i = 0; i < 200; ++i) REQUIRE(pconv_run_session(session.get(), &args) == PCONV_OK, "%s", pconv_last_error());
  const size_t before = g_allocations.load();
  const int runs = options().soak ? 10000 : std::string(isa) == "scalar" ? 100 : 1000;
  for (int i = 0; i < runs; ++i) pconv_run_session(session.get(), &args);
  CHECK(g_allocations.load() == before, "%zu allocations", g_allocations.load() - before);
}

void add_tests() {
  for_each_way("network", [](const Way& way) {
    if (!way.ukernel.empty()) return;
    const auto add = [&](const char* name, void (*body)(const char*)) {
      const std::string isa = way.isa;
      state().tests.push_back({std::string(name) + "/" + isa, [=] { body(isa.c_str()); }});
    };
    add("random_networks", random_networks);
    add("files_of_random_networks", files_of_random_networks);
    add("weights_exist_once", weights_exist_once);
    add("chosen_ukernels", chosen_ukernels);
    add("warm_runs_allocate_nothing", warm_runs_allocate_nothing);
  });
}

// A small model for the tests of files: a layer, another operator with data, a constant.
Bytes small_model() {
  Rng rng(7);
  Network net(rng, "scalar");
  const int x = net.input({1, 2, 4, 4}, 1);
  const int y = net.conv(x, -1, random_layer(rng, 2, 3, 3, 1, 1, 1.0), 0, 6);
  const int z = net.node("mul", {y, net.constant({3, 1, 1})}, {0}, {0, 0});
  const Floats weight = random_floats(rng, 6), bias = random_floats(rng, 2);
  net.output(net.node("linear", {net.node("mean", {z}, {2, 0})}, {0}, {0, 0}, {{"weight", weight}, {"bias", bias}}));
  return write(net.finish());
}

TEST(every_changed_byte_is_refused) {
  const Bytes good = small_model();
  for (size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 255; bit += options().soak ? 1 : 37) {
      Bytes bad = good;
      bad[i] = static_cast<unsigned char>(bad[i] ^ (bit + 1));
      pconv_model* model = nullptr;
      const pconv_status status = pconv_read_model(bad.data(), bad.size(), &model);
      CHECK(status == PCONV_BAD_FORMAT, "byte %zu changed by %d: status %d", i, bit + 1, status);
      pconv_free_model(model);
    }
  }
}

TEST(every_truncation_is_refused) {
  const Bytes good = small_model();
  for (size_t n = 0; n < good.size(); ++n) {
    pconv_model* model = nullptr;
    CHECK(pconv_read_model(good.data(), n, &model) == PCONV_BAD_FORMAT, "%zu of %zu bytes were read", n, good.size());
    pconv_free_model(model);
  }
  Bytes longer = good;
  longer.push_back(0);
  pconv_model* model = nullptr;
  CHECK(pconv_read_model(longer.data(), longer.size(), &model) == PCONV_BAD_FORMAT, "a byte too many was read");
}

TEST(bad_calls_are_refused) {
  const Model model = read(small_model());
  const Session session = plan_session(model, "scalar");
  Floats memory(100, 1.0f);
  const auto run = [&](const float* x, float* y, int n_threads) {
    const pconv_session_args args = {&x, &y, n_threads, nullptr};
    return pconv_run_session(session.get(), &args);
  };
  const auto refused = [&](pconv_status status, const char* text, pconv_status expected = PCONV_INVALID_ARGUMENT) {
    CHECK(status == expected && std::string(pconv_last_error()).find(text) != std::string::npos, "status %d: %s",
          status, pconv_last_error());
  };
  CHECK(run(memory.data(), memory.data() + 32, 1) == PCONV_OK, "%s", pconv_last_error());
  refused(run(nullptr, memory.data(), 1), "inputs[0] (\"input0\"): is null");
  refused(run(memory.data(), nullptr, 1), "outputs[0] (\"output0\"): is null");
  refused(run(memory.data(), memory.data() + 31, 1), "outputs[0] (\"output0\"): overlaps inputs[0]");
  refused(run(memory.data(), memory.data() + 32, -1), "n_threads: got -1");
  refused(run(memory.data(), memory.data() + 32, 1025), "n_threads: got 1025");
  const pconv_shape shape = c_shape({1, 2, 4, 5});
  const pconv_session_options options = {&shape, "scalar", nullptr, 0};
  pconv_session* other = nullptr;
  refused(pconv_plan_model(model.get(), &options, &other), "input \"input0\": dims[3] is 5, the network takes 4");
  const pconv_session_options unknown = {nullptr, "mmx", nullptr, 0};
  CHECK(pconv_plan_model(model.get(), &unknown, &other) == PCONV_UNAVAILABLE, "%s", pconv_last_error());
  refused(pconv_plan_model(nullptr, nullptr, &other), "model: is null");
  refused(pconv_load_model("/nowhere/net.pconv", nullptr), "model: is null");
  pconv_model* missing = nullptr;
  refused(pconv_load_model("/nowhere/net.pconv", &missing), "/nowhere/net.pconv: cannot be opened", PCONV_FILE_ERROR);
  const std::string pipe = format("/tmp/pconv-pipe-%d", static_cast<int>(getpid()));
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0, "mkfifo %s", pipe.c_str());
  refused(pconv_load_model(pipe.c_str(), &missing), "is no regular file", PCONV_FILE_ERROR);
  unlink(pipe.c_str());
  pconv_free_model(nullptr);
  pconv_free_session(nullptr);
  pconv_free_builder(nullptr);
  pconv_free_bytes(nullptr);
}

// A concatenation of one input lies in the next one, and so on.
TEST(hosts_in_hosts) {
  Rng rng(1);
  Network net(rng, "scalar");
  int x = net.node("activate", {net.input({1, 2, 2, 2})}, {1}, {-1, 1});
  for (int i = 0; i < 20000; ++i) x = net.node("concat", {x}, {1});
  net.output(x);
  net.check(plan_session(net.finish(), "scalar").get(), 1);
}

TEST(free_dims_have_a_limit_together) {
  Rng rng(1);
  Network net(rng, "scalar");
  net.input({2, 2, 2}, 7);
  net.output(net.input({1}));
  const Model model = net.finish();
  const pconv_shape shapes[] = {c_shape({1 << 30, 1 << 30, 1 << 30}), c_shape({1})};
  const pconv_session_options options = {shapes, "scalar", nullptr, 0};
  pconv_session* session = nullptr;
  CHECK(pconv_plan_model(model.get(), &options, &session) == PCONV_INVALID_ARGUMENT, "%s", pconv_last_error());
}

// Weights move between forms while others look at the model.
TEST(threads_share_a_model) {
  Rng rng(4);
  Network net(rng, "scalar");
  net.input({1, 8, 6, 6}, 13);
  net.output(net.conv(0, -1, random_layer(rng, 8, 8, 3, 1, 1, 0.5), 0, kInf));
  const Model model = net.finish();
  const Bytes bytes = write(model);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 30; ++i) {
        const pconv_shape shape = c_shape({1, 8, 6 + t, 6 + i % 3});
        const pconv_session_options options = {&shape, "scalar", nullptr, 0};
        pconv_session* session = nullptr;
        wrong += pconv_plan_model(model.get(), &options, &session) != PCONV_OK;
        pconv_free_session(session);
        pconv_data_info data{};
        wrong += pconv_get_data(model.get(), 0, 0, &data) != PCONV_OK;
        void* file = nullptr;
        size_t n = 0;
        wrong += pconv_write_model(model.get(), nullptr, 0, &file, &n) != PCONV_OK || n != bytes.size() ||
                 std::memcmp(file, bytes.data(), n) != 0;
        pconv_free_bytes(file);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0, "%d calls went wrong", wrong.load());
}

TEST(equal_data_is_stored_once) {
  Rng rng(3);
  const Layer layer = random_layer(rng, 8, 8, 3, 1, 1, 1.0);
  size_t sizes[2];
  for (const int twice : {0, 1}) {
    Network net(rng, "scalar");
    int x = net.input({1, 8, 6, 6});
    x = net.conv(x, -1, layer, 0, 6);
    Layer second = layer;
    if (twice == 0) second.weights[0] += 1;
    net.output(net.conv(x, -1, second, 0, 6));
    const Model model = net.finish();
    sizes[twice] = write(model).size();
    net.check(plan_session(read(write(model)), "scalar").get(), 1);
    pconv_data_info data{};
    REQUIRE(pconv_get_data(model.get(), 1, 0, &data) == PCONV_OK, "%s", pconv_last_error());
    CHECK(data.shared_with == (twice == 1 ? 0 : -1), "shared with %d", data.shared_with);
  }
  CHECK(sizes[1] + 1500 < sizes[0], "%zu bytes with one layer twice, %zu with two", sizes[1], sizes[0]);
}

}  // namespace
}  // namespace pconv_test

int main(int argc, char** argv) { return pconv_test::test_main(argc, argv, pconv_test::add_tests); }
