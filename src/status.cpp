// The text of the last failure, one buffer a thread.
#include "status.h"

#include <cstdarg>
#include <cstdio>

namespace pconv {
namespace {
thread_local char g_text[512] = "";
}

pconv_status fail(pconv_status status, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(g_text, sizeof(g_text), format, args);
  va_end(args);
  return status;
}

const char* last_error() { return g_text; }

}  // namespace pconv
