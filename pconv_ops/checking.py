"""Whether two results are the same: deviations of tensors and of whatever else models return.

Used on every layer and on the outputs by convert.py and what it calls.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import SUPPORTED_NODES, tree_flatten, tree_map

TOLERANCE = 1e-4  # largest |ours - dense| over largest |dense| that reordering fp32 sums explains
LOUD = 1e-3  # above it something is wrong
_SCALARS = (type(None), bool, int, float, complex, str, bytes, Enum, torch.dtype, torch.device)
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
    """The largest deviation() in nested outputs, objects with attributes included; inf where they are nested in another
    way. What is neither tensor nor container is not compared; incomparable() says whether that matters."""
    got_leaves, want_leaves = list(_leaves(got)), list(_leaves(want))
    if [path for path, _ in got_leaves] != [path for path, _ in want_leaves]:
        return math.inf
    worst = 0.0
    for (_, one), (_, other) in zip(got_leaves, want_leaves, strict=True):
        if isinstance(other, torch.Tensor):
            worst = max(worst, deviation(one, other) if isinstance(one, torch.Tensor) else math.inf)
    return worst


def incomparable(outputs: Any) -> str:
    """Why output_deviation() says nothing, or not all, about such outputs; '' when it does."""
    leaves = [leaf for _, leaf in _leaves(outputs)]
    for leaf in leaves:
        if not isinstance(leaf, (torch.Tensor, *_SCALARS)):
            return f"outputs hold a {type(leaf).__name__}, which cannot be compared"
    return "" if any(isinstance(leaf, torch.Tensor) for leaf in leaves) else "outputs hold no tensor to compare"


def _leaves(value: Any, path: tuple[Any, ...] = (), above: tuple[int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """(where it stands, what it is) for everything in `value` that is no container, and for empty containers."""
    parts = None if id(value) in above else _parts(value)
    if parts is None:
        yield path, value
        return
    path = (*path, type(value))
    yield path, None  # an empty container counts too
    for key, part in parts:
        yield from _leaves(part, (*path, key), (*above, id(value)))


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """What a container or an object with attributes holds, by key; None: it is neither."""
    if isinstance(value, (torch.Tensor, type, *_SCALARS)) or callable(value):
        return None
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    if type(value) in SUPPORTED_NODES:  # types that somebody taught torch to open
        return list(enumerate(tree_flatten(value, is_leaf=lambda part: part is not value)[0]))
    return list(vars(value).items()) if hasattr(value, "__dict__") else None


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers and plain tensor attributes by name: what a forward may change. The tensors themselves."""
    found = dict(model.named_buffers(remove_duplicate=False))
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
                found[f"{prefix}.{name}".lstrip(".")] = value
    return found


def saved(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of its state()."""
    return {name: value.detach().clone() for name, value in state(model).items()}


def changed(model: nn.Module, before: Mapping[str, torch.Tensor]) -> list[str]:
    """What of its state() is not as in `before`, as far as both have it."""
    now = state(model)
    return [name for name, value in before.items() if name in now and not _equal(now[name], value)]


def restore(model: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
    """Gives back what is changed(). Tensors that are one stay one."""
    now = state(model)
    copies: dict[int, torch.Tensor] = {}
    for path in changed(model, before):
        owner, _, name = path.rpartition(".")
        module = model.get_submodule(owner)
        value = copies.setdefault(id(now[path]), before[path].clone())
        if name in module._buffers:
            module._buffers[name] = value
        else:
            vars(module)[name] = value


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def snapshot(x: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, gaps between rows included, so that it is read as the original would be."""
    x = x.detach()
    if x.numel() == 0 or any(step == 0 and size > 1 for size, step in zip(x.shape, x.stride(), strict=True)):
        return x.clone()
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)


def fresh(arguments: Any) -> Any:
    """Nested arguments with every tensor copied: models may write to what they are given."""
    return tree_map(lambda value: snapshot(value) if isinstance(value, torch.Tensor) else value, arguments)


def seeded_output(model: Callable[..., Any], arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """What a model returns on (args, kwargs); random layers draw the same numbers each time."""
    torch.manual_seed(0)
    args, kwargs = fresh(arguments)
    return model(*args, **kwargs)
