// Runs a plan. Arguments have been validated.
#ifndef PCONV_RUN_H_
#define PCONV_RUN_H_

#include "plan.h"

namespace pconv {

// Where the images of each tensor lie: so many floats apart. `residual_step` does not matter without one.
struct RunArgs : pconv_run_args {
  int64_t x_step, residual_step, y_step;

  // `offset` floats behind the start of an image.
  const float* x_at(int64_t image, int64_t offset) const { return x + image * x_step + offset; }
  float* y_at(int64_t image, int64_t offset) const { return y + image * y_step + offset; }
  const float* residual_at(int64_t image, int64_t offset) const {
    return residual != nullptr ? residual + image * residual_step + offset : nullptr;
  }
};
// Images that follow each other without gaps, as C callers have them.
RunArgs contiguous(const pconv_plan& plan, const pconv_run_args& args);

// Scratch memory that one thread takes, or -1 when it does not fit into a size. Of the plan only `scratch_bytes` and
// `prepacked` may still be missing.
int64_t scratch_bytes(const pconv_plan& plan);
pconv_status run_plan(const pconv_plan& plan, const RunArgs& args);

}  // namespace pconv
#endif  // PCONV_RUN_H_
