"""Masked weights -> PackedConv: every argument check of the Python side.

Stands between pruning and the operator: pack() takes the pruned OIHW weights, finds the patterns by their zeros and
has the core write the packed bytes (docs/FORMAT.md). Also the one place where padding, activation and float32 arrays
are checked. It does not run anything and never imports torch itself.
"""

from __future__ import annotations

import math
import re
import sys
import warnings
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _native
from ._native import PackedConv

_MAX_PARAMETER = 65535  # stride, dilation and each side of the padding (docs/FORMAT.md)
_MAX_KERNEL = 32
_ACTIVATIONS = {"": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
_CLAMP = re.compile(r"clamp\(\s*([^,\s()]+)\s*,\s*([^,\s()]+)\s*\)")


def pack(
    weight: Any,
    bias: Any = None,
    stride: int | tuple[int, int] = 1,
    padding: int | str | tuple[Any, Any] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> PackedConv:
    """Packs a pruned convolution; patterns and empty kernels are found by the zeros of the weights.

    weight: float32 [out_channels, in_channels/groups, kernel_h, kernel_w], numpy array or CPU tensor. bias: float32
    [out_channels] or None. stride, dilation: int or (h, w). padding, in pixels of zeros: int, (h, w),
    ((top, bottom), (left, right)), 'valid', or 'same' (stride 1 only). Weights equal to zero are dropped, so to_dense()
    is bit-exact up to the sign of zero. The layout holds the filter-kernel-weight arrays of PatDNN (ASPLOS 2020,
    section 5.2) after filter kernel reorder. 3x3 layers with stride 1 and dilation 1 run on pattern kernels, all
    others on general ones.

    TypeError: wrong kind or dtype. ValueError: wrong shape or range.
    """
    w = _float32_array("weight", weight)
    if w.ndim != 4:
        raise ValueError(f"weight: expected 4 dimensions [O, I/groups, kh, kw], got shape {list(w.shape)}")
    if 0 in w.shape:
        raise ValueError(f"weight: expected no empty dimension, got shape {list(w.shape)}")
    kernel = w.shape[2:]
    if max(kernel) > _MAX_KERNEL:
        raise ValueError(f"weight: kernels are at most {_MAX_KERNEL}x{_MAX_KERNEL}, got shape {list(w.shape)}")
    n_groups = _integer("groups", groups, 1, w.shape[0])
    if w.shape[0] % n_groups:
        raise ValueError(f"groups: must divide the {w.shape[0]} output channels, got {n_groups}")
    b = None if bias is None else _float32_array("bias", bias)
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"bias: expected shape [{w.shape[0]}], got {list(b.shape)}")
    strides = _pair("stride", stride, 1)
    dilations = _pair("dilation", dilation, 1)
    sides = parse_padding(padding, (kernel[0], kernel[1]), strides, dilations)
    return _native.pack_weights(np.ascontiguousarray(w), _contiguous(b), strides, sides, dilations, n_groups)


def parse_padding(
    padding: Any, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of any form of padding that pack() takes.

    'same' puts the odd pixel at the bottom and the right, as torch does.
    """
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0, 0, 0)
        if padding != "same":
            raise ValueError(f"padding: expected 'same' or 'valid', got '{padding}'")
        if stride != (1, 1):
            raise ValueError(f"padding: 'same' needs stride 1, got stride {stride}")
        total_h, total_w = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return (total_h // 2, total_w // 2, total_h - total_h // 2, total_w - total_w // 2)
    if isinstance(padding, (tuple, list)) and any(isinstance(side, (tuple, list)) for side in padding):
        if len(padding) != 2 or not all(isinstance(side, (tuple, list)) and len(side) == 2 for side in padding):
            raise ValueError(f"padding: expected ((top, bottom), (left, right)), got {padding!r}")
        (top, bottom), (left, right) = (_pair("padding", side, 0) for side in padding)
        return (top, left, bottom, right)
    pad_h, pad_w = _pair("padding", padding, 0)
    return (pad_h, pad_w, pad_h, pad_w)


def _parse_activation_text(text: str) -> tuple[float, float]:
    known = _ACTIVATIONS.get(text)
    if known is not None:
        return known
    match = _CLAMP.fullmatch(text)
    if match is None:
        raise ValueError(
            f"activation: expected None, 'relu', 'relu6', 'clamp(min,max)' or a pair (min, max), got '{text}'"
        )
    try:
        low, high = float(match[1]), float(match[2])
    except ValueError:
        raise ValueError(f"activation: the limits of '{text}' are not numbers") from None
    return _checked_limits(low, high)


def _checked_limits(low: float, high: float) -> tuple[float, float]:
    if not low <= high:  # NaN fails too
        raise ValueError(f"activation: expected min <= max, got ({low}, {high})")
    return low, high


def parse_activation(activation: Any) -> tuple[float, float]:
    """(min, max) of the clamp: of None, '', 'relu', 'relu6', 'clamp(min,max)' or a pair of numbers."""
    if activation is None:
        return _ACTIVATIONS[""]
    if isinstance(activation, str):
        return _parse_activation_text(activation)
    if not isinstance(activation, (tuple, list)):
        raise TypeError(f"activation: expected None, a name or (min, max), got {type(activation).__name__}")
    if len(activation) != 2:
        raise ValueError(f"activation: expected (min, max), got {activation!r}")
    try:
        low, high = (float(limit) for limit in activation)
    except TypeError:
        raise TypeError(f"activation: expected two numbers, got {activation!r}") from None
    return _checked_limits(low, high)


def activation_text(activation: Any) -> str:
    """The string form that the torch operator takes: '', 'relu', 'relu6' or 'clamp(min,max)'."""
    limits = parse_activation(activation)
    for text, known in _ACTIVATIONS.items():
        if limits == known:
            return text
    return f"clamp({limits[0]!r},{limits[1]!r})"


def output_size(packed: PackedConv, shape: Any) -> tuple[int, int]:
    """(out_h, out_w) for x of this shape, [..., H, W]; errors name x, as the caller knows no h and w."""
    try:
        return packed.output_shape(int(shape[-2]), int(shape[-1]))
    except ValueError as error:
        raise ValueError(f"x: shape {list(shape)}: {error}") from None


def is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _float32_array(name: str, value: Any) -> npt.NDArray[np.float32]:
    """A numpy view of a float32 numpy array or CPU tensor."""
    if is_tensor(value):
        if value.device.type != "cpu":
            raise TypeError(f"{name}: expected a CPU tensor, got one on {value.device}")
        if str(value.dtype) != "torch.float32":
            raise TypeError(f"{name}: expected float32, got {value.dtype}")
        if value.layout != sys.modules["torch"].strided:
            raise TypeError(f"{name}: expected a dense tensor, got layout {value.layout}")
        return value.detach().resolve_neg().numpy()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a numpy array or torch tensor, got {type(value).__name__}")
    if value.dtype != np.float32 or not value.dtype.isnative:
        raise TypeError(f"{name}: expected native float32, got dtype {value.dtype.str}")
    return value


def _contiguous(array: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
    return None if array is None else np.ascontiguousarray(array)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if not low <= number <= high:
        raise ValueError(f"{name}: expected {low}..{high}, got {number}")
    return number


def _pair(name: str, value: Any, low: int) -> tuple[int, int]:
    """(h, w) of an integer or a pair of integers."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name}: expected an integer or (h, w), got {value!r}")
        return (_integer(name, value[0], low, _MAX_PARAMETER), _integer(name, value[1], low, _MAX_PARAMETER))
    number = _integer(name, value, low, _MAX_PARAMETER)
    return (number, number)


_OWN_FRAMES = ("pconv_ops", "torch")
_copy_reported = False


def report_copy(name: str, shape: Any, strides: Any) -> None:
    """Warns, once in the life of the process, that an operand had to be copied before the core could read it."""
    global _copy_reported
    if not _copy_reported:
        _copy_reported = True
        warnings.warn(
            f"{name}: shape {list(shape)} with strides {list(strides)} is neither contiguous nor channels_last (or not "
            "aligned) and is copied at each call; further copies are not reported",
            stacklevel=_callers_level(),
        )


def _callers_level() -> int:
    """`stacklevel`, for a warning of the calling function, of the nearest frame outside this package and torch."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _OWN_FRAMES:
        frame, level = frame.f_back, level + 1
    return level
