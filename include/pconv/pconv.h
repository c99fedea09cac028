/* C API of the pconv core: pack pruned weights, plan a layer for an input shape, run it.
 *
 * Flow: OIHW weights -> pconv_pack_weights -> packed bytes -> pconv_plan_conv -> pconv_run_plan -> output.
 * Every function that can fail returns a pconv_status and leaves its text in pconv_last_error(). Nothing here prints,
 * aborts or throws. Objects are immutable after creation: any number of threads may use one packed layer or one plan
 * at the same time. Activations and weights are fp32; sizes are counts of elements unless a name says bytes. */
#ifndef PCONV_PCONV_H_
#define PCONV_PCONV_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define PCONV_API __attribute__((visibility("default")))
#else
#define PCONV_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define PCONV_VERSION_MAJOR 0
#define PCONV_VERSION_MINOR 1
#define PCONV_VERSION_PATCH 0

typedef enum pconv_status {
  PCONV_OK = 0,               /* done */
  PCONV_INVALID_ARGUMENT = 1, /* an argument is outside what the function accepts; nothing was allocated */
  PCONV_BAD_FORMAT = 2,       /* packed bytes break a rule of docs/FORMAT.md */
  PCONV_UNSUPPORTED = 3,      /* a valid layer that no ukernel of this build can run */
  PCONV_UNAVAILABLE = 4,      /* the asked-for ISA is unknown, not built in, or not in this CPU */
  PCONV_OUT_OF_MEMORY = 5,    /* an allocation failed; the objects passed in stay usable */
  PCONV_FILE_ERROR = 6        /* a file cannot be opened, read or written */
} pconv_status;

/* Text of the last failure on this thread; "" before the first. Valid until the next failing call on this thread. */
PCONV_API const char* pconv_last_error(void);
/* Name of a status code, such as "PCONV_BAD_FORMAT". */
PCONV_API const char* pconv_status_name(pconv_status status);
/* Version of the library as "major.minor.patch". */
PCONV_API const char* pconv_version(void);

/* ---- packed layers ------------------------------------------------------------------------------------------- */

/* A 2-D convolution as torch.nn.Conv2d describes it; padding is zeros and may differ on every side. */
typedef struct pconv_conv_desc {
  int64_t out_channels, in_channels, groups;
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t dilation_h, dilation_w;
  int64_t pad_top, pad_left, pad_bottom, pad_right;
} pconv_conv_desc;

typedef struct pconv_packed pconv_packed; /* one packed layer: a private, validated copy of its bytes */

/* What a packed layer holds. Pointers stay valid as long as the layer. See docs/FORMAT.md for the arrays. */
typedef struct pconv_packed_info {
  pconv_conv_desc conv;
  int64_t block;      /* filters that share one list of kernels (1 today) */
  int weight_is_fp16; /* 0: fp32, 1: fp16 in the bytes (computed in fp32) */
  int has_bias;
  int64_t n_patterns, n_kernels, n_runs, n_weights;
  int64_t mask_words;           /* 64-bit words a mask takes */
  const uint64_t* masks;        /* [n_patterns][mask_words]; bit ky*kernel_w+kx is a kept tap */
  const uint32_t* filter_order; /* [out_channels] original output channel of each reordered filter */
  const uint32_t* kernel_start; /* [out_channels/block + 1] */
  const uint32_t* run_start;    /* [out_channels/block + 1] */
  const uint32_t* runs;         /* [n_runs][2]: pattern, number of kernels */
  const uint16_t* channels;     /* [n_kernels] input channel inside the group */
} pconv_packed_info;

/* Packs OIHW weights [out_channels][in_channels/groups][kernel_h][kernel_w]; zeros are dropped, kernels without a
 * non-zero weight leave no trace. bias is [out_channels] or NULL. */
PCONV_API pconv_status pconv_pack_weights(const pconv_conv_desc* conv, const float* weights, const float* bias,
                                          pconv_packed** packed);
/* Validates packed bytes (hostile ones too) and copies them. */
PCONV_API pconv_status pconv_read_packed(const void* bytes, size_t n_bytes, pconv_packed** packed);
PCONV_API void pconv_free_packed(pconv_packed* packed);
PCONV_API pconv_status pconv_get_bytes(const pconv_packed* packed, const void** bytes, size_t* n_bytes);
PCONV_API pconv_status pconv_query_packed(const pconv_packed* packed, pconv_packed_info* info);
/* Output rows and columns for an h x w input; INVALID_ARGUMENT when the kernel does not fit into the padded input. */
PCONV_API pconv_status pconv_get_output_size(const pconv_packed* packed, int64_t h, int64_t w, int64_t* out_h,
                                             int64_t* out_w);
/* Writes the dense OIHW weights and, when bias is not NULL and the layer has one, the bias [out_channels]. */
PCONV_API pconv_status pconv_unpack_weights(const pconv_packed* packed, float* weights, float* bias);

/* ---- plans --------------------------------------------------------------------------------------------------- */

typedef enum pconv_layout {
  PCONV_NCHW = 0, /* contiguous [n][c][h][w] */
  PCONV_NHWC = 1  /* contiguous [n][h][w][c], torch's channels_last */
} pconv_layout;

typedef struct pconv_plan pconv_plan; /* a layer prepared for one input shape, layout and ISA */

typedef struct pconv_plan_options {
  int64_t n, h, w;     /* input: images, rows, columns; n may be 0 */
  pconv_layout layout; /* of input, residual and output alike */
  const char* isa;     /* "avx512", ...; NULL: PCONV_FORCE_ISA if set, else the best this CPU runs */
  const char* ukernel; /* name of the ukernel to use, for tests and benches; NULL: the plan chooses */
  int no_reorder;      /* not 0: without filter kernel reorder, to measure what it gains */
  int max_pool;        /* 0: none; 2: y holds the largest of every 2x2 outputs that lie side by side (NaN if one is),
                          which the convolution's map must have, what is left of an
                          odd map not at all. NCHW, no residual */
} pconv_plan_options;

typedef struct pconv_plan_info {
  int64_t n, in_channels, h, w;       /* input */
  int64_t out_channels, out_h, out_w; /* y */
  int64_t nnz;                        /* kept weights */
  int64_t n_runs;                     /* runs of kernels under one pattern, of all filters */
  int64_t n_lanes; /* results that one filter computes for an image, those that it does not need too */
  int64_t
      added_taps; /* zero weights that run beside the kept ones: masks without a pattern of their own, merged runs */
  const char* isa;
  const char* ukernel;     /* such as "f32_conv3x3_s1_8x1_avx512" */
  int64_t prepacked_bytes; /* memory the plan holds */
  int64_t scratch_bytes_per_thread;
} pconv_plan_info;

/* The plan keeps what it needs of `packed`, which may be freed before it. */
PCONV_API pconv_status pconv_plan_conv(const pconv_packed* packed, const pconv_plan_options* options,
                                       pconv_plan** plan);
PCONV_API void pconv_free_plan(pconv_plan* plan);
PCONV_API pconv_status pconv_query_plan(const pconv_plan* plan, pconv_plan_info* info);

typedef struct pconv_run_args {
  const float* x;        /* [n][in_channels][h][w] in the plan's layout */
  const float* residual; /* NULL, or shaped like y: added before the clamp; may be y itself, no other overlap; NULL
                            where the plan pools */
  float* y;              /* [n][out_channels][out_h][out_w] in the plan's layout; must not overlap x */
  float clamp_min;       /* -INFINITY and INFINITY: no clamp; NaN passes through as in torch.clamp */
  float clamp_max;
  int n_threads; /* at most so many threads; 0: pconv_get_num_threads() */
} pconv_run_args;

/* y = clamp(conv(x) + bias + residual), pooled where the plan says so. The bits of y do not depend on n_threads. */
PCONV_API pconv_status pconv_run_plan(const pconv_plan* plan, const pconv_run_args* args);

/* ---- pooling ------------------------------------------------------------------------------------------------- */

/* Max pooling of planes one by one. Output (i, j) is the largest input of its window, rows
 * i * stride_h - pad_top + k * dilation_h, 0 <= k < kernel_h, and columns alike; inputs outside the plane do not count,
 * a window without inputs gives -INFINITY, one with a NaN gives NaN. The output size is the caller's: windows may reach
 * behind the plane, by at most 131070 rows or columns. */
typedef struct pconv_max_pool_args {
  const float* x; /* [planes][h][w] */
  float* y;       /* [planes][out_h][out_w]; must not overlap x */
  int64_t planes; /* images times channels; may be 0 */
  int64_t h, w, out_h, out_w;
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t dilation_h, dilation_w;
  int64_t pad_top, pad_left;
  const char* isa; /* "avx512", ...; NULL: PCONV_FORCE_ISA if set, else the best this CPU runs */
  int n_threads;   /* at most so many threads; 0: pconv_get_num_threads() */
} pconv_max_pool_args;

PCONV_API pconv_status pconv_max_pool(const pconv_max_pool_args* args);

/* ---- threads ------------------------------------------------------------------------------------------------- */

/* Default for n_threads = 0. Starts as the number of CPUs this process may run on. 1 <= n <= 1024. */
PCONV_API pconv_status pconv_set_num_threads(int n);
PCONV_API int pconv_get_num_threads(void);

/* ---- what is built in ---------------------------------------------------------------------------------------- */

typedef struct pconv_isa_info {
  const char* name;     /* "avx512" */
  const char* features; /* CPU features it needs, separated by commas */
  int supported;        /* 1 if this CPU has them */
  int lanes;            /* fp32 lanes of a vector */
} pconv_isa_info;

typedef struct pconv_ukernel_info {
  const char* name;
  const char* isa;
  const char* body; /* conv3x3: tiles of rows x vectors; map3x3: a whole map, padded by 1, in `vectors` vectors;
                       tiny3x3: the same of a quarter of the lanes; taps, planes, scatter: any convolution; depthwise,
                       dwdirect: filters of one channel */
  int stride;       /* 0: any */
  int rows, vectors, lanes;
  int block;     /* taps, planes: filters that run together, which must keep the same kernels; otherwise 0 */
  uint32_t taps; /* masks of a layer must lie within these, bit ky*3+kx */
} pconv_ukernel_info;

typedef struct pconv_pattern_info {
  const char* name; /* "p010111000": taps in reading order */
  uint32_t mask;    /* bit ky*3+kx */
} pconv_pattern_info;

/* Tables of this build; the index runs from 0 while the call returns 1. ISAs and ukernels come best first. */
PCONV_API int pconv_list_isa(int index, pconv_isa_info* info);
PCONV_API int pconv_list_ukernel(int index, pconv_ukernel_info* info);
PCONV_API int pconv_list_pattern(int index, pconv_pattern_info* info);
/* The ISA that plans use now (PCONV_FORCE_ISA included), or PCONV_UNAVAILABLE with the list of valid names. */
PCONV_API pconv_status pconv_get_isa(const char** name);

/* Measures the FMA peak of an ISA (NULL: the current one) on n_threads threads, in GFLOP/s: the best of `rounds` >= 1
 * rounds after 300 ms of warm-up, enough independent accumulators to fill the pipes. */
PCONV_API pconv_status pconv_measure_peak(const char* isa, int n_threads, int rounds, double* gflops);

#ifdef __cplusplus
}
#endif
#endif /* PCONV_PCONV_H_ */
