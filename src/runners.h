// What runs the tasks of a plan; one runner for each way in which ukernels see an image.
#ifndef PCONV_RUNNERS_H_
#define PCONV_RUNNERS_H_

#include "checked.h"
#include "plan.h"
#include "run.h"
#include "schedule.h"

namespace pconv {

// The chunk's filters on one strip of an image.
struct Task {
  const pconv_plan& plan;
  const RunArgs& args;
  Chunk chunk;
  int64_t image, strip;
  int64_t strips_ahead;    // how many strips further this thread's next task probably lies
  unsigned char* scratch;  // scratch_bytes() of the runner, aligned to kTileAlign
};

struct Runner {
  CheckedSize (*scratch_bytes)(const pconv_plan& plan);  // that a thread needs
  void (*run)(const Task& task);
};

extern const Runner kWindowRunner;     // run_windows.cpp: pattern ukernels and windows
extern const Runner kPlanesRunner;     // run_planes.cpp
extern const Runner kDepthwiseRunner;  // run_depthwise.cpp
extern const Runner kDwDirectRunner;   // run_dwdirect.cpp

inline const Runner& runner_of(const KernelInfo& kernel) {
  if (kernel.planes()) return kPlanesRunner;
  if (kernel.body == Body::kDwDirect) return kDwDirectRunner;
  return kernel.body == Body::kDepthwise ? kDepthwiseRunner : kWindowRunner;
}

}  // namespace pconv
#endif  // PCONV_RUNNERS_H_
