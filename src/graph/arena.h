// Memory planning: buffers that are needed at different times share the bytes of one arena.
#ifndef PCONV_GRAPH_ARENA_H_
#define PCONV_GRAPH_ARENA_H_

#include <cstdint>
#include <vector>

namespace pconv {

constexpr int64_t kArenaAlign = 16;  // floats: a cache line

struct ArenaBuffer {
  int64_t floats = 0;       // a multiple of kArenaAlign
  int first = 0, last = 0;  // steps that use it, both included
  int64_t offset = 0;       // found by plan_arena
};

struct Arena {
  int64_t floats = 0;
  int64_t live_floats = 0;  // the largest sum of buffers that one step needs: no arena can be smaller
};

// Places the buffers so that none that are needed at the same time overlap.
Arena plan_arena(std::vector<ArenaBuffer>* buffers);

}  // namespace pconv
#endif  // PCONV_GRAPH_ARENA_H_
