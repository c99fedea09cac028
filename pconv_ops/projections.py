"""The nearest weights that a pruning scheme allows: patterns, connectivity, and both in blocks of filters.

Plain functions of an array, below prune.py, so that a training loop can call them too. They know no models and no
layers. Which weights stay is decided in float64 on the CPU by element-wise operations in a fixed order and stable
sorts, so it is the same on every platform and device.

A block is a row of consecutive filters that keep the same kernels with the same patterns: block-punched pruning (Gong
et al., "Automatic Mapping of the Best-Suited DNN Pruning Schemes for Real-Time Mobile Acceleration", TODAES 2022).
What its filters keep is decided by the L2 norm of all their weights together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from operator import index
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from .patterns import SCP4, PatternSet

Array = TypeVar("Array", bound=Any)
Float64 = npt.NDArray[np.float64]
Keep = npt.NDArray[np.bool_]

MAX_BLOCK = 64


def project_patterns(weight: Array, patterns: PatternSet = SCP4, block: int = 1) -> Array:
    """The nearest weights (least squares) whose kernels each lie within one pattern of the set (PatDNN, ASPLOS 2020).

    weight: [OC, IC/groups, 3, 3], numpy or torch, floating point. Each kernel keeps the pattern that holds the largest
    L2 norm, ties by the set's order. block: as many consecutive filters use the same pattern for an input channel, the
    one that holds the largest norm of all their kernels; divides OC. Returns a new array of the same kind and dtype,
    without gradient. TypeError for another kind or dtype, ValueError for another shape or block and for NaN or Inf.
    """
    values = values_of(weight)
    if values.shape[2:] != (3, 3):
        raise ValueError(f"weight: expected shape [OC, IC/groups, 3, 3], got {list(values.shape)}")
    return _masked(weight, pattern_keep(values, patterns, _dividing_block(block, values.shape[0])))


def project_connectivity(weight: Array, rate: float, balance: str | None = None, block: int = 1) -> Array:
    """The nearest weights (least squares) with only round(OC*IC/groups/rate) kernels that are not all zero.

    weight: [OC, IC/groups, kh, kw], numpy or torch, floating point. The kernels with the largest L2 norm stay, ties by
    lowest index (filter, then channel). balance="filter": round(IC/groups/rate) kernels in every filter instead.
    block: as many consecutive filters keep the same kernels; round(OC/block*IC/groups/rate) rows of `block` kernels
    stay, those with the largest norm; divides OC. Returns a new array of the same kind and dtype, without gradient.
    TypeError for another kind or dtype, ValueError for another shape or block, NaN or Inf, a rate below 1 and a rate
    that leaves no kernel.
    """
    check_rate("rate", rate)
    check_balance(balance)
    values = values_of(weight)
    block = _dividing_block(block, values.shape[0])
    count = kernels_to_keep(values.shape, rate, balance, block)
    return _masked(weight, connectivity_keep(values, count, balance, block)[:, :, None, None])


def pattern_keep(values: Float64, patterns: PatternSet, block: int = 1) -> Keep:
    """Taps that `project_patterns` keeps of finite weights [OC, IC/groups, 3, 3]; bool, same shape."""
    squares = _squares(values, block)
    energy = np.zeros((len(patterns), squares.shape[1]))
    for row, bits in zip(energy, patterns.bits, strict=True):
        for term in range(squares.shape[0]):
            if bits >> term % 9 & 1:
                row += squares[term]
    # argmax takes the first of equals. Sums in a fixed order never grow when a term becomes zero, so the projection of
    # projected weights chooses the same taps again.
    best = energy.argmax(axis=0)
    taps = patterns.masks.astype(bool)[best].reshape(values.shape[0] // block, *values.shape[1:])
    return np.repeat(taps, block, axis=0)


def connectivity_keep(values: Float64, count: int, balance: str | None = None, block: int = 1) -> Keep:
    """Kernels that `project_connectivity` keeps of finite weights [OC, IC/groups, kh, kw]; bool [OC, IC/groups].
    count: of `kernels_to_keep`."""
    shape = (values.shape[0] // block, values.shape[1])
    energy = np.zeros(shape[0] * shape[1])
    for square in _squares(values, block):
        energy += square
    keep = _largest(energy.reshape(shape if balance == "filter" else (1, -1)), count)
    return np.repeat(keep.reshape(shape), block, axis=0)


def _largest(values: Float64, count: int) -> Keep:
    """The `count` largest of each row [rows, n], ties by lowest index. A partition takes a fifth of a sort's time."""
    if count == 0:
        return np.zeros(values.shape, dtype=bool)
    at = values.shape[1] - count
    least = np.partition(values, at, axis=1)[:, at : at + 1]
    above, tied = values > least, values == least
    left = count - np.count_nonzero(above, axis=1, keepdims=True)
    keep: Keep = above | (tied & (np.cumsum(tied, axis=1) <= left))
    return keep


def kernels_to_keep(shape: Iterable[int], rate: float, balance: str | None = None, block: int = 1) -> int:
    """Kernels of a layer with this OIHW shape that stay at a rate (of each filter with balance="filter"); the `block`
    kernels that filters of a block have for a channel count as one."""
    filters, channels = list(shape)[:2]
    total = channels if balance == "filter" else filters // block * channels
    count = round(total / rate)
    if count < 1:
        where = "of each filter" if balance == "filter" else "of the layer"
        what = f"{total} kernels" if block == 1 else f"{total} rows of {block} kernels"
        raise ValueError(f"rate: {rate:g} keeps none of the {what} {where}; allowed: below {2 * total}")
    return count


def _squares(values: Float64, block: int) -> Float64:
    """[block * taps, OC/block * IC/groups], contiguous: a row for each tap of each filter of a block."""
    filters, channels = values.shape[:2]
    squares = np.square(values).reshape(filters // block, block, channels, -1)
    return np.ascontiguousarray(squares.transpose(1, 3, 0, 2)).reshape(-1, filters // block * channels)


def values_of(weight: Any) -> Float64:
    """4-D weights in float64, perhaps in the weights' own memory: to read only. TypeError and ValueError as the
    projections say."""
    if isinstance(weight, torch.Tensor) and weight.is_floating_point():
        values = weight.detach().to("cpu", torch.float64).numpy()
    elif isinstance(weight, np.ndarray) and weight.dtype.kind == "f":
        values = weight.astype(np.float64)
    else:
        what = getattr(weight, "dtype", type(weight).__name__)
        raise TypeError(f"weight: expected a floating-point numpy array or torch tensor, got {what}")
    if values.ndim != 4:
        raise ValueError(f"weight: expected shape [OC, IC/groups, kh, kw], got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError("weight: contains NaN or Inf")
    return values


def _masked(weight: Any, keep: Keep) -> Any:
    if isinstance(weight, torch.Tensor):
        return weight.detach().masked_fill(torch.from_numpy(~keep).to(weight.device), 0)
    return np.where(keep, weight, weight.dtype.type(0))


# ---- arguments


def check_rate(argument: str, rate: Any) -> None:
    """TypeError unless a number, ValueError unless finite and >= 1."""
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise TypeError(f"{argument}: expected a number, got {type(rate).__name__}")
    if not 1 <= float(rate) < math.inf:
        raise ValueError(f"{argument}: expected a finite rate >= 1, got {rate}")


def check_number(argument: str, value: Any, above: float = -math.inf, least: float = -math.inf) -> None:
    """TypeError unless a number, ValueError unless finite, larger than `above` and not smaller than `least`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument}: expected a number, got {type(value).__name__}")
    if not (above < float(value) < math.inf and least <= float(value)):
        bound = f" > {above:g}" if above > -math.inf else f" >= {least:g}" if least > -math.inf else ""
        raise ValueError(f"{argument}: expected a finite number{bound}, got {value}")


def check_balance(balance: Any) -> None:
    """ValueError unless None or "filter"."""
    if balance not in (None, "filter"):
        raise ValueError(f"balance: expected None or 'filter', got {balance!r}")


def checked_integer(argument: str, value: Any, expected: str = "an integer") -> int:
    """The integer that a value is; TypeError for anything else, bools included."""
    try:
        number = None if isinstance(value, (bool, np.bool_)) else index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{argument}: expected {expected}, got {type(value).__name__}")
    return number


def check_block(argument: str, block: Any) -> None:
    """TypeError unless an integer, ValueError unless 1..64."""
    size = checked_integer(argument, block)
    if not 1 <= size <= MAX_BLOCK:
        raise ValueError(f"{argument}: expected 1..{MAX_BLOCK}, got {size}")


def _dividing_block(block: Any, filters: int) -> int:
    check_block("block", block)
    if filters % index(block):
        raise ValueError(f"block: {block} does not divide the {filters} filters")
    return index(block)
