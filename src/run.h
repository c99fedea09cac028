// Runs a plan. Arguments have been validated.
#ifndef PCONV_RUN_H_
#define PCONV_RUN_H_

#include "plan.h"

namespace pconv {

// Scratch memory that one thread takes, or -1 when it does not fit into a size. Of the plan only `scratch_bytes` and
// `prepacked` may still be missing.
int64_t scratch_bytes(const pconv_plan& plan);
pconv_status run_plan(const pconv_plan& plan, const pconv_run_args& args);

}  // namespace pconv
#endif  // PCONV_RUN_H_
