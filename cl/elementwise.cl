// Operators that make each output from the inputs at its place: activate, add, sub, mul. An item makes one output.
#define LANES 1
#include "common.h"

#ifndef OPERATOR  // 0: x; 1: a + b; 2: a - b; 3: a * b
#define OPERATOR 0
#endif
#ifndef BROADCAST  // 1: the steps below say where inputs lie; 0: both are as large as the output
#define BROADCAST 0
#endif


// dims, from the outermost: sizes of the output and the steps of the inputs, 0 where one is repeated.
__kernel void elementwise(__global const T* a, __global const T* b, __global T* y, __global const int* dims,
                          __global const float* slopes, const float alpha, const float beta, const int n,
                          const int inner, const int n_slopes) {
  const int i = get_global_id(0);
  if (i >= n) return;
  int at_a = i, at_b = i;
#if BROADCAST
  at_a = 0, at_b = 0;
  int rest = i;
  for (int d = 5; d >= 0; --d) {
    const int size = dims[d], place = rest % size;
    at_a += place * dims[6 + d], at_b += place * dims[12 + d];
    rest /= size;
  }
#endif
  const float x = READ(a, at_a);
#if OPERATOR == 0
  const float value = x;
#elif OPERATOR == 1
  const float value = x + READ(b, at_b);
#elif OPERATOR == 2
  const float value = x - READ(b, at_b);
#else
  const float value = x * READ(b, at_b);
#endif
#if ACTIVATION == 3
  WRITE(activated(value, slopes[n_slopes == 1 ? 0 : i / inner % n_slopes], beta), y, i);
#else
  WRITE(activated(value, alpha, beta), y, i);
#endif
}
