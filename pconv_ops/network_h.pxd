# include/pconv/ops.h and network.h as Cython sees them; the headers have the contracts.

from libc.stdint cimport int64_t, uint32_t

from pconv_ops.pconv_h cimport pconv_packed, pconv_packed_info, pconv_status

cdef extern from "pconv/ops.h" nogil:
    enum:
        PCONV_MAX_RANK
    ctypedef struct pconv_shape:
        int rank
        int64_t dims[6]
        int64_t step
    ctypedef struct pconv_op_info:
        const char* name
        int least_inputs, most_inputs
        const char* ints
        const char* floats
        const char* data
    int pconv_list_op(int index, pconv_op_info* info)

cdef extern from "pconv/network.h" nogil:
    ctypedef struct pconv_model:
        pass
    ctypedef struct pconv_builder:
        pass
    ctypedef struct pconv_session:
        pass
    ctypedef struct pconv_choice:
        int node
        const char* isa
        const char* ukernel
        int64_t n, h, w
    ctypedef struct pconv_model_info:
        int n_inputs, n_nodes, n_outputs, n_choices, single_output
        int64_t layer_bytes, index_bytes, tensor_bytes, dense_bytes
    ctypedef struct pconv_value_info:
        const char* name
        int value
        pconv_shape shape
        uint32_t free_dims
    ctypedef struct pconv_node_info:
        const char* name
        const char* op
        const int* inputs
        int n_inputs, output
        pconv_shape shape
        const int64_t* ints
        int n_ints
        const float* floats
        int n_floats, n_data
    ctypedef struct pconv_data_info:
        const char* name
        const float* values
        int64_t count
        int is_fp16, shared_with, has_layer
        pconv_packed_info layer
        int64_t bytes
    ctypedef struct pconv_node_data:
        const char* name
        const float* values
        int64_t count
        const pconv_packed* layer
        int as_fp16
    ctypedef struct pconv_node_desc:
        const char* name
        const char* op
        const int* inputs
        int n_inputs
        const int64_t* ints
        int n_ints
        const float* floats
        int n_floats
        const pconv_node_data* data
        int n_data
    ctypedef struct pconv_session_options:
        const pconv_shape* inputs
        const char* isa
        const pconv_choice* choices
        int n_choices
    ctypedef struct pconv_session_info:
        int n_steps
        int64_t arena_bytes, live_bytes, weight_bytes, scratch_bytes_per_thread
        const char* isa
    ctypedef enum pconv_base:
        PCONV_ARENA
        PCONV_INPUT
        PCONV_OUTPUT
        PCONV_DATA
    ctypedef struct pconv_place:
        pconv_base base
        int index
        int64_t offset
        pconv_shape shape
    ctypedef struct pconv_step_info:
        int node
        const char* name
        const char* op
        const char* ukernel
        int64_t macs
        int max_pool, n_inputs
        pconv_place output
    ctypedef struct pconv_session_args:
        const float* const* inputs
        float* const* outputs
        int n_threads
        double* step_seconds
    pconv_status pconv_read_model(const void* bytes, size_t n_bytes, pconv_model** model)
    pconv_status pconv_load_model(const char* path, pconv_model** model)
    void pconv_free_model(pconv_model* model)
    pconv_status pconv_write_model(const pconv_model* model, const pconv_choice* choices, int n_choices, void** bytes,
                                   size_t* n_bytes)
    void pconv_free_bytes(void* bytes)
    pconv_status pconv_save_model(const pconv_model* model, const pconv_choice* choices, int n_choices,
                                  const char* path)
    pconv_status pconv_query_model(const pconv_model* model, pconv_model_info* info)
    pconv_status pconv_get_input(const pconv_model* model, int index, pconv_value_info* info)
    pconv_status pconv_get_output(const pconv_model* model, int index, pconv_value_info* info)
    pconv_status pconv_infer_shapes(const pconv_model* model, const pconv_shape* inputs, pconv_shape* shapes)
    pconv_status pconv_get_node(const pconv_model* model, int index, pconv_node_info* info)
    pconv_status pconv_get_data(const pconv_model* model, int node, int index, pconv_data_info* info)
    pconv_status pconv_copy_layer(const pconv_model* model, int node, pconv_packed** layer)
    pconv_status pconv_get_choice(const pconv_model* model, int index, pconv_choice* choice)
    pconv_status pconv_new_builder(pconv_builder** builder)
    void pconv_free_builder(pconv_builder* builder)
    pconv_status pconv_add_input(pconv_builder* builder, const char* name, const pconv_shape* shape,
                                 uint32_t free_dims, int* value)
    pconv_status pconv_add_node(pconv_builder* builder, const pconv_node_desc* node, int* value)
    pconv_status pconv_add_output(pconv_builder* builder, const char* name, int value)
    pconv_status pconv_finish_model(pconv_builder* builder, int single_output, pconv_model** model)
    pconv_status pconv_plan_model(const pconv_model* model, const pconv_session_options* options,
                                  pconv_session** session)
    void pconv_free_session(pconv_session* session)
    pconv_status pconv_query_session(const pconv_session* session, pconv_session_info* info)
    pconv_status pconv_get_session_output(const pconv_session* session, int index, pconv_shape* shape)
    pconv_status pconv_get_step(const pconv_session* session, int index, pconv_step_info* info)
    pconv_status pconv_get_step_input(const pconv_session* session, int step, int index, pconv_place* place)
    pconv_status pconv_run_session(pconv_session* session, const pconv_session_args* args)
