"""Types of the compiled eager call."""

import weakref
from typing import Any

import torch

from ._native import MaxPool, PackedConv

def is_plain(x: Any, second: Any, third: Any) -> bool:
    """Whether the dispatcher would do nothing but call the CPU kernel. `second` and `third` may be None."""

class Layout:
    """What follows from the shape and strides of an input alone."""

    n: int
    h: int
    w: int
    batched: bool
    channels_last: bool
    memory_format: torch.memory_format
    dense: bool  # the core can read it as it is
    output_shape: tuple[int, ...]  # [N, O, out_h, out_w]
    output_strides: tuple[int, ...]

    def __init__(
        self,
        x: torch.Tensor,
        size: tuple[int, int, int],
        channels_last: bool,
        memory_format: torch.memory_format,
        dense: bool,
        output_shape: tuple[int, ...],
        output_strides: tuple[int, ...],
    ) -> None:
        """x: the input; size: its (n, h, w)."""

def run(
    x: torch.Tensor, packed: PackedConv, residual: torch.Tensor | None, low: float, high: float
) -> torch.Tensor | None:
    """conv2d() on plain operands, when they are of the usual kind: float32 [N, C, H, W] of a layout that this layer has
    met (PackedConv.memo) and the core can read, residual None or of the output's layout. None: they are not; nothing
    was done."""

class Handle:
    """A validated native layer and what must stay as it was for its bytes to be the same."""

    storage: weakref.ref[Any]
    mark: Any  # see mark_of()
    address: int
    n_bytes: int
    packed: PackedConv

    def __init__(
        self, storage: weakref.ref[Any], mark: Any, address: int, n_bytes: int, packed: PackedConv
    ) -> None: ...

def mark_of(tensor: torch.Tensor) -> Any:
    """Changes when the bytes change."""

def known(handles: dict[int, Handle], tensor: torch.Tensor) -> PackedConv | None:
    """The layer of unchanged bytes of which there is a handle (by the id of their storage), else None."""

def call(
    x: Any, tensor: Any, residual: Any, limits: tuple[Any, ...], handles: dict[int, Handle]
) -> torch.Tensor | None:
    """run() of the layer whose bytes a tensor holds, when the call is a plain one; limits begins with (low, high).
    None: it is not, or there is no handle yet; nothing was done."""

class Pooling:
    """Max pooling of contiguous float32 inputs of one shape, by arguments that torch takes."""

    output_shape: tuple[int, ...]
    output_strides: tuple[int, ...]

    def __init__(self, output_shape: tuple[int, ...], output_strides: tuple[int, ...], windows: MaxPool) -> None: ...
    def run(self, x: torch.Tensor) -> torch.Tensor:
        """The output for x, which must be what this was made for, at an address that floats may have."""

def remember_pooling(x: torch.Tensor, arguments: tuple[Any, ...], pooling: Pooling) -> None:
    """Lets max_pool() take further calls like this one. arguments: (kernel_size, stride, padding, dilation, ceil_mode)
    as they came; of ones that could change nothing is remembered."""

def forget_poolings() -> int:
    """Returns how many calls were remembered, at most 256; none are any more."""

def max_pool(x: Any, arguments: tuple[Any, ...]) -> torch.Tensor | None:
    """The max pooling of x, when it is a plain call like one that was remembered. None: it is not; nothing was done."""
