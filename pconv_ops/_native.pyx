# cython: language_level=3, embedsignature=True
"""Binding of the C API: buffers in, exceptions out, the GIL released while a layer runs. No algorithm.

Types and contracts stand in _native.pyi. Addresses come from ops.py, which has checked shapes, types and overlaps.
"""

from collections import OrderedDict

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memcpy

import numpy as np

from pconv_ops.pconv_h cimport *


class PConvFormatError(ValueError):
    """Packed bytes break a rule of docs/FORMAT.md."""


class BackendUnavailable(RuntimeError):
    """An instruction set or backend that was asked for is not there; the text says what is."""


cdef object _EXCEPTIONS = {
    PCONV_INVALID_ARGUMENT: ValueError,
    PCONV_BAD_FORMAT: PConvFormatError,
    PCONV_UNSUPPORTED: ValueError,
    PCONV_UNAVAILABLE: BackendUnavailable,
    PCONV_OUT_OF_MEMORY: MemoryError,
    PCONV_FILE_ERROR: OSError,
}


cdef int _check(pconv_status status) except -1:
    if status != PCONV_OK:
        raise _EXCEPTIONS[<int>status](pconv_last_error().decode("utf-8", "replace"))
    return 0


cdef bytes _c_name(str argument, name):
    """A name as a C string, None as None."""
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"{argument}: expected a str, got {type(name).__name__}")
    if "\0" in name:
        raise ValueError(f"{argument}: got {name!r}, a name holds no NUL")
    return name.encode("utf-8", "surrogatepass")


cdef class _Plan:
    """Owner of one native plan; what it was made for stands in _native.pxd."""

    def __dealloc__(self):
        pconv_free_plan(self.handle)


# Plans kept per layer, one for every input shape, layout and ISA; the one not used for longest goes first.
cdef int _MAX_PLANS = 32


cdef class PackedConv:
    """One pruned convolution in packed form (docs/FORMAT.md): immutable, thread-safe, pickled as its bytes."""

    def __cinit__(self):
        self.plans = OrderedDict()
        self.memo = {}

    def __init__(self):
        if self.handle == NULL:
            raise TypeError("PackedConv: use pack() or PackedConv.from_bytes()")

    def __dealloc__(self):
        pconv_free_packed(self.handle)

    @staticmethod
    cdef PackedConv _own(pconv_packed* handle):
        cdef PackedConv self = PackedConv.__new__(PackedConv)
        self.handle = handle
        _check(pconv_query_packed(handle, &self.info))
        return self

    @staticmethod
    def from_bytes(data):
        """Reads packed bytes (any contiguous buffer of bytes, copied). Raises PConvFormatError for whatever breaks
        docs/FORMAT.md, TypeError for what is no buffer."""
        cdef const unsigned char[::1] view
        cdef pconv_packed* handle = NULL
        cdef unsigned char nothing = 0
        try:
            view = memoryview(data).cast("B")
        except TypeError as error:
            raise TypeError(f"data: expected bytes or a contiguous buffer, got {type(data).__name__}") from error
        cdef size_t n = view.shape[0]
        cdef const void* start = &nothing
        if n > 0:
            start = &view[0]
        cdef pconv_status status
        with nogil:
            status = pconv_read_packed(start, n, &handle)
        _check(status)
        return PackedConv._own(handle)

    def to_bytes(self):
        """The packed bytes; equal layers give equal bytes."""
        cdef const void* start = NULL
        cdef size_t n = 0
        _check(pconv_get_bytes(self.handle, &start, &n))
        return (<const char*>start)[:n]

    def to_dense(self):
        """(weight float32 [out_channels, in_channels / groups, kh, kw], bias float32 [out_channels] or None)."""
        weight = np.zeros((self.info.conv.out_channels, self.info.conv.in_channels // self.info.conv.groups,
                           self.info.conv.kernel_h, self.info.conv.kernel_w), dtype=np.float32)
        bias = np.zeros(self.info.conv.out_channels, dtype=np.float32) if self.info.has_bias else None
        cdef float[:, :, :, ::1] weight_view = weight
        cdef float[::1] bias_view
        cdef float* bias_start = NULL
        if bias is not None:
            bias_view = bias
            bias_start = &bias_view[0]
        _check(pconv_unpack_weights(self.handle, &weight_view[0, 0, 0, 0], bias_start))
        return weight, bias

    def __reduce__(self):
        return PackedConv.from_bytes, (self.to_bytes(),)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __eq__(self, other):
        if not isinstance(other, PackedConv):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    def __hash__(self):
        return hash(self.to_bytes())

    def __repr__(self):
        return (f"PackedConv({self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
                f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
                f"bias={self.has_bias}, patterns={self.info.n_patterns}, density={self.density:.4f})")

    @property
    def out_channels(self):
        return self.info.conv.out_channels

    @property
    def in_channels(self):
        return self.info.conv.in_channels

    @property
    def groups(self):
        return self.info.conv.groups

    @property
    def kernel_size(self):
        return self.info.conv.kernel_h, self.info.conv.kernel_w

    @property
    def stride(self):
        return self.info.conv.stride_h, self.info.conv.stride_w

    @property
    def dilation(self):
        return self.info.conv.dilation_h, self.info.conv.dilation_w

    @property
    def padding(self):
        """(top, left, bottom, right) in pixels."""
        return (self.info.conv.pad_top, self.info.conv.pad_left, self.info.conv.pad_bottom, self.info.conv.pad_right)

    @property
    def has_bias(self):
        return bool(self.info.has_bias)

    @property
    def nnz(self):
        """Kept weights."""
        return self.info.n_weights

    @property
    def n_kernels(self):
        """Kept kernels."""
        return self.info.n_kernels * self.info.block

    @property
    def n_bytes(self):
        cdef const void* start = NULL
        cdef size_t n = 0
        _check(pconv_get_bytes(self.handle, &start, &n))
        return n

    @property
    def density(self):
        """Kept weights over the dense number of weights."""
        dense = (self.info.conv.out_channels * (self.info.conv.in_channels // self.info.conv.groups)
                 * self.info.conv.kernel_h * self.info.conv.kernel_w)
        return self.info.n_weights / dense

    def arrays(self):
        """Copies of the arrays of docs/FORMAT.md: masks (uint64 [P, W]), filter_order, kernel_start, run_start
        (uint32), runs (uint32 [R, 2]: pattern, kernels), channels (uint16)."""
        cdef int64_t units = self.info.conv.out_channels // self.info.block
        return {
            "masks": _copy(self.info.masks, self.info.n_patterns * self.info.mask_words, np.uint64)
            .reshape(self.info.n_patterns, self.info.mask_words),
            "filter_order": _copy(self.info.filter_order, self.info.conv.out_channels, np.uint32),
            "kernel_start": _copy(self.info.kernel_start, units + 1, np.uint32),
            "run_start": _copy(self.info.run_start, units + 1, np.uint32),
            "runs": _copy(self.info.runs, 2 * self.info.n_runs, np.uint32).reshape(self.info.n_runs, 2),
            "channels": _copy(self.info.channels, self.info.n_kernels, np.uint16),
        }

    def output_shape(self, int64_t h, int64_t w):
        """(out_h, out_w) for an h x w map; ValueError when the kernel does not fit into the padded map."""
        cdef int64_t out_h = 0, out_w = 0
        _check(pconv_get_output_size(self.handle, h, w, &out_h, &out_w))
        return out_h, out_w

    cdef _Plan _plan(self, int64_t n, int64_t h, int64_t w, bint channels_last, isa, ukernel):
        cdef const char* best = NULL
        cdef _Plan plan = self.recent
        cdef bint usual = isa is None and ukernel is None
        if isa is None:
            _check(pconv_get_isa(&best))  # PCONV_FORCE_ISA may have changed since the last call
            # Names of ISAs are constants of the core: equal ones have equal addresses.
            if (usual and plan is not None and plan.isa == best and plan.n == n and plan.h == h and plan.w == w
                    and plan.channels_last == channels_last):
                return plan
            isa = best.decode()
        key = (n, h, w, channels_last, isa, ukernel)
        plan = self.plans.get(key)
        if plan is None:
            plan = self._make_plan(n, h, w, channels_last, _c_name("isa", isa), _c_name("ukernel", ukernel))
            plan.n, plan.h, plan.w, plan.channels_last = n, h, w, channels_last
            self.plans[key] = plan
        if best != NULL:
            plan.isa = best
        # Always the last used one, so that the order of `plans` stays right while it is taken without a lookup.
        self.recent = plan if usual else None
        try:
            self.plans.move_to_end(key)
            if len(self.plans) > _MAX_PLANS:
                self.plans.popitem(last=False)
        except KeyError:  # another thread evicted it meanwhile; ours lives on until the call ends
            pass
        return plan

    cdef _Plan _make_plan(self, int64_t n, int64_t h, int64_t w, bint channels_last, bytes isa, bytes ukernel):
        cdef pconv_plan_options options
        options.n, options.h, options.w = n, h, w
        options.layout = PCONV_NHWC if channels_last else PCONV_NCHW
        options.isa = isa
        options.ukernel = NULL
        options.no_reorder = options.max_pool = 0
        if ukernel is not None:
            options.ukernel = ukernel
        cdef _Plan plan = _Plan.__new__(_Plan)
        cdef pconv_status status
        with nogil:
            status = pconv_plan_conv(self.handle, &options, &plan.handle)
        _check(status)
        return plan

    def plan_info(self, int64_t n, int64_t h, int64_t w, bint channels_last=False, isa=None, ukernel=None):
        """What would run for this input: isa, ukernel, out_h, out_w, nnz, n_runs (of kernels under one pattern, short
        ones merged), n_lanes (results that one filter computes for an image), added_taps (zero weights that run beside
        the kept ones), prepacked_bytes, scratch_bytes_per_thread."""
        cdef pconv_plan_info info
        _check(pconv_query_plan(self._plan(n, h, w, channels_last, isa, ukernel).handle, &info))
        return {
            "isa": info.isa.decode(),
            "ukernel": info.ukernel.decode(),
            "out_h": info.out_h,
            "out_w": info.out_w,
            "nnz": info.nnz,
            "n_runs": info.n_runs,
            "n_lanes": info.n_lanes,
            "added_taps": info.added_taps,
            "prepacked_bytes": info.prepacked_bytes,
            "scratch_bytes_per_thread": info.scratch_bytes_per_thread,
        }

    def run(self, uintptr_t x, uintptr_t y, int64_t n, int64_t h, int64_t w, bint channels_last,
            uintptr_t residual=0, float clamp_min=-INFINITY, float clamp_max=INFINITY, int n_threads=0,
            isa=None, ukernel=None):
        """y = clamp(conv(x) + bias + residual) on fp32 buffers at these addresses (residual 0: none)."""
        cdef pconv_run_args args
        args.x, args.residual, args.y = <const float*>x, <const float*>residual, <float*>y
        args.clamp_min, args.clamp_max = clamp_min, clamp_max
        args.n_threads = n_threads
        self._run_plan(self._plan(n, h, w, channels_last, isa, ukernel), &args)

    cdef int _run_plan(self, _Plan plan, const pconv_run_args* args) except -1:
        cdef pconv_status status
        with nogil:
            status = pconv_run_plan(plan.handle, args)
        return _check(status)


cdef object _copy(const void* start, int64_t count, dtype):
    result = np.empty(count, dtype=dtype)
    cdef uintptr_t target = result.ctypes.data
    if count > 0:
        memcpy(<void*>target, start, result.nbytes)
    return result


def pack_weights(weight, bias, stride, padding, dilation, groups):
    """C-contiguous OIHW fp32 weights -> PackedConv; padding = (top, left, bottom, right)."""
    cdef const float[:, :, :, ::1] w = weight
    cdef const float[::1] b
    cdef const float* bias_start = NULL
    cdef pconv_conv_desc conv
    cdef pconv_packed* handle = NULL
    if bias is not None:
        b = bias
        if b.shape[0] != w.shape[0]:
            raise ValueError(f"bias: got {b.shape[0]} values, allowed out_channels = {w.shape[0]}")
        if b.shape[0] > 0:
            bias_start = &b[0]
    conv.out_channels, conv.in_channels, conv.groups = w.shape[0], w.shape[1] * groups, groups
    conv.kernel_h, conv.kernel_w = w.shape[2], w.shape[3]
    conv.stride_h, conv.stride_w = stride
    conv.dilation_h, conv.dilation_w = dilation
    conv.pad_top, conv.pad_left, conv.pad_bottom, conv.pad_right = padding
    cdef float nothing = 0
    cdef const float* start = &nothing
    if weight.size > 0:
        start = &w[0, 0, 0, 0]
    cdef pconv_status status
    with nogil:
        status = pconv_pack_weights(&conv, start, bias_start, &handle)
    _check(status)
    return PackedConv._own(handle)


cdef class MaxPool:
    """Max pooling of fp32 planes of one size, as the core is told; pairs are (rows, columns)."""

    def __cinit__(self, int64_t planes, size, output, kernel, stride, padding, dilation, isa=None):
        self.args.planes = planes
        self.args.h, self.args.w = size
        self.args.out_h, self.args.out_w = output
        self.args.kernel_h, self.args.kernel_w = kernel
        self.args.stride_h, self.args.stride_w = stride
        self.args.pad_top, self.args.pad_left = padding
        self.args.dilation_h, self.args.dilation_w = dilation
        self.isa = _c_name("isa", isa)
        if isa is not None:  # else NULL
            self.args.isa = self.isa

    cdef int _run(self, uintptr_t x, uintptr_t y, int n_threads) except -1:
        cdef pconv_max_pool_args args = self.args  # of this call: others may run
        args.x, args.y, args.n_threads = <const float*>x, <float*>y, n_threads
        cdef pconv_status status
        with nogil:
            status = pconv_max_pool(&args)
        _check(status)
        return 0

    def run(self, uintptr_t x, uintptr_t y, int n_threads=0):
        """Pools the planes at these addresses."""
        self._run(x, y, n_threads)


def set_num_threads(int n):
    _check(pconv_set_num_threads(n))


def get_num_threads():
    return pconv_get_num_threads()


include "_tables.pxi"
include "_network.pxi"

isas()  # builds the core's tables now: a fork during their first use would leave a child with a lock held
