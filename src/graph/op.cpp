// The table of operators: rows of ops.def with the rules of ops_*.cpp, and the checks that are the same for all.
#include "op.h"

#include <cinttypes>
#include <cstring>

#include "rules.h"

namespace pconv {
namespace {

struct Table {
  const OpInfo* rows;
  int n;
};

Table table() {
  static const OpInfo rows[] = {
#define PCONV_OP(id, name, least, most, ints, floats, data) \
  {id,                                                      \
   #name,                                                   \
   least,                                                   \
   most,                                                    \
   ints,                                                    \
   floats,                                                  \
   data,                                                    \
   rules::name.infer,                                       \
   rules::name.run,                                         \
   rules::name.view,                                        \
   rules::name.writes_over,                                 \
   rules::name.joins_inputs},
#include "ops.def"
#undef PCONV_OP
  };
  return {rows, static_cast<int>(sizeof(rows) / sizeof(rows[0]))};
}

// As ops.def names them, by number.
constexpr const char* kRoleNames[kRoles] = {"layer", "weight", "bias", "slope", "value"};

int count_names(const char* names) {
  if (names[0] == '\0') return 0;
  int n = 1;
  for (; (names = std::strchr(names, ',')) != nullptr; ++names) ++n;
  return n;
}

pconv_status check_number(const char* what, const char* names, size_t got) {
  if (std::strstr(names, "...") != nullptr) {
    if (got <= 2 * kMaxRank) return PCONV_OK;
    return fail(PCONV_INVALID_ARGUMENT, "%s: got %zu attributes, allowed 0 to %d", what, got, 2 * kMaxRank);
  }
  const int want = count_names(names);
  if (got == static_cast<size_t>(want)) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "%s: got %zu attributes, needed are %d (%s)", what, got, want, names);
}

pconv_status check_values(const Data& data, const char* name) {
  if (data.role == Role::kLayer) {
    return data.layer != nullptr ? PCONV_OK : fail(PCONV_INVALID_ARGUMENT, "%s: has no packed layer", name);
  }
  if (data.count < 0 || data.count > kMaxTensorFloats) {
    return fail(PCONV_INVALID_ARGUMENT, "%s: got %" PRId64 " floats, allowed 0 to %" PRId64, name, data.count,
                kMaxTensorFloats);
  }
  if (data.values == nullptr && data.count > 0) return fail(PCONV_INVALID_ARGUMENT, "%s: is null", name);
  return PCONV_OK;
}

// Each data of the row at most once, in the row's order, and those that must be there.
pconv_status check_data(const Node& node) {
  size_t at = 0;
  for (const char* name = node.op->data; name[0] != '\0';) {
    const bool optional = name[0] == '[';
    if (optional) ++name;
    const size_t length = std::strcspn(name, ",]");
    const char* role = at < node.data.size() ? role_name(node.data[at].role) : "";
    if (std::strlen(role) == length && std::strncmp(role, name, length) == 0) {
      if (const pconv_status s = check_values(node.data[at], role)) return s;
      ++at;
    } else if (!optional) {
      return fail(PCONV_INVALID_ARGUMENT, "%.*s: is missing", static_cast<int>(length), name);
    }
    name += length + (optional ? 1 : 0);
    if (name[0] == ',') ++name;
  }
  if (at == node.data.size()) return PCONV_OK;
  return fail(PCONV_INVALID_ARGUMENT, "%s: does not belong here, allowed in this order: %s",
              role_name(node.data[at].role), node.op->data[0] != '\0' ? node.op->data : "none");
}

}  // namespace

const OpInfo* op_at(int index) {
  const Table t = table();
  return index >= 0 && index < t.n ? &t.rows[index] : nullptr;
}

const char* role_name(Role role) {
  const auto number = static_cast<size_t>(role);
  return number < kRoles ? kRoleNames[number] : "unknown";
}

bool find_role(const char* name, Role* role) {
  for (int i = 0; i < kRoles; ++i) {
    if (std::strcmp(name, kRoleNames[i]) == 0) return *role = static_cast<Role>(i), true;
  }
  return false;
}

const OpInfo* find_op(uint16_t id) {
  const OpInfo* op = nullptr;
  for (int i = 0; (op = op_at(i)) != nullptr && op->id != id; ++i) {
  }
  return op;
}

const OpInfo* find_op(const char* name) {
  const OpInfo* op = nullptr;
  for (int i = 0; (op = op_at(i)) != nullptr && std::strcmp(op->name, name) != 0; ++i) {
  }
  return op;
}

pconv_status infer_shape(const Node& node, const Shape* inputs, Shape* output) {
  const OpInfo& op = *node.op;
  const auto n_inputs = static_cast<int64_t>(node.inputs.size());
  if (n_inputs < op.least_inputs || n_inputs > op.most_inputs) {
    return fail(PCONV_INVALID_ARGUMENT, "inputs: got %" PRId64 ", allowed %d to %d", n_inputs, op.least_inputs,
                op.most_inputs);
  }
  for (int i = 0; i < n_inputs; ++i) {
    char what[24];
    std::snprintf(what, sizeof(what), "input %d", i);
    if (const pconv_status s = check_shape(what, inputs[i])) return s;
  }
  if (const pconv_status s = check_number("ints", op.ints, node.ints.size())) return s;
  if (const pconv_status s = check_number("floats", op.floats, node.floats.size())) return s;
  if (const pconv_status s = check_data(node)) return s;
  *output = {};
  if (const pconv_status s = op.infer(node, inputs, output)) return s;
  return check_shape("output", *output);
}

}  // namespace pconv
