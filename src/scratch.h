// Memory that a task works in: one block a thread, shared by all that runs tasks.
#ifndef PCONV_SCRATCH_H_
#define PCONV_SCRATCH_H_

#include <cstddef>

namespace pconv {

// This thread's block, at least so large and aligned to kTileAlign; null when memory is out. It grows and is kept
// between calls, so that a warm call allocates nothing. Valid until the next call on this thread.
unsigned char* thread_scratch(size_t bytes);

}  // namespace pconv
#endif  // PCONV_SCRATCH_H_
