# include/pconv/pconv.h as Cython sees it; the header has the contracts.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "pconv/pconv.h" nogil:
    ctypedef enum pconv_status:
        PCONV_OK
        PCONV_INVALID_ARGUMENT
        PCONV_BAD_FORMAT
        PCONV_UNSUPPORTED
        PCONV_UNAVAILABLE
        PCONV_OUT_OF_MEMORY
        PCONV_FILE_ERROR
    ctypedef enum pconv_layout:
        PCONV_NCHW
        PCONV_NHWC
    ctypedef struct pconv_conv_desc:
        int64_t out_channels, in_channels, groups, kernel_h, kernel_w, stride_h, stride_w
        int64_t dilation_h, dilation_w, pad_top, pad_left, pad_bottom, pad_right
    ctypedef struct pconv_packed:
        pass
    ctypedef struct pconv_plan:
        pass
    ctypedef struct pconv_packed_info:
        pconv_conv_desc conv
        int64_t block
        int weight_is_fp16, has_bias
        int64_t n_patterns, n_kernels, n_runs, n_weights, mask_words
        const uint64_t* masks
        const uint32_t* filter_order
        const uint32_t* kernel_start
        const uint32_t* run_start
        const uint32_t* runs
        const uint16_t* channels
    ctypedef struct pconv_plan_options:
        int64_t n, h, w
        pconv_layout layout
        const char* isa
        const char* ukernel
        int no_reorder, max_pool
    ctypedef struct pconv_plan_info:
        int64_t n, in_channels, h, w, out_channels, out_h, out_w, nnz, n_runs, n_lanes, added_taps
        const char* isa
        const char* ukernel
        int64_t prepacked_bytes, scratch_bytes_per_thread
    ctypedef struct pconv_run_args:
        const float* x
        const float* residual
        float* y
        float clamp_min, clamp_max
        int n_threads
    ctypedef struct pconv_max_pool_args:
        const float* x
        float* y
        int64_t planes, h, w, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w
        int64_t dilation_h, dilation_w, pad_top, pad_left
        const char* isa
        int n_threads
    ctypedef struct pconv_isa_info:
        const char* name
        const char* features
        int supported, lanes
    ctypedef struct pconv_ukernel_info:
        const char* name
        const char* isa
        const char* body
        int stride, rows, vectors, lanes, block
        uint32_t taps
    ctypedef struct pconv_pattern_info:
        const char* name
        uint32_t mask
    const char* pconv_last_error()
    const char* pconv_version()
    pconv_status pconv_pack_weights(const pconv_conv_desc*, const float*, const float*, pconv_packed**)
    pconv_status pconv_read_packed(const void*, size_t, pconv_packed**)
    void pconv_free_packed(pconv_packed*)
    pconv_status pconv_get_bytes(const pconv_packed*, const void**, size_t*)
    pconv_status pconv_query_packed(const pconv_packed*, pconv_packed_info*)
    pconv_status pconv_unpack_weights(const pconv_packed*, float*, float*)
    pconv_status pconv_get_output_size(const pconv_packed*, int64_t, int64_t, int64_t*, int64_t*)
    pconv_status pconv_plan_conv(const pconv_packed*, const pconv_plan_options*, pconv_plan**)
    void pconv_free_plan(pconv_plan*)
    pconv_status pconv_query_plan(const pconv_plan*, pconv_plan_info*)
    pconv_status pconv_run_plan(const pconv_plan*, const pconv_run_args*)
    pconv_status pconv_max_pool(const pconv_max_pool_args*)
    pconv_status pconv_set_num_threads(int)
    int pconv_get_num_threads()
    int pconv_list_isa(int, pconv_isa_info*)
    int pconv_list_ukernel(int, pconv_ukernel_info*)
    int pconv_list_pattern(int, pconv_pattern_info*)
    pconv_status pconv_get_isa(const char**)
    pconv_status pconv_measure_peak(const char*, int, int, double*)
