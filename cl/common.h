// What all kernels share: types of tensors and vectors, activations. The host pastes this file where a kernel includes
// it, behind the macros that it sets.
//
// LANES: floats of a vector. STORAGE_HALF 1: tensors are stored as half and computed as float.
#ifndef LANES
#define LANES 4
#endif
#ifndef STORAGE_HALF
#define STORAGE_HALF 0
#endif
#ifndef ACTIVATION  // numbers of docs/OPERATORS.md
#define ACTIVATION 0
#endif

#define PASTE2(a, b) a##b
#define PASTE(a, b) PASTE2(a, b)

#if STORAGE_HALF
typedef half T;
#define READ(p, i) vload_half(i, p)
#define WRITE(v, p, i) vstore_half(v, i, p)
#else
typedef float T;
#define READ(p, i) (p)[i]
#define WRITE(v, p, i) ((p)[i] = (v))
#endif

#if LANES == 1
typedef float V;
#else
typedef PASTE(float, LANES) V;
#endif

// Vectors at any float: through a type where compilers have one, since vload and vstore are calls in PoCL's CPU driver,
// and then no sum stays in a register.
#if LANES == 1
#define FREAD(p) (*(p))
#define LANES_TO(v, p) (*(p) = (v))
#define PRIVATE_READ(p) (*(p))
#elif defined(__clang__)
typedef V VAnywhere __attribute__((aligned(4)));
#define FREAD(p) (*(__global const VAnywhere*)(p))
#define LANES_TO(v, p) (*(VAnywhere*)(p) = (v))
#define PRIVATE_READ(p) (*(const VAnywhere*)(p))
#else
#define FREAD(p) PASTE(vload, LANES)(0, p)
#define LANES_TO(v, p) PASTE(vstore, LANES)(v, 0, p)
#define PRIVATE_READ(p) PASTE(vload, LANES)(0, p)
#endif

#if LANES == 1
#define VREAD(p) READ(p, 0)
#define VWRITE(v, p) WRITE(v, p, 0)
#elif STORAGE_HALF
#define VREAD(p) PASTE(vload_half, LANES)(0, p)
#define VWRITE(v, p) PASTE(vstore_half, LANES)(v, 0, p)
#elif defined(__clang__)
#define VREAD(p) FREAD(p)
#define VWRITE(v, p) (*(__global VAnywhere*)(p) = (v))
#else
#define VREAD(p) FREAD(p)
#define VWRITE(v, p) PASTE(vstore, LANES)(v, 0, p)
#endif

// Compilers contract this where the device has fused multiply-adds; the built-in functions are calls on some.
#pragma OPENCL FP_CONTRACT ON
#define FMA(a, b, c) ((a) * (b) + (c))

// The first n lanes.
static inline void write_lanes(V v, __global T* p, int n) {
  if (n >= LANES) {
    VWRITE(v, p);
  } else {
    float lanes[LANES];
    LANES_TO(v, lanes);
    for (int i = 0; i < n; ++i) WRITE(lanes[i], p, i);
  }
}

static inline V read_lanes(__global const T* p, int n) {
  if (n >= LANES) return VREAD(p);
  float lanes[LANES];
  for (int i = 0; i < LANES; ++i) lanes[i] = i < n ? READ(p, i) : 0.0f;
  return PRIVATE_READ(lanes);
}

static inline V clamped(V x, float low, float high) {  // fmin and fmax would lose a NaN
  x = x < (V)(low) ? (V)(low) : x;
  return x > (V)(high) ? (V)(high) : x;
}

static inline V sigmoid(V x) { return 1.0f / (1.0f + exp(-x)); }
static inline V hard_sigmoid(V x) { return clamped(x + 3.0f, 0.0f, 6.0f) / 6.0f; }

static inline V activated(V x, float alpha, float beta) {
#if ACTIVATION == 0
  return x;
#elif ACTIVATION == 1
  return clamped(x, alpha, beta);
#elif ACTIVATION == 2 || ACTIVATION == 3  // of the latter alpha is the slope
  return x > (V)(0.0f) ? x : alpha * x;
#elif ACTIVATION == 4
  return sigmoid(x);
#elif ACTIVATION == 5
  return x * sigmoid(x);
#elif ACTIVATION == 6
  return hard_sigmoid(x);
#elif ACTIVATION == 7
  return x * hard_sigmoid(x);
#elif ACTIVATION == 8
  return tanh(x);
#elif ACTIVATION == 9
  return 0.5f * x * (1.0f + erf(x * 0.70710678118654752f));
#elif ACTIVATION == 10
  return 0.5f * x * (1.0f + tanh(0.79788456080286536f * FMA(0.044715f * x, x * x, x)));
#elif ACTIVATION == 11
  return x > (V)(0.0f) ? x : alpha * expm1(x);
#endif
}
