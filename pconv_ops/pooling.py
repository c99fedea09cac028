"""Max pooling in the core, for networks that convert() made fast: torch's own is slow on contiguous memory.

A plain call on contiguous float32 runs natively; whatever else comes (another layout or dtype, gradients, a compiler, a
tracer, a mode, autocast, arguments that torch refuses) goes to torch. Results are torch's, up to the sign of zeros.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from . import _eager, torch_op
from ._native import MaxPool

Pair = tuple[int, int]
_MAX_GEOMETRY, _MAX_SIZE = 65535, 1 << 30  # what the core takes
_is_dynamo_compiling = torch.compiler.is_dynamo_compiling
_by_torch: Any = F.max_pool2d  # its overloads leave out what this one passes on


def max_pool2d(
    input: torch.Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """torch.nn.functional.max_pool2d, computed by the core where that gives the same.

    input: [N, C, H, W] or [C, H, W]; runs natively when it is float32 on the CPU, contiguous, not empty, and no
    gradient is recorded. Returns [N, C, out_h, out_w] (or [C, out_h, out_w]) of input's dtype; ceil_mode decides about
    windows that reach behind the padded input. return_indices: (output, indices), by torch. Raises what torch raises.
    """
    if not return_indices and not _is_dynamo_compiling():  # a compiler cannot trace what follows
        arguments = (kernel_size, stride, padding, dilation, ceil_mode)
        y = _eager.max_pool(input, arguments)
        if y is not None:
            return y
        if type(ceil_mode) is bool and torch_op.is_plain(input) and _is_readable(input):
            pooling = _pooling(tuple(input.shape), *map(_pair, arguments[:4]), ceil_mode)
            if pooling is not None:
                _eager.remember_pooling(input, arguments, pooling)
                return pooling.run(input)
    return _by_torch(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _is_readable(x: torch.Tensor) -> bool:
    """Whether the core can read a plain tensor as planes."""
    if x.dtype is not torch.float32 or x.dim() not in (3, 4) or not x.is_contiguous() or not x.numel():
        return False
    # With one channel a tensor is contiguous and channels_last at once; torch then goes by its strides.
    return x.stride(-3) == x.shape[-2] * x.shape[-1] and not x.data_ptr() & 3


def _pair(value: Any) -> Pair | None:
    """One or two numbers as torch takes them; None: left out; (-1, -1): something else."""
    if type(value) is int:
        return value, value
    if isinstance(value, (tuple, list)) and all(type(number) is int for number in value):
        if len(value) in (1, 2):
            return value[0], value[-1]
        if not value:
            return None
    return None if value is None else (-1, -1)


@lru_cache(maxsize=256)
def _pooling(
    shape: tuple[int, ...],
    kernel: Pair | None,
    stride: Pair | None,
    padding: Pair | None,
    dilation: Pair | None,
    ceil_mode: bool,
) -> _eager.Pooling | None:
    """Of inputs [..., H, W], None where torch or the core would refuse it. stride None: the kernel's size."""
    if kernel is None or padding is None or dilation is None:
        return None
    stride = kernel if stride is None else stride
    if min(*kernel, *stride, *dilation) < 1 or max(*kernel, *stride, *dilation) > _MAX_GEOMETRY:
        return None
    if any(pad < 0 or pad > k // 2 for pad, k in zip(padding, kernel, strict=True)):
        return None
    planes, size = prod(shape[:-2]), (shape[-2], shape[-1])
    if max(planes, *size) > _MAX_SIZE:
        return None
    axes = zip(size, kernel, stride, padding, dilation, strict=True)
    out_h, out_w = (_output_size(*axis, ceil_mode) for axis in axes)
    if min(out_h, out_w) < 1:
        return None
    output_shape = (*shape[:-2], out_h, out_w)
    windows = MaxPool(planes, size, (out_h, out_w), kernel, stride, padding, dilation)
    return _eager.Pooling(output_shape, torch.empty(output_shape, device="meta").stride(), windows)


def _output_size(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """As torch computes it: with ceil_mode the last window may reach behind the padding, but begins before it."""
    spare = n + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return spare // stride + 1
    out = -(-spare // stride) + 1
    return out - 1 if (out - 1) * stride >= n + padding else out


class NativeMaxPool2d(nn.MaxPool2d):
    """An nn.MaxPool2d whose forward is max_pool2d() of this module; what convert() puts in its place."""

    @classmethod
    def of(cls, pool: nn.MaxPool2d) -> NativeMaxPool2d:
        """The same pooling, in the same mode."""
        return cls(
            pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.return_indices, pool.ceil_mode
        ).train(pool.training)

    def forward(self, input: torch.Tensor) -> Any:
        """See max_pool2d()."""
        return max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )
