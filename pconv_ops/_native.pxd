# What _native.pyx shares with other compiled modules: a packed layer, a max pooling and the ways to run them.

from libc.stdint cimport int64_t, uintptr_t

from pconv_ops.pconv_h cimport pconv_max_pool_args, pconv_packed, pconv_packed_info, pconv_plan, pconv_run_args


cdef class _Plan:
    cdef pconv_plan* handle
    cdef int64_t n, h, w
    cdef bint channels_last
    cdef const char* isa  # a constant of the core; NULL: asked for by its caller


cdef class PackedConv:
    cdef pconv_packed* handle
    cdef pconv_packed_info info
    cdef object plans  # OrderedDict: shape, layout, isa, ukernel -> _Plan, last used last
    cdef _Plan recent  # the last used of them; None: that was one of a caller's own isa or ukernel
    cdef readonly dict memo  # what callers derive from the layer and want to keep with it; they bound it
    cdef object last  # the part of it that the last call needed
    cdef object __weakref__

    @staticmethod
    cdef PackedConv _own(pconv_packed* handle)
    cdef _Plan _plan(self, int64_t n, int64_t h, int64_t w, bint channels_last, isa, ukernel)
    cdef _Plan _make_plan(self, int64_t n, int64_t h, int64_t w, bint channels_last, bytes isa, bytes ukernel)
    cdef int _run_plan(self, _Plan plan, const pconv_run_args* args) except -1


cdef class MaxPool:
    cdef pconv_max_pool_args args
    cdef object isa  # the name that `args` points to, or None

    cdef int _run(self, uintptr_t x, uintptr_t y, int n_threads) except -1
