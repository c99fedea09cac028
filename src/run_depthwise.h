// Runs a task of a plan whose ukernel is depthwise.
#ifndef PCONV_RUN_DEPTHWISE_H_
#define PCONV_RUN_DEPTHWISE_H_

#include "checked.h"
#include "plan.h"
#include "schedule.h"

namespace pconv {

// Scratch that a thread needs.
CheckedSize depthwise_scratch_bytes(const pconv_plan& plan);
// The chunk's filters on strip number `strip` of an image. scratch: depthwise_scratch_bytes(), aligned to kTileAlign.
void run_depthwise(const pconv_plan& plan, const pconv_run_args& args, const Chunk& chunk, int64_t image, int64_t strip,
                   unsigned char* scratch);

}  // namespace pconv
#endif  // PCONV_RUN_DEPTHWISE_H_
