// What the entry points of the C API share: exceptions and null pointers become statuses.
#ifndef PCONV_GUARDED_H_
#define PCONV_GUARDED_H_

#include <new>
#include <system_error>

#include "status.h"

namespace pconv {

// Runs f() -> pconv_status; nothing below throws but allocation and size errors of containers, and locks.
template <typename F>
pconv_status guarded(F f) noexcept {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return fail(PCONV_OUT_OF_MEMORY, "memory: an allocation failed");
  } catch (const std::system_error& error) {
    return fail(PCONV_OUT_OF_MEMORY, "memory: the system refused a lock or thread: %s", error.what());
  } catch (...) {
    return fail(PCONV_OUT_OF_MEMORY, "memory: a container refused its size");
  }
}

inline pconv_status null_argument(const char* name) { return fail(PCONV_INVALID_ARGUMENT, "%s: is null", name); }

}  // namespace pconv
#endif  // PCONV_GUARDED_H_
