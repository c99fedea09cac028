#include "scratch.h"

#include <memory>
#include <new>

#include "kernels/ukernel.h"

namespace pconv {
namespace {

struct Free {
  void operator()(unsigned char* p) const { ::operator delete (p, std::align_val_t{kTileAlign}); }
};
struct Arena {
  std::unique_ptr<unsigned char, Free> block;
  size_t size = 0;
};
thread_local Arena t_arena;

}  // namespace

unsigned char* thread_scratch(size_t bytes) {
  Arena& arena = t_arena;
  if (bytes > arena.size) {
    arena.block.reset();
    arena.size = 0;
    arena.block.reset(static_cast<unsigned char*>(::operator new (bytes, std::align_val_t{kTileAlign}, std::nothrow)));
    if (arena.block == nullptr) return nullptr;
    arena.size = bytes;
  }
  return arena.block.get();
}

}  // namespace pconv
