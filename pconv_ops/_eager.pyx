# cython: language_level=3
"""The usual eager call of a packed layer, or of a max pooling, on torch tensors, compiled: a small layer runs for 5
microseconds, and as Python code what stands here took 6 (docs/PERFORMANCE.md).

Knows torch by its Python names alone, so that building needs no torch. Only the usual call: whatever is uncommon comes
back as None, and torch_op.py and pooling.py, which have the rules of all calls, decide what to do with it.
"""

from cpython.long cimport PyLong_FromVoidPtr
from libc.stdint cimport int64_t, uint64_t, uintptr_t

import torch
from torch.autograd import forward_ad

from pconv_ops._native cimport MaxPool, PackedConv
from pconv_ops.pconv_h cimport pconv_run_args

from pconv_ops.threads import get_num_threads as _get_num_threads

cdef object _C = torch._C
cdef object _Tensor = torch.Tensor
cdef object _Parameter = torch.nn.Parameter
cdef object _float32 = torch.float32
cdef object _uint8 = torch.uint8
cdef object _strided = torch.strided

cdef object _dispatch_keys = _C._dispatch_keys
cdef object _is_excluded = _C._dispatch_tls_is_dispatch_key_excluded
cdef object _is_grad_enabled = _C.is_grad_enabled
cdef object _len_dispatch_stack = _C._len_torch_dispatch_stack
cdef object _len_function_stack = _C._len_torch_function_stack
cdef object _are_transforms_active = _C._are_functorch_transforms_active
cdef object _get_tracing_state = _C._get_tracing_state
cdef object _AUTOCAST = _C.DispatchKey.AutocastCPU


cdef uint64_t _keys(names):
    """The bits of a set of dispatch keys."""
    keys = _C.DispatchKeySet(_C.DispatchKey.CPU)
    for name in names:
        keys = keys | _C.DispatchKeySet(getattr(_C.DispatchKey, name))
    return keys.raw_repr()


# Dispatch keys of an ordinary dense CPU tensor, made inside and outside inference mode. A lazy negation, a batched,
# functional or sparse tensor has others.
cdef uint64_t _INFERENCE_KEYS = _keys(("AutocastCPU",))
cdef uint64_t _PLAIN_KEYS = _keys(("AutocastCPU", "AutogradCPU", "ADInplaceOrView"))


cdef bint _is_exact(x):
    return type(x) is _Tensor or type(x) is _Parameter


cdef bint _is_ordinary(x) except -1:
    """Whether x is a dense CPU tensor of no subclass, with real memory and no gradient to record."""
    if not _is_exact(x):
        return False
    cdef uint64_t keys = _dispatch_keys(x).raw_repr()
    if keys != _PLAIN_KEYS and keys != _INFERENCE_KEYS:
        return False
    return not (x.requires_grad and _is_grad_enabled())


cdef bint _is_quiet() except -1:
    """Whether nobody watches or changes what operators do: no mode, transform, tracer or autocast."""
    return not (
        _len_dispatch_stack()
        or _len_function_stack()
        or _are_transforms_active()
        or forward_ad._current_level >= 0
        or _get_tracing_state() is not None
        or not _is_excluded(_AUTOCAST)  # how torch keeps autocast for the CPU; asking for it by name takes twice as long
    )


def is_plain(x, second, third):
    """Whether the dispatcher would do nothing but call the CPU kernel. `second` and `third` may be None."""
    return (
        _is_ordinary(x)
        and (second is None or _is_ordinary(second))
        and (third is None or _is_ordinary(third))
        and _is_quiet()
    )


cdef class Layout:
    """What follows from the shape and strides of an input alone."""

    cdef readonly int64_t n, h, w
    cdef readonly bint batched, channels_last
    cdef readonly object memory_format  # torch.memory_format
    cdef readonly bint dense  # the core can read it as it is
    cdef readonly tuple output_shape, output_strides  # [N, O, out_h, out_w]
    cdef tuple x_shape, x_strides
    cdef bint usual

    def __init__(self, x, size, bint channels_last, memory_format, bint dense, output_shape, output_strides):
        """x: the input; size: its (n, h, w)."""
        self.n, self.h, self.w = size
        self.batched = x.dim() == 4
        self.channels_last, self.memory_format, self.dense = channels_last, memory_format, dense
        self.output_shape, self.output_strides = tuple(output_shape), tuple(output_strides)
        self.x_shape, self.x_strides = tuple(x.shape), x.stride()
        self.usual = self.batched and dense and 0 not in self.output_shape


def run(x, PackedConv packed, residual, float low, float high):
    """conv2d() on plain operands, when they are of the usual kind: float32 [N, C, H, W] of a layout that this layer has
    met and the core can read, residual None or of the output's layout. None: they are not; nothing was done."""
    if x.dtype is not _float32:
        return None
    shape, strides = x.shape, x.stride()
    cdef Layout layout = packed.last
    if layout is None or layout.x_shape != shape or layout.x_strides != strides:
        layout = packed.memo.get((shape, strides))
        if layout is None:
            return None
        packed.last = layout
    cdef uintptr_t address = x.data_ptr(), residual_address = 0
    if not layout.usual or address & 3:
        return None
    if residual is not None:
        if (residual.dtype is not _float32 or residual.shape != layout.output_shape
                or residual.stride() != layout.output_strides):
            return None
        residual_address = residual.data_ptr()
        if residual_address & 3:
            return None
    y = x.new_empty_strided(layout.output_shape, layout.output_strides)  # 0.4 microseconds cheaper than new_empty
    cdef uintptr_t y_address = y.data_ptr()
    cdef pconv_run_args args
    args.x, args.residual, args.y = <const float*>address, <const float*>residual_address, <float*>y_address
    args.clamp_min, args.clamp_max = low, high
    args.n_threads = _get_num_threads()
    packed._run_plan(packed._plan(layout.n, layout.h, layout.w, layout.channels_last, None, None), &args)
    return y


cdef class Handle:
    """A validated native layer and what must stay as it was for its bytes to be the same."""

    cdef readonly object storage  # weak reference
    cdef readonly object mark  # see mark_of()
    cdef readonly uintptr_t address
    cdef readonly int64_t n_bytes
    cdef readonly PackedConv packed

    def __init__(self, storage, mark, uintptr_t address, int64_t n_bytes, PackedConv packed not None):
        self.storage, self.mark, self.address, self.n_bytes = storage, mark, address, n_bytes
        self.packed = packed


cpdef mark_of(tensor):
    """Changes when the bytes change: the version counter or, for inference tensors, which have none, the header (its
    checksum covers all bytes)."""
    return bytes(tensor[:128].numpy()) if tensor.is_inference() else tensor._version


cpdef known(dict handles, tensor):
    """The layer of unchanged bytes of which there is a handle (by the id of their storage), else None."""
    storage = tensor.untyped_storage()
    cdef Handle handle = handles.get(PyLong_FromVoidPtr(<void*>storage))
    if (
        handle is not None
        and handle.storage() is storage
        and handle.address == <uintptr_t>tensor.data_ptr()
        and handle.n_bytes == <int64_t>tensor.numel()
        and tensor.is_contiguous()
        and tensor.dtype is _uint8
        and handle.mark == mark_of(tensor)
    ):
        return handle.packed
    return None


def call(x, tensor, residual, limits, dict handles):
    """run() of the layer whose bytes a tensor holds, when the call is a plain one. limits: begins with (low, high)."""
    if not _is_ordinary(x) or (residual is not None and not _is_ordinary(residual)) or not _is_quiet():
        return None
    # What _is_ordinary() asks, as far as bytes need it, in half the time.
    if not _is_exact(tensor) or tensor.layout is not _strided or tensor.is_neg():
        return None
    packed = known(handles, tensor)
    return None if packed is None else run(x, packed, residual, limits[0], limits[1])


cdef class Pooling:
    """Max pooling of contiguous float32 inputs of one shape, by arguments that torch takes."""

    cdef readonly tuple output_shape, output_strides
    cdef MaxPool windows

    def __init__(self, output_shape, output_strides, MaxPool windows not None):
        self.output_shape, self.output_strides, self.windows = output_shape, output_strides, windows

    def run(self, x):
        """The output for x, which must be what this was made for, at an address that floats may have."""
        cdef uintptr_t address = x.data_ptr()
        y = x.new_empty_strided(self.output_shape, self.output_strides)
        cdef uintptr_t y_address = y.data_ptr()
        self.windows._run(address, y_address, _get_num_threads())
        return y


cdef dict _poolings = {}  # shape, strides and arguments of a call -> these arguments, Pooling
cdef int _MOST_POOLINGS = 256


def _is_constant(value):
    return value is None or type(value) is int or (type(value) is tuple and all(type(number) is int for number in value))


def remember_pooling(x, tuple arguments, Pooling pooling not None):
    """Lets max_pool() take further calls like this one. arguments: (kernel_size, stride, padding, dilation, ceil_mode)
    as they came; of ones that could change nothing is remembered."""
    if not all(map(_is_constant, arguments[:4])):
        return
    if len(_poolings) >= _MOST_POOLINGS:
        _poolings.clear()
    _poolings[x.shape, x.stride(), arguments] = (arguments, pooling)


def forget_poolings():
    """Returns how many calls were remembered; none are any more."""
    n = len(_poolings)
    _poolings.clear()
    return n


def max_pool(x, tuple arguments):
    """The max pooling of x, when it is a plain call like one that was remembered. None: it is not; nothing was done."""
    if not _is_ordinary(x) or x.dtype is not _float32 or not _is_quiet():
        return None
    try:
        remembered = _poolings.get((x.shape, x.stride(), arguments))
    except TypeError:  # a list, say
        return None
    if remembered is None or <uintptr_t>x.data_ptr() & 3:
        return None
    for theirs, ours in zip(arguments, remembered[0]):
        if theirs is not ours:  # equal, but perhaps 2.0 for 2, which torch refuses
            return None
    return (<Pooling>remembered[1]).run(x)
