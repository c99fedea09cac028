// Time as profiles and the FMA peak take it.
#ifndef PCONV_CLOCK_H_
#define PCONV_CLOCK_H_

#include <chrono>

namespace pconv {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace pconv
#endif  // PCONV_CLOCK_H_
