"""Whether two results are the same: deviations of tensors and of whatever else models return.

Used on every layer and on the outputs by convert.py and what it calls.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

TOLERANCE = 1e-4  # largest |ours - dense| over largest |dense| that reordering fp32 sums explains
LOUD = 1e-3  # above it something is wrong
_DIFFERING = 0.01  # share of integers or booleans (class labels, masks) that near ties may turn


class ConversionError(RuntimeError):
    """A converted model does not compute what the original does: a bug, never returned to the caller as a result."""


def deviation(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest |got - want| relative to the largest |want|; inf for another shape or dtype, and where NaN or infinity
    stands against a number. Equal NaN and infinities agree. Integers and booleans: 0 while at most 1 % of them
    differ, else inf."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return math.inf
    if not want.numel():
        return 0.0
    if not want.dtype.is_floating_point and not want.dtype.is_complex:
        return 0.0 if float((got != want).double().mean()) <= _DIFFERING else math.inf
    same = (got == want) | (got.isnan() & want.isnan())
    scale = want.abs().masked_fill(~want.isfinite(), 0).max()
    off = (got - want).abs().masked_fill(same, 0).max()
    relative = float(off) / (float(scale) or 1.0)
    return math.inf if math.isnan(relative) else relative


def output_deviation(got: Any, want: Any) -> float:
    """The largest deviation() in nested outputs; inf where they are nested in another way. What is neither tensor nor
    container is not compared."""
    got_leaves, got_form = tree_flatten(got)
    want_leaves, want_form = tree_flatten(want)
    if got_form != want_form:
        return math.inf
    worst = 0.0
    for one, other in zip(got_leaves, want_leaves, strict=True):
        if isinstance(other, torch.Tensor):
            worst = max(worst, deviation(one, other) if isinstance(one, torch.Tensor) else math.inf)
    return worst


def snapshot(x: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, gaps between rows included, so that it is read as the original would be."""
    x = x.detach()
    if x.numel() == 0 or any(step == 0 and size > 1 for size, step in zip(x.shape, x.stride(), strict=True)):
        return x.clone()
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)


def fresh(arguments: Any) -> Any:
    """Nested arguments with every tensor copied: models may write to what they are given."""
    return tree_map(lambda value: snapshot(value) if isinstance(value, torch.Tensor) else value, arguments)
