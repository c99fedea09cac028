"""conv2d(): one entry for numpy arrays and torch tensors.

Arrays go to the core here; tensors go to torch_op.py, which is imported with the first of them. Computes nothing
itself: the inner loops are the core's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ._native import PackedConv
from .memory import aligned_empty
from .packing import is_tensor, output_size, parse_activation, report_copy
from .threads import get_num_threads

_FLOAT32 = np.dtype(np.float32)
_torch_conv2d: Any = None  # torch_op.conv2d once a tensor came


def conv2d(
    x: Any,
    packed: PackedConv,
    activation: str | tuple[float, float] | None = None,
    residual: Any = None,
    out: Any = None,
) -> Any:
    """clamp(conv(x) + bias + residual) with a pruned convolution (PCONV, AAAI 2020, section 5).

    x: float32 [N, C, H, W] or [C, H, W], numpy array or CPU tensor; N may be 0. packed: what pack() returns.
    activation: None, 'relu', 'relu6' or (min, max); NaN passes through. residual: of the output's shape, added before
    the activation. out: where to write, of the output's shape and x's layout; may be the residual itself, no other
    overlap. Returns float32 [N, O, out_h, out_w] (or [O, out_h, out_w]) of the kind of x.

    Contiguous and channels_last memory is read in place and the output has the same layout; other strides are copied,
    which is reported once. The GIL is released while the core runs, on get_num_threads() threads; the result does not
    depend on their number. Tensors that require a gradient pass forward, backward raises.

    TypeError: wrong kind, device or dtype (big-endian included). ValueError: wrong shape, or a geometry that packs but
    would need a packed tile of more than 256 MB (huge dilations or strides, channels_last).
    """
    global _torch_conv2d
    if not isinstance(packed, PackedConv):
        raise TypeError(f"packed: expected a PackedConv as pack() returns it, got {type(packed).__name__}")
    if isinstance(x, np.ndarray):
        return _conv2d_numpy(x, packed, activation, residual, out)
    if _torch_conv2d is None:
        if not is_tensor(x):
            raise TypeError(f"x: expected a numpy array or torch tensor, got {type(x).__name__}")
        from . import torch_op

        _torch_conv2d = torch_op.conv2d
    return _torch_conv2d(x, packed, activation, residual, out)


def _conv2d_numpy(
    x: npt.NDArray[Any], packed: PackedConv, activation: Any, residual: Any, out: Any
) -> npt.NDArray[np.float32]:
    low, high = parse_activation(activation)
    _check_array("x", x)
    if x.ndim not in (3, 4):
        raise ValueError(f"x: expected shape [N, C, H, W] or [C, H, W], got {list(x.shape)}")
    batched = x.ndim == 4
    images = x if batched else x[np.newaxis]
    n, channels, h, w = images.shape
    if channels != packed.in_channels:
        raise ValueError(f"x: expected {packed.in_channels} channels, got shape {list(x.shape)}")
    shape: tuple[int, ...] = (n, packed.out_channels, *output_size(packed, x.shape))
    channels_last = not images.flags.c_contiguous and _is_dense(images, True)
    plus = None if residual is None else _operand("residual", residual, shape, batched)
    if out is None:
        y = _empty(shape, channels_last)
    else:
        y = _operand("out", out, shape, batched)
        _check_out(y, images, plus, channels_last)
    source = _readable("x", images, channels_last)
    added = None if plus is None else _readable("residual", plus, channels_last)
    if y.size:
        addresses = (source.ctypes.data, y.ctypes.data)
        residual_address = 0 if added is None else added.ctypes.data
        packed.run(*addresses, n, h, w, channels_last, residual_address, low, high, get_num_threads())
    if out is not None:
        return out
    return y if batched else y[0]


def _check_array(name: str, value: Any) -> None:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a numpy array, as x is one, got {type(value).__name__}")
    if value.dtype != _FLOAT32:  # another byte order is another dtype
        raise TypeError(f"{name}: expected native float32, got dtype {value.dtype.str}")


def _operand(name: str, value: Any, shape: tuple[int, ...], batched: bool) -> npt.NDArray[np.float32]:
    """`value` as [N, O, H, W] when its shape is the output's."""
    _check_array(name, value)
    expected = shape if batched else shape[1:]
    if value.shape != expected:
        raise ValueError(f"{name}: expected the output's shape {list(expected)}, got {list(value.shape)}")
    return value if batched else value[np.newaxis]


def _is_dense(images: npt.NDArray[Any], channels_last: bool) -> bool:
    """Whether [N, C, H, W] memory has the layout asked for, without gaps and aligned."""
    ordered = images.transpose(0, 2, 3, 1) if channels_last else images
    return bool(ordered.flags.c_contiguous and ordered.flags.aligned)


def _empty(shape: tuple[int, ...], channels_last: bool) -> npt.NDArray[np.float32]:
    if not channels_last:
        return aligned_empty(shape)
    n, channels, h, w = shape
    return aligned_empty((n, h, w, channels)).transpose(0, 3, 1, 2)


def _readable(name: str, images: npt.NDArray[np.float32], channels_last: bool) -> npt.NDArray[np.float32]:
    """`images`, or a copy of them that the core can read."""
    if _is_dense(images, channels_last):
        return images
    report_copy(name, images.shape, images.strides)
    copy = _empty(images.shape, channels_last)
    copy[...] = images
    return copy


def _check_out(
    y: npt.NDArray[Any], x: npt.NDArray[Any], residual: npt.NDArray[Any] | None, channels_last: bool
) -> None:
    if not y.flags.writeable:
        raise ValueError("out: is read-only")
    if not _is_dense(y, channels_last):
        layout = "channels_last" if channels_last else "contiguous"
        raise ValueError(f"out: expected {layout} memory like x, got shape {list(y.shape)}, strides {list(y.strides)}")
    # may_share_memory compares the extents, which is what the core's rule is about.
    if np.may_share_memory(y, x):
        raise ValueError("out: overlaps x")
    if residual is not None and np.may_share_memory(y, residual):
        if y.ctypes.data != residual.ctypes.data or y.strides != residual.strides:
            raise ValueError("out: overlaps residual without being the same array")
