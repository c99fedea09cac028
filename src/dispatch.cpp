// The kernel table of this build and the choice of the ISA.
#include "dispatch.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cpu.h"
#include "pconv_built_isas.h"
#include "status.h"

namespace pconv {

#define PCONV_DECLARE_TABLE(name, features) \
  namespace name {                          \
  const IsaTable* kernel_table() noexcept;  \
  }
PCONV_FOR_BUILT_ISAS(PCONV_DECLARE_TABLE)
#undef PCONV_DECLARE_TABLE

namespace {

#define PCONV_COUNT_ISA(name, features) +1
constexpr int kMaxIsas = 0 PCONV_FOR_BUILT_ISAS(PCONV_COUNT_ISA), kMaxUkernels = 32 * kMaxIsas;
#undef PCONV_COUNT_ISA
Isa g_isas[kMaxIsas];
Ukernel g_ukernels[kMaxUkernels];

Registry build_registry() {
  Registry r = {g_isas, 0, g_ukernels, 0};
#define PCONV_ADD_ISA(name, features) g_isas[r.n_isas++] = {#name, features, cpu_has(features), name::kernel_table()};
  PCONV_FOR_BUILT_ISAS(PCONV_ADD_ISA)
#undef PCONV_ADD_ISA
  for (int i = 0; i < r.n_isas; ++i) {
    const Isa& isa = g_isas[i];
    for (int k = 0; k < isa.table->n_kernels && r.n_ukernels < kMaxUkernels; ++k) {
      Ukernel& u = g_ukernels[r.n_ukernels++];
      u.isa = &isa;
      u.info = &isa.table->kernels[k];
      char kind[16] = "";
      if (u.info->pattern()) std::snprintf(kind, sizeof(kind), "_s%d", u.info->stride);
      if (u.info->block > 0) std::snprintf(kind, sizeof(kind), "%d", u.info->block);
      std::snprintf(u.name, sizeof(u.name), "f32_%s%s_%dx%d_%s", u.info->name, kind, u.info->rows, u.info->vectors,
                    isa.name);
    }
  }
  return r;
}

// "avx512, scalar": what this build has and this CPU runs.
void list_supported(char* text, size_t size) {
  const Registry& r = registry();
  size_t used = 0;
  text[0] = '\0';
  for (int i = 0; i < r.n_isas; ++i) {
    if (!r.isas[i].supported || used >= size) continue;
    const int n = std::snprintf(text + used, size - used, "%s%s", used ? ", " : "", r.isas[i].name);
    if (n > 0) used += static_cast<size_t>(n);
  }
}

}  // namespace

const Registry& registry() {
  static const Registry r = build_registry();
  return r;
}

pconv_status find_isa(const char* name, const Isa** isa) {
  const char* source = "isa";
  if (name == nullptr) {
    name = std::getenv("PCONV_FORCE_ISA");
    source = "PCONV_FORCE_ISA";
    if (name != nullptr && name[0] == '\0') name = nullptr;
  }
  const Registry& r = registry();
  bool known = false;
  for (int i = 0; i < r.n_isas; ++i) {
    const bool same = name == nullptr || std::strcmp(name, r.isas[i].name) == 0;
    if (same && r.isas[i].supported) {
      *isa = &r.isas[i];
      return PCONV_OK;
    }
    known = known || same;
  }
  char valid[128];
  list_supported(valid, sizeof(valid));
  return fail(PCONV_UNAVAILABLE, "%s: %s \"%.40s\"; this build runs here: %s", source,
              known ? "this CPU lacks the features of" : "this build has no instruction set", name ? name : "", valid);
}

pconv_status find_ukernel(const char* name, const Isa& isa, const Ukernel** ukernel) {
  const Registry& r = registry();
  for (int i = 0; i < r.n_ukernels; ++i) {
    if (r.ukernels[i].isa == &isa && std::strcmp(r.ukernels[i].name, name) == 0) {
      *ukernel = &r.ukernels[i];
      return PCONV_OK;
    }
  }
  return fail(PCONV_INVALID_ARGUMENT, "ukernel: \"%.60s\" is not a ukernel of %s; pconv_list_ukernel has the names",
              name, isa.name);
}

}  // namespace pconv
