/* C API for whole networks: a model from a file or built node by node, planned for input shapes, run in one call.
 *
 * Flow: pconv_load_model (or a builder) -> pconv_plan_model -> pconv_run_session. docs/FORMAT.md describes the files,
 * docs/OPERATORS.md the operators. A model is immutable and may be shared by threads; a session has memory of its own
 * and runs one call at a time. Conventions are those of pconv.h. */
#ifndef PCONV_NETWORK_H_
#define PCONV_NETWORK_H_

#include "pconv/ops.h"
#include "pconv/pconv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- models -------------------------------------------------------------------------------------------------- */

typedef struct pconv_model pconv_model;

/* Validates the bytes of a model file (hostile ones too) and copies what it keeps. */
PCONV_API pconv_status pconv_read_model(const void* bytes, size_t n_bytes, pconv_model** model);
/* The same from a file, read into memory first: whoever changes it later changes nothing. INVALID_ARGUMENT: it cannot
 * be read. */
PCONV_API pconv_status pconv_load_model(const char* path, pconv_model** model);
PCONV_API void pconv_free_model(pconv_model* model);

/* A ukernel measured to be the best for a `conv` node on an ISA and an input map: a hint, taken where this build has
 * the ukernel and it takes the layer. */
typedef struct pconv_choice {
  int node; /* index, counted as pconv_get_node does */
  const char* isa;
  const char* ukernel;
  int64_t n, h, w; /* of the node's input */
} pconv_choice;

/* The bytes of a model file with these choices (the model's own are not among them), in memory that pconv_free_bytes
 * frees; equal models and choices give equal bytes. */
PCONV_API pconv_status pconv_write_model(const pconv_model* model, const pconv_choice* choices, int n_choices,
                                         void** bytes, size_t* n_bytes);
PCONV_API void pconv_free_bytes(void* bytes);
/* Writes them to a file: whenever this is stopped, `path` is the old file or the new one. */
PCONV_API pconv_status pconv_save_model(const pconv_model* model, const pconv_choice* choices, int n_choices,
                                        const char* path);

typedef struct pconv_model_info {
  int n_inputs, n_nodes, n_outputs, n_choices;
  int single_output;    /* 1: the network returned a tensor, not a sequence of them */
  int64_t layer_bytes;  /* packed layers, as in a file */
  int64_t index_bytes;  /* of them: everything but weights and biases */
  int64_t tensor_bytes; /* other data: linear layers, constants, as in a file */
  int64_t dense_bytes;  /* what all of it would take dense, in fp32 */
} pconv_model_info;

PCONV_API pconv_status pconv_query_model(const pconv_model* model, pconv_model_info* info);

/* A value of a model: the inputs come first, then the output of every node. */
typedef struct pconv_value_info {
  const char* name;
  int value;
  pconv_shape shape;  /* for inputs of the shapes in the file */
  uint32_t free_dims; /* of an input: bit i: dims[i] may be another one */
} pconv_value_info;

PCONV_API pconv_status pconv_get_input(const pconv_model* model, int index, pconv_value_info* info);
PCONV_API pconv_status pconv_get_output(const pconv_model* model, int index, pconv_value_info* info);

/* Shapes of all values, inputs and nodes in order, for inputs of these shapes (of each input one); nothing is planned.
 */
PCONV_API pconv_status pconv_infer_shapes(const pconv_model* model, const pconv_shape* inputs, pconv_shape* shapes);

typedef struct pconv_node_info {
  const char* name;
  const char* op;
  const int* inputs; /* values */
  int n_inputs;
  int output; /* value */
  pconv_shape shape;
  const int64_t* ints;
  int n_ints;
  const float* floats;
  int n_floats;
  int n_data;
} pconv_node_info;

typedef struct pconv_data_info {
  const char* name;        /* "weight" */
  const float* values;     /* of a tensor; a layer: NULL */
  int64_t count;           /* of values */
  int is_fp16;             /* stored as fp16 */
  int shared_with;         /* number of the equal data that stands before it in the model, or -1 */
  int has_layer;           /* 1: `layer` describes it */
  pconv_packed_info layer; /* its arrays, valid until the model is planned again or freed */
  int64_t bytes;           /* in a file */
} pconv_data_info;

PCONV_API pconv_status pconv_get_node(const pconv_model* model, int index, pconv_node_info* info);
PCONV_API pconv_status pconv_get_data(const pconv_model* model, int node, int index, pconv_data_info* info);
/* A copy of the layer of a `conv` node; other nodes: INVALID_ARGUMENT. */
PCONV_API pconv_status pconv_copy_layer(const pconv_model* model, int node, pconv_packed** layer);
PCONV_API pconv_status pconv_get_choice(const pconv_model* model, int index, pconv_choice* choice);

/* ---- building a model ---------------------------------------------------------------------------------------- */

typedef struct pconv_builder pconv_builder;

PCONV_API pconv_status pconv_new_builder(pconv_builder** builder);
PCONV_API void pconv_free_builder(pconv_builder* builder);
/* Inputs come before nodes. *value: the new value's number. shape->step must be 0. */
PCONV_API pconv_status pconv_add_input(pconv_builder* builder, const char* name, const pconv_shape* shape,
                                       uint32_t free_dims, int* value);

typedef struct pconv_node_data {
  const char* name;    /* as in pconv_op_info.data */
  const float* values; /* copied; the layer of a `conv`: NULL */
  int64_t count;
  const pconv_packed* layer; /* copied; NULL for tensors */
  int as_fp16;               /* rounded to fp16, stored so, computed in fp32; larger than 65504: INVALID_ARGUMENT */
} pconv_node_data;

typedef struct pconv_node_desc {
  const char* name;
  const char* op;
  const int* inputs;
  int n_inputs;
  const int64_t* ints;
  int n_ints;
  const float* floats;
  int n_floats;
  const pconv_node_data* data;
  int n_data;
} pconv_node_desc;

/* Checks the node, shapes of its inputs included. */
PCONV_API pconv_status pconv_add_node(pconv_builder* builder, const pconv_node_desc* node, int* value);
PCONV_API pconv_status pconv_add_output(pconv_builder* builder, const char* name, int value);
/* What was added becomes a model, and the builder empty. */
PCONV_API pconv_status pconv_finish_model(pconv_builder* builder, int single_output, pconv_model** model);

/* ---- sessions ------------------------------------------------------------------------------------------------ */

typedef struct pconv_session pconv_session;

typedef struct pconv_session_options {
  const pconv_shape* inputs;   /* one an input, steps 0; NULL: the shapes in the file */
  const char* isa;             /* NULL: PCONV_FORCE_ISA if set, else the best this CPU runs */
  const pconv_choice* choices; /* instead of the model's own; NULL: those */
  int n_choices;
} pconv_session_options;

/* The session keeps what it needs of `model`, which may be freed before it. Weights exist once: a layer of the model
 * that is planned is kept in the form that its ukernel reads. */
/* Threads may plan one model at a time, the others wait; a process must not fork meanwhile. */
PCONV_API pconv_status pconv_plan_model(const pconv_model* model, const pconv_session_options* options,
                                        pconv_session** session);
PCONV_API void pconv_free_session(pconv_session* session);

typedef struct pconv_session_info {
  int n_steps;
  int64_t arena_bytes;              /* activations */
  int64_t live_bytes;               /* the largest sum of activations that are needed at one time */
  int64_t weight_bytes;             /* layers as ukernels read them, and other data */
  int64_t scratch_bytes_per_thread; /* of the convolutions */
  const char* isa;
} pconv_session_info;

PCONV_API pconv_status pconv_query_session(const pconv_session* session, pconv_session_info* info);
PCONV_API pconv_status pconv_get_session_output(const pconv_session* session, int index, pconv_shape* shape);

/* Where a tensor of a step lies: `offset` floats behind the start of the arena, or of an input, output or data. */
typedef enum pconv_base { PCONV_ARENA = 0, PCONV_INPUT = 1, PCONV_OUTPUT = 2, PCONV_DATA = 3 } pconv_base;
typedef struct pconv_place {
  pconv_base base;
  int index; /* of the input or output; of the node whose data it is */
  int64_t offset;
  pconv_shape shape;
} pconv_place;

typedef struct pconv_step_info {
  int node;            /* of the model; -1: an input is copied to an output */
  const char* name;    /* of the node */
  const char* op;      /* "copy": moves a tensor to where its reader wants it */
  const char* ukernel; /* of a convolution; otherwise NULL */
  int64_t macs;        /* multiply-adds with kept weights */
  int max_pool;        /* not 0: a convolution that does the max pooling behind it too, as in pconv_plan_options */
  int n_inputs;
  pconv_place output;
} pconv_step_info;

PCONV_API pconv_status pconv_get_step(const pconv_session* session, int index, pconv_step_info* info);
PCONV_API pconv_status pconv_get_step_input(const pconv_session* session, int step, int index, pconv_place* place);

typedef struct pconv_session_args {
  const float* const* inputs; /* contiguous */
  float* const* outputs;      /* contiguous; they overlap neither each other nor inputs */
  int n_threads;              /* at most so many threads; 0: pconv_get_num_threads() */
  double* step_seconds;       /* [n_steps], or NULL: how long each step took */
} pconv_session_args;

/* Allocates nothing once every thread has run it. INVALID_ARGUMENT when it runs already. */
PCONV_API pconv_status pconv_run_session(pconv_session* session, const pconv_session_args* args);

#ifdef __cplusplus
}
#endif
#endif /* PCONV_NETWORK_H_ */
