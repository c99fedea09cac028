/* C API for the operators of networks, one by one. docs/OPERATORS.md says what each computes; network.h runs whole
 * networks. Conventions are those of pconv.h. */
#ifndef PCONV_OPS_H_
#define PCONV_OPS_H_

#include "pconv/pconv.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PCONV_MAX_RANK = 6 };

/* ---- operators ----------------------------------------------------------------------------------------------- */

/* Shape of an fp32 tensor, and how its parts lie: dims[0] of them, `step` floats apart, each contiguous. step 0: all of
 * it is contiguous. */
typedef struct pconv_shape {
  int rank; /* 0: a single float */
  int64_t dims[PCONV_MAX_RANK];
  int64_t step;
} pconv_shape;

typedef struct pconv_op_info {
  const char* name; /* "add" */
  int least_inputs, most_inputs;
  const char *ints, *floats, *data; /* names of attributes and data in order, separated by commas; "dims...": any
                                       number, "[bias]": may be missing */
} pconv_op_info;

/* The operators of this build; the index runs from 0 while the call returns 1. docs/OPERATORS.md describes them. */
PCONV_API int pconv_list_op(int index, pconv_op_info* info);

/* Weights or constants of an operator; `name` as in pconv_op_info.data. */
typedef struct pconv_op_data {
  const char* name;
  const float* values;
  int64_t count;
} pconv_op_data;

typedef struct pconv_op_desc {
  const char* op; /* as pconv_list_op names it; "conv" is pconv_plan_conv's, "constant" nobody's */
  const pconv_shape* inputs;
  int n_inputs;
  const int64_t* ints;
  int n_ints;
  const float* floats;
  int n_floats;
  const pconv_op_data* data; /* the values are not copied and must outlive the operator */
  int n_data;
  int64_t output_step; /* as pconv_shape.step, of the output */
  const char* isa;     /* NULL: PCONV_FORCE_ISA if set, else the best this CPU runs */
} pconv_op_desc;

typedef struct pconv_op pconv_op; /* an operator prepared for its input shapes; immutable */

PCONV_API pconv_status pconv_make_op(const pconv_op_desc* desc, pconv_op** op);
PCONV_API void pconv_free_op(pconv_op* op);
PCONV_API pconv_status pconv_get_op_output(const pconv_op* op, pconv_shape* shape);
/* inputs[i] and output are the first floats of tensors of the shapes planned. Elementwise operators may write over an
 * input of the output's shape and step; other overlaps are INVALID_ARGUMENT. n_threads 0: pconv_get_num_threads(). */
PCONV_API pconv_status pconv_run_op(const pconv_op* op, const float* const* inputs, float* output, int n_threads);

#ifdef __cplusplus
}
#endif
#endif /* PCONV_OPS_H_ */
