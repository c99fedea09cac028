// Which ISAs and ukernels this build has, and which one a plan gets.
#ifndef PCONV_DISPATCH_H_
#define PCONV_DISPATCH_H_

#include <cstdint>

#include "kernels/ukernel.h"
#include "pconv/pconv.h"

namespace pconv {

struct Isa {
  const char* name;
  const char* features;
  bool supported;  // by this CPU
  const IsaTable* table;
};

struct Ukernel {
  char name[48];  // f32_conv3x3_s1_8x1_avx512; built here and nowhere else
  const Isa* isa;
  const KernelInfo* info;

  // Outputs of a row of a tile.
  int64_t width() const {
    const int lanes = isa->table->lanes;
    return info->body == Body::kLine ? line_outputs(info->vectors, lanes) : int64_t{info->vectors} * lanes;
  }
};

struct Registry {
  const Isa* isas;
  int n_isas;
  const Ukernel* ukernels;  // grouped by ISA, best ISA first
  int n_ukernels;
};

// Built once, on first use.
const Registry& registry();
// The ISA called `name`; for null PCONV_FORCE_ISA's, or the best that this CPU runs.
pconv_status find_isa(const char* name, const Isa** isa);
pconv_status find_ukernel(const char* name, const Isa& isa, const Ukernel** ukernel);

}  // namespace pconv
#endif  // PCONV_DISPATCH_H_
