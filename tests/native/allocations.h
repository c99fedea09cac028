// Counts allocations where they are made: operator new is replaced, the malloc family and mmap are wrapped by the
// linker (see CMakeLists.txt). For one file of a program.
#ifndef PCONV_TESTS_NATIVE_ALLOCATIONS_H_
#define PCONV_TESTS_NATIVE_ALLOCATIONS_H_

#include <sys/mman.h>

#include <atomic>
#include <cstdarg>
#include <cstdlib>
#include <new>

// What comes from malloc here goes to free: GCC sees that where it inlines only one of the two.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

namespace {
std::atomic<size_t> g_allocations{0}, g_largest{0};

void count(size_t size) {
  g_allocations.fetch_add(1);
  if (size > g_largest.load()) g_largest.store(size);
}
}  // namespace

extern "C" {
void* __real_malloc(size_t size);
void* __real_calloc(size_t n, size_t size);
void* __real_realloc(void* p, size_t size);
void* __real_aligned_alloc(size_t align, size_t size);
int __real_posix_memalign(void** p, size_t align, size_t size);
void* __real_mmap(void* p, size_t size, int protection, int flags, int fd, off_t offset);
void* __wrap_malloc(size_t size) { return count(size), __real_malloc(size); }
void* __wrap_calloc(size_t n, size_t size) { return count(n * size), __real_calloc(n, size); }
void* __wrap_realloc(void* p, size_t size) { return count(size), __real_realloc(p, size); }
void* __wrap_aligned_alloc(size_t align, size_t size) { return count(size), __real_aligned_alloc(align, size); }
int __wrap_posix_memalign(void** p, size_t align, size_t size) {
  return count(size), __real_posix_memalign(p, align, size);
}
void* __wrap_mmap(void* p, size_t size, int protection, int flags, int fd, off_t offset) {
  return count(size), __real_mmap(p, size, protection, flags, fd, offset);
}
}

void* operator new(size_t size) {
  if (void* p = malloc(size)) return p;  // counted there
  throw std::bad_alloc();
}
void* operator new(size_t size, std::align_val_t align) {
  void* p = nullptr;
  if (posix_memalign(&p, static_cast<size_t>(align), size) == 0) return p;
  throw std::bad_alloc();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept { return malloc(size); }
void* operator new(size_t size, std::align_val_t align, const std::nothrow_t&) noexcept {
  void* p = nullptr;
  return posix_memalign(&p, static_cast<size_t>(align), size) == 0 ? p : nullptr;
}
void operator delete(void* p) noexcept { free(p); }
void operator delete(void* p, size_t) noexcept { free(p); }
void operator delete(void* p, std::align_val_t) noexcept { free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { free(p); }

#endif  // PCONV_TESTS_NATIVE_ALLOCATIONS_H_
