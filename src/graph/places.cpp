#include "places.h"

#include <algorithm>

#include "op.h"
#include "pooled_convs.h"
#include "status.h"

namespace pconv {
namespace {

constexpr int kNever = -1;

// A piece of memory and what lies in it.
struct Buffer {
  pconv_base base;
  int64_t floats;
  int first, last;  // nodes that write and read it, the number of nodes standing for the caller
  bool has_parts;   // values lie in it side by side: a concat's inputs
};

// A value that lies inside the output of a concat from the beginning.
struct Host {
  int value = kNever;
  int64_t offset = 0;  // in floats of the host, for steps of the host as they come
  bool along_first = false;
  int64_t parts = 0;  // along_first: of dims[0], before it
};

class Planner {
 public:
  Planner(const Model& model, const std::vector<Shape>& shapes, const std::vector<int>& pooled, Places* out)
      : model_(model), shapes_(shapes), pooled_(pooled), out_(*out), n_nodes_(static_cast<int>(model.nodes.size())) {}

  pconv_status plan() {
    const auto n = static_cast<size_t>(model_.n_values());
    out_.values.assign(n, {});
    out_.runs.assign(model_.nodes.size(), false);
    buffer_of_.assign(n, kNever);
    hosts_.assign(n, {});
    output_of_.assign(n, kNever);
    pools_.assign(model_.nodes.size(), false);
    find_last_uses();
    for (size_t i = 0; i < model_.nodes.size(); ++i) host_inputs(static_cast<int>(i));
    place_inputs();
    for (int i = 0; i < n_nodes_; ++i) {
      if (last_use_[index(model_.value_of(i))] != kNever) place_node(i);
    }
    place_outputs();
    return place_buffers();
  }

 private:
  static size_t index(int i) { return static_cast<size_t>(i); }
  const Shape& shape(int value) const { return shapes_[index(value)]; }
  const Node& node(int i) const { return model_.nodes[index(i)]; }

  // The last node that reads each value, n_nodes_ for outputs; kNever: no output needs it.
  void find_last_uses() {
    last_use_.assign(index(model_.n_values()), kNever);
    for (const ModelOutput& output : model_.outputs) last_use_[index(output.value)] = n_nodes_;
    for (int i = n_nodes_ - 1; i >= 0; --i) {
      if (last_use_[index(model_.value_of(i))] == kNever) continue;
      for (const int value : node(i).inputs) last_use_[index(value)] = std::max(last_use_[index(value)], i);
    }
    for (int j = static_cast<int>(model_.outputs.size()) - 1; j >= 0; --j) {
      output_of_[index(model_.outputs[index(j)].value)] = j;
    }
  }

  // Inputs of a concat that are computed for the first time may be computed where they end up.
  void host_inputs(int i) {
    const Node& concat = node(i);
    const int result = model_.value_of(i);
    if (last_use_[index(result)] == kNever || !concat.op->joins_inputs || concat.ints[0] > 1) return;
    const bool along_first = concat.ints[0] == 0;
    int64_t before = 0;
    for (const int value : concat.inputs) {
      if (can_be_hosted(value, concat)) {
        hosts_[index(value)] = {result, along_first ? 0 : before * shape(value).inner(2), along_first, before};
      }
      before += shape(value).dims[concat.ints[0]];
    }
  }

  bool can_be_hosted(int value, const Node& concat) const {
    const int maker = model_.node_of(value);
    if (maker < 0 || hosts_[index(value)].value != kNever || output_of_[index(value)] != kNever) return false;
    if (node(maker).op->view != nullptr || node(maker).op->run == nullptr) return false;
    return std::count(concat.inputs.begin(), concat.inputs.end(), value) == 1;
  }

  void place_inputs() {
    for (int i = 0; i < static_cast<int>(model_.inputs.size()); ++i) {
      own_buffer(i, PCONV_INPUT, i, 0);
    }
  }

  void place_node(int i) {
    const int value = model_.value_of(i);
    if (pools_[index(i)]) return;
    if (pooled_[index(i)] != kNotPooled) return place_pooled(i);
    if (node(i).op->run == nullptr) return own_buffer(value, PCONV_DATA, i, i);
    if (hosts_[index(value)].value == kNever && (place_as_view(i) || place_in_place(i))) return;
    if (buffer_of_[index(value)] == kNever) place_new(value, i);
    if (node(i).op->joins_inputs && buffers_[index(buffer_of_[index(value)])].has_parts) return move_rest(i);
    out_.runs[index(i)] = true;
  }

  // The convolution writes what the pooling would.
  void place_pooled(int i) {
    const int value = model_.value_of(pooled_[index(i)]);
    pools_[index(pooled_[index(i)])] = true;
    place_new(value, i);
    out_.runs[index(i)] = true;
  }

  void own_buffer(int value, pconv_base base, int number, int first) {
    Buffer buffer = {base, shape(value).count(), first, first, false};
    buffers_.push_back(buffer);
    join(value, static_cast<int>(buffers_.size()) - 1, {base, number, 0, shape(value).part()});
  }

  void join(int value, int buffer, Place place) {
    buffer_of_[index(value)] = buffer;
    out_.values[index(value)] = place;
    Buffer& b = buffers_[index(buffer)];
    b.last = std::max(b.last, last_use_[index(value)]);
  }

  // In its host, in an output of the caller, or in new memory.
  void place_new(int value, int first) {
    // Hosts may lie in hosts, a hostile file's in thousands: no recursion.
    std::vector<int> inside;
    for (; buffer_of_[index(value)] == kNever && hosts_[index(value)].value != kNever;
         value = hosts_[index(value)].value) {
      inside.push_back(value);
    }
    if (buffer_of_[index(value)] == kNever) {
      const int output = output_of_[index(value)];
      own_buffer(value, output == kNever ? PCONV_ARENA : PCONV_OUTPUT, std::max(output, 0), first);
    }
    for (auto next = inside.rbegin(); next != inside.rend(); ++next) place_in_host(*next);
  }

  void place_in_host(int value) {
    const Host& host = hosts_[index(value)];
    Place place = out_.values[index(host.value)];
    place.offset += host.along_first ? host.parts * place.step : host.offset;
    buffers_[index(buffer_of_[index(host.value)])].has_parts = true;
    join(value, buffer_of_[index(host.value)], place);
  }

  bool place_as_view(int i) {
    const Node& n = node(i);
    if (n.op->view == nullptr) return false;
    const int from = n.inputs[0], to = model_.value_of(i);
    Place place = out_.values[index(from)];
    const Tensor input = {nullptr, shape(from), place.step};
    int64_t offset = 0, step = 0;
    if (!n.op->view(n, input, shape(to), &offset, &step)) return false;
    place.offset += offset;
    place.step = step;
    join(to, buffer_of_[index(from)], place);
    return true;
  }

  // Over an input that nobody needs any more.
  bool place_in_place(int i) {
    const Node& n = node(i);
    const int to = model_.value_of(i);
    if (output_of_[index(to)] != kNever) return false;  // rather straight to the caller
    for (size_t k = 0; k < n.inputs.size(); ++k) {
      const int from = n.inputs[k];
      if ((n.op->writes_over >> k & 1) == 0 || shape(from) != shape(to)) continue;
      const Buffer& b = buffers_[index(buffer_of_[index(from)])];
      if (b.base != PCONV_ARENA || b.last > i || !covers(b, from)) continue;
      if (other_input_in(n, k, buffer_of_[index(from)])) continue;
      join(to, buffer_of_[index(from)], out_.values[index(from)]);
      out_.runs[index(i)] = true;
      return true;
    }
    return false;
  }

  bool other_input_in(const Node& n, size_t input, int buffer) const {
    for (size_t k = 0; k < n.inputs.size(); ++k) {
      if (k != input && buffer_of_[index(n.inputs[k])] == buffer) return true;
    }
    return false;
  }

  bool covers(const Buffer& b, int value) const {
    return shape(value).count() == b.floats && out_.values[index(value)].offset == 0;
  }

  // A concat whose inputs partly lie where they belong.
  void move_rest(int i) {
    const Node& concat = node(i);
    const Place whole = out_.values[index(model_.value_of(i))];
    int64_t before = 0;
    for (const int value : concat.inputs) {
      const Host& host = hosts_[index(value)];
      if (host.value != model_.value_of(i)) {
        Place to = whole;
        to.offset += concat.ints[0] == 0 ? before * whole.step : before * shape(value).inner(2);
        out_.moves.push_back({i, value, out_.values[index(value)], to});
      }
      before += shape(value).dims[concat.ints[0]];
    }
  }

  // What is not there already goes to the caller at the end.
  void place_outputs() {
    for (int j = 0; j < static_cast<int>(model_.outputs.size()); ++j) {
      const int value = model_.outputs[index(j)].value;
      const Place& at = out_.values[index(value)];
      if (at.base == PCONV_OUTPUT && at.index == j && covers(buffers_[index(buffer_of_[index(value)])], value))
        continue;
      out_.moves.push_back({n_nodes_, value, at, {PCONV_OUTPUT, j, 0, shape(value).part()}});
    }
  }

  pconv_status place_buffers() {
    std::vector<ArenaBuffer> arena;
    std::vector<size_t> places;
    int64_t all = 0;
    for (size_t b = 0; b < buffers_.size(); ++b) {
      if (buffers_[b].base != PCONV_ARENA) continue;
      const int64_t floats = (buffers_[b].floats + kArenaAlign - 1) / kArenaAlign * kArenaAlign;
      // Shapes have at most kMaxTensorFloats each, but there may be a million of them.
      if (__builtin_add_overflow(all, floats, &all))
        return fail(PCONV_INVALID_ARGUMENT, "model: its activations do not fit into memory");
      arena.push_back({floats, buffers_[b].first, buffers_[b].last, 0});
      places.push_back(b);
    }
    out_.arena = plan_arena(&arena);
    std::vector<int64_t> offsets(buffers_.size(), 0);
    for (size_t k = 0; k < arena.size(); ++k) offsets[places[k]] = arena[k].offset;
    const auto settle = [&](int value, Place* place) {
      if (place->base == PCONV_ARENA) place->offset += offsets[index(buffer_of_[index(value)])];
    };
    for (Move& move : out_.moves) {
      settle(move.value, &move.from);
      if (move.to.base == PCONV_ARENA) move.to.offset += offsets[index(buffer_of_[index(model_.value_of(move.node))])];
    }
    for (int v = 0; v < model_.n_values(); ++v) {
      if (buffer_of_[index(v)] != kNever) settle(v, &out_.values[index(v)]);
    }
    return PCONV_OK;
  }

  const Model& model_;
  const std::vector<Shape>& shapes_;
  const std::vector<int>& pooled_;
  Places& out_;
  const int n_nodes_;
  std::vector<int> last_use_;   // by value
  std::vector<int> output_of_;  // by value: the first output that it is
  std::vector<int> buffer_of_;  // by value
  std::vector<Host> hosts_;     // by value
  std::vector<bool> pools_;     // by node: a pooling whose convolution has its place
  std::vector<Buffer> buffers_;
};

}  // namespace

pconv_status plan_places(const Model& model, const std::vector<Shape>& shapes, const std::vector<int>& pooled,
                         Places* places) {
  return Planner(model, shapes, pooled, places).plan();
}

}  // namespace pconv
