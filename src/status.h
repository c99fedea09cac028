// How the core reports failures: a status code plus a text kept for pconv_last_error() on this thread.
#ifndef PCONV_STATUS_H_
#define PCONV_STATUS_H_

#include "pconv/pconv.h"

namespace pconv {

// Stores the printf-formatted text and returns `status`. Allocates nothing.
pconv_status fail(pconv_status status, const char* format, ...) __attribute__((format(printf, 2, 3)));
const char* last_error();

}  // namespace pconv
#endif  // PCONV_STATUS_H_
