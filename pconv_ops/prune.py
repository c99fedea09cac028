"""One-shot pruning: projects the weights of a torch model onto patterns and onto a number of kernels, in place.

Second step of the flow: patterns -> prune -> pack. The projections are plain functions of an array, so that a training
loop can call them too. This file trains nothing and packs nothing: it sets weights to zero.

Which weights stay is decided in float64 on the CPU by element-wise operations in a fixed order and stable sorts, so it
is the same on every platform and device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from .patterns import SCP4, PatternSet
from .report import LayerPruning, PruneReport

Array = TypeVar("Array", bound=Any)
Float64 = npt.NDArray[np.float64]
Keep = npt.NDArray[np.bool_]
Rates: TypeAlias = "float | Mapping[str, float] | None"
Predicate = Callable[[str, nn.Module], bool]
Skip: TypeAlias = "str | Predicate | Iterable[str | Predicate]"

_STEM_CHANNELS = 4


# ---- projections


def project_patterns(weight: Array, patterns: PatternSet = SCP4) -> Array:
    """The nearest weights (least squares) whose kernels each lie within one pattern of the set (PatDNN, ASPLOS 2020).

    weight: [OC, IC/groups, 3, 3], numpy or torch, floating point. Each kernel keeps the pattern that holds the largest
    L2 norm, ties by the set's order. Returns a new array of the same kind and dtype, without gradient.
    TypeError for another kind or dtype, ValueError for another shape and for NaN or Inf.
    """
    values = _values(weight)
    if values.shape[2:] != (3, 3):
        raise ValueError(f"weight: expected shape [OC, IC/groups, 3, 3], got {list(values.shape)}")
    return _masked(weight, pattern_keep(values, patterns))


def project_connectivity(weight: Array, rate: float, balance: str | None = None) -> Array:
    """The nearest weights (least squares) with only round(OC*IC/groups/rate) kernels that are not all zero.

    weight: [OC, IC/groups, kh, kw], numpy or torch, floating point. The kernels with the largest L2 norm stay, ties by
    lowest index (filter, then channel). balance="filter": round(IC/groups/rate) kernels in every filter instead.
    Returns a new array of the same kind and dtype, without gradient. TypeError for another kind or dtype, ValueError
    for another shape, NaN or Inf, a rate below 1 and a rate that leaves no kernel.
    """
    _check_rate("rate", rate)
    _check_balance(balance)
    values = _values(weight)
    count = kernels_to_keep(values.shape, rate, balance)
    return _masked(weight, connectivity_keep(values, count, balance)[:, :, None, None])


def pattern_keep(values: Float64, patterns: PatternSet) -> Keep:
    """Taps that `project_patterns` keeps of finite weights [OC, IC/groups, 3, 3]; bool, same shape."""
    squares = _squares(values)
    energy = np.zeros((len(patterns), squares.shape[1]))
    for row, bits in zip(energy, patterns.bits, strict=True):
        for tap in range(squares.shape[0]):
            if bits >> tap & 1:
                row += squares[tap]
    # argmax takes the first of equals. Sums in ascending tap order never grow when a term becomes zero, so the
    # projection of projected weights chooses the same taps again.
    best = energy.argmax(axis=0)
    return patterns.masks.astype(bool)[best].reshape(values.shape)


def connectivity_keep(values: Float64, count: int, balance: str | None = None) -> Keep:
    """Kernels that `project_connectivity` keeps of finite weights [OC, IC/groups, kh, kw]; bool [OC, IC/groups].
    count: kernels of the layer, or of each filter with balance="filter"."""
    energy = np.zeros(values.shape[0] * values.shape[1])
    for square in _squares(values):
        energy += square
    if balance == "filter":
        energy = energy.reshape(values.shape[:2])
    keep = np.zeros(energy.shape, dtype=bool)
    np.put_along_axis(keep, np.argsort(-energy, axis=-1, kind="stable")[..., :count], True, axis=-1)
    return keep.reshape(values.shape[:2])


def kernels_to_keep(shape: Iterable[int], rate: float, balance: str | None = None) -> int:
    """Kernels of a layer with this OIHW shape that stay at a rate (of each filter with balance="filter")."""
    filters, channels = list(shape)[:2]
    total = channels if balance == "filter" else filters * channels
    count = round(total / rate)
    if count < 1:
        where = "of each filter" if balance == "filter" else "of the layer"
        raise ValueError(f"rate: {rate:g} keeps none of the {total} kernels {where}; allowed: below {2 * total}")
    return count


def _squares(values: Float64) -> Float64:
    """[taps, OC * IC/groups], contiguous."""
    return np.ascontiguousarray(np.square(values).reshape(values.shape[0] * values.shape[1], -1).T)


def _values(weight: Any) -> Float64:
    """A float64 copy of 4-D weights."""
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


# ---- which layers, and how


@dataclass(frozen=True)
class LayerChoice:
    """A convolution of a model and what pruning may do to it. `rate` None or 1: every kernel stays."""

    names: tuple[str, ...]  # every name of the module; the first one stands for it
    module: nn.Module
    patterns: bool
    rate: float | None
    reason: str

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def pruned(self) -> bool:
        return self.patterns or self.rate is not None


def choose_layers(
    model: nn.Module, patterns: bool, connectivity: Rates, connectivity_1x1: Rates, skip: Skip
) -> list[LayerChoice]:
    """Every nn.Conv2d of the model, in its order, with the rules of `prune_` applied; errors as there."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    convs = {module: tuple(found) for module, found in names.items() if isinstance(module, nn.Conv2d)}
    for module, found in convs.items():
        _check_initialised(found[0], module)
    prunable = {m: found for m, found in convs.items() if not (_is_stem(m) or _is_depthwise(m))}
    _check_rates("connectivity", connectivity, [n for m, n in prunable.items() if _size(m) != (1, 1)])
    _check_rates("connectivity_1x1", connectivity_1x1, [n for m, n in prunable.items() if _size(m) == (1, 1)])
    skips = _skip_predicate(skip, [n for found in names.values() for n in found], convs.values())
    choices = [
        _choose(found, module, patterns, connectivity, connectivity_1x1, skips) for module, found in convs.items()
    ]
    return _settle_shared(model, choices)


def _choose(
    names: tuple[str, ...], module: Any, patterns: bool, connectivity: Rates, connectivity_1x1: Rates, skips: Predicate
) -> LayerChoice:
    def choice(use_patterns: bool, rate: float | None, reason: str) -> LayerChoice:
        return LayerChoice(names, module, use_patterns, rate, reason)

    size = _size(module)
    if any(skips(name, module) for name in names):
        return choice(False, None, "dense: skipped")
    if _is_stem(module):
        return choice(False, None, f"dense: stem ({module.in_channels} input channels)")
    use_patterns = patterns and size == (3, 3)
    if _is_depthwise(module):
        return choice(use_patterns, None, "depthwise: patterns only" if use_patterns else "dense: depthwise")
    if size == (1, 1):
        rate, why = _rate_of(names, connectivity_1x1), "dense: no connectivity_1x1"
    elif size == (3, 3) or isinstance(connectivity, Mapping):
        rate, why = _rate_of(names, connectivity), "dense: no rate"
    else:
        rate, why = None, f"dense: {size[0]}x{size[1]} is pruned only when named"
    done = ["patterns"] * use_patterns + ([f"connectivity {rate:g}x"] if rate is not None else [])
    return choice(use_patterns, rate, ", ".join(done) or why)


def _settle_shared(model: nn.Module, choices: list[LayerChoice]) -> list[LayerChoice]:
    """A weight that several modules own is pruned once, when all owners agree, and not at all when one stays dense."""
    owners: dict[Any, list[str]] = {}
    for name, module in model.named_modules():
        for parameter_name, parameter in module._parameters.items():
            if parameter is not None and not isinstance(parameter, UninitializedParameter):
                owners.setdefault(_identity(parameter), []).append(f"{name}.{parameter_name}".lstrip("."))
    by_weight: dict[Any, LayerChoice] = {}
    for choice in choices:
        if choice.pruned:
            _check_prunable(choice)
            first = by_weight.setdefault(_identity(choice.module.weight), choice)
            if (first.patterns, first.rate) != (choice.patterns, choice.rate):
                raise ValueError(
                    f"model: layers '{first.name}' and '{choice.name}' share one weight but ask for different pruning"
                    f" ({first.reason}; {choice.reason})"
                )
    pruned = {f"{choice.name}.weight".lstrip(".") for choice in choices if choice.pruned}
    settled = []
    for choice in choices:
        dense = [] if not choice.pruned else [n for n in owners[_identity(choice.module.weight)] if n not in pruned]
        if dense:
            reason = f"dense: shares its weight with '{dense[0]}', which stays dense"
            choice = replace(choice, patterns=False, rate=None, reason=reason)
        elif choice.pruned and by_weight[_identity(choice.module.weight)] is not choice:
            first = by_weight[_identity(choice.module.weight)]
            choice = replace(choice, reason=f"{choice.reason} (shares its weight with '{first.name}')")
        settled.append(choice)
    return settled


def _identity(tensor: torch.Tensor) -> Any:
    """Equal for parameters that are the same memory, whether or not they are the same object."""
    place = tensor.untyped_storage().data_ptr()
    return (str(tensor.device), place, tensor.storage_offset(), tensor.shape, tensor.stride()) if place else id(tensor)


def _size(module: Any) -> tuple[int, int]:
    return module.kernel_size[0], module.kernel_size[1]


def _is_stem(module: Any) -> bool:
    return module.groups == 1 and module.in_channels <= _STEM_CHANNELS


def _is_depthwise(module: Any) -> bool:
    return module.groups > 1 and module.in_channels == module.groups


def _check_initialised(name: str, module: Any) -> None:
    if isinstance(module.weight, UninitializedParameter) or module.weight.is_meta:
        raise ValueError(f"model: layer '{name}' has no weights yet: load or initialise them first")


def _check_prunable(choice: LayerChoice) -> None:
    weight = choice.module._parameters.get("weight")
    where = f"model: layer '{choice.name}'"
    if weight is None:
        raise ValueError(f"{where} computes its weight (a parametrization): remove that first, or skip the layer")
    if not weight.is_floating_point():
        raise TypeError(f"{where}: expected floating-point weights, got {weight.dtype}")


def _check_rate(argument: str, rate: Any) -> None:
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise TypeError(f"{argument}: expected a number, got {type(rate).__name__}")
    if not 1 <= float(rate) < math.inf:
        raise ValueError(f"{argument}: expected a finite rate >= 1, got {rate}")


def _check_balance(balance: Any) -> None:
    if balance not in (None, "filter"):
        raise ValueError(f"balance: expected None or 'filter', got {balance!r}")


def _check_rates(argument: str, rates: Any, layers: list[tuple[str, ...]]) -> None:
    """Every rate is one, and every name in a dict matches a layer (given by all its names) that it can prune."""
    if rates is None:
        return
    if not isinstance(rates, Mapping):
        _check_rate(argument, rates)
        return
    for key, rate in rates.items():
        if not isinstance(key, str):
            raise TypeError(f"{argument}: expected layer names as keys, got {type(key).__name__}")
        _check_rate(f"{argument}[{key!r}]", rate)
        if not any(_matches(name, key) for names in layers for name in names):
            listed = ", ".join(names[0] for names in layers) or "none"
            raise ValueError(f"{argument}: {key!r} matches no layer that it can prune; those layers are: {listed}")


def _matches(name: str, entry: str) -> bool:
    return name == entry or fnmatchcase(name, entry)


def _rate_of(names: tuple[str, ...], rates: Rates) -> float | None:
    if not isinstance(rates, Mapping):
        return rates
    exact = [rates[name] for name in names if name in rates]
    matched = [rate for key, rate in rates.items() for name in names if fnmatchcase(name, key)]
    return (exact + matched + [None])[0]


def _skip_predicate(skip: Any, modules: list[str], convs: Iterable[tuple[str, ...]]) -> Predicate:
    entries = [skip] if isinstance(skip, str) or callable(skip) else list(skip)
    for entry in entries:
        if not isinstance(entry, str) and not callable(entry):
            raise TypeError(f"skip: expected names, fnmatch patterns or predicates, got {type(entry).__name__}")
        is_name = isinstance(entry, str) and not any(c in entry for c in "*?[")
        if is_name and entry not in modules:
            raise ValueError(f"skip: no layer '{entry}'; layers: {', '.join(names[0] for names in convs) or 'none'}")

    def skips(name: str, module: nn.Module) -> bool:
        return any(
            entry(name, module) if callable(entry) else _matches(name, entry) or name.startswith(entry + ".")
            for entry in entries
        )

    return skips


# ---- pruning


def prune_(
    model: nn.Module,
    patterns: PatternSet | None = SCP4,
    connectivity: Rates = 3.1,
    connectivity_1x1: Rates = None,
    block: int = 1,
    skip: Skip = (),
    balance: str | None = None,
) -> PruneReport:
    """Prunes the nn.Conv2d layers of a model in place, in one shot (PCONV, AAAI 2020, section 4), and reports it.

    patterns: what every 3x3 kernel is cut to (`project_patterns`); None: no pattern pruning.
    connectivity: each 3x3 layer keeps round(OC*IC/groups/connectivity) kernels, those with the largest L2 norm of the
        weights its pattern keeps (so that both cuts together are the nearest weights), ties by lowest index. A dict
        gives rates by layer name (exact, or fnmatch; an exact name wins, then the first match), to layers of other
        sizes too; 3x3 layers it does not name get patterns alone. None: no connectivity pruning.
    connectivity_1x1: the same for 1x1 layers, which nothing else prunes.
    block: 1; kernels are dropped one by one.
    skip: layers to leave alone: names (of layers or of modules around them), fnmatch patterns, predicate(name, module).
    balance: "filter" keeps the same number of kernels, round(IC/groups/rate), in every filter of a layer.

    A stem (groups 1, at most 4 input channels) stays dense; depthwise layers get patterns, never connectivity. Weights
    that are zero stay zero; pruning again with the same arguments changes nothing. A weight that several modules share
    is pruned once, or not at all when one of them stays dense. Nothing but those weights is touched, and nothing at
    all on an error: TypeError for a wrong kind; ValueError for a rate below 1, a rate that leaves a layer no kernel, a
    name that matches no layer, and NaN or Inf weights (the layer is named).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if patterns is not None and not isinstance(patterns, PatternSet):
        raise TypeError(f"patterns: expected a PatternSet or None, got {type(patterns).__name__}")
    if block != 1:
        raise ValueError(f"block: expected 1, the only size supported, got {block}")
    _check_balance(balance)
    choices = choose_layers(model, patterns is not None, connectivity, connectivity_1x1, skip)
    counts = [_checked_count(choice, balance) for choice in choices]
    done = set()
    for choice, count in zip(choices, counts, strict=True):
        weight: Any = choice.module.weight
        if choice.pruned and _identity(weight) not in done:
            done.add(_identity(weight))
            _prune_weight(weight, patterns if choice.patterns else None, count, balance)
    return PruneReport([_pruning_of(choice) for choice in choices])


def _checked_count(choice: LayerChoice, balance: str | None) -> int | None:
    """Kernels to keep (None: all), after the checks that need the weights; the layer is named in errors."""
    if not choice.pruned:
        return None
    weight: Any = choice.module.weight
    if not torch.isfinite(weight.detach()).all():
        raise ValueError(f"model: the weight of layer '{choice.name}' contains NaN or Inf")
    if choice.rate is None:
        return None
    try:
        return kernels_to_keep(weight.shape, choice.rate, balance)
    except ValueError as error:
        raise ValueError(f"connectivity: layer '{choice.name}': {error}") from None


@torch.no_grad()
def _prune_weight(weight: Any, patterns: PatternSet | None, count: int | None, balance: str | None) -> None:
    values = _values(weight)
    keep = np.ones(values.shape, dtype=bool) if patterns is None else pattern_keep(values, patterns)
    if count is not None:
        keep &= connectivity_keep(values * keep, count, balance)[:, :, None, None]
    weight.masked_fill_(torch.from_numpy(~keep).to(weight.device), 0)


def _pruning_of(choice: LayerChoice) -> LayerPruning:
    module: Any = choice.module
    return LayerPruning.of(choice.name, (module.weight.detach() != 0).cpu().numpy(), module.groups, choice.reason)
