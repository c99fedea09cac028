"""Which layers of a torch model pruning may touch, and how much each may lose.

Between a user's rules (rates, blocks, names) and projections.py, for prune.py and the pruners that train. Reads models
and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from operator import index
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from .constraints import Constraint, FewKernels, InPatterns
from .patterns import PatternSet
from .projections import Float64, check_block, check_rate, kernels_to_keep, values_of

Rates: TypeAlias = "float | Mapping[str, float] | None"
Blocks: TypeAlias = "int | Mapping[str, int]"
Predicate = Callable[[str, nn.Module], bool]
Skip: TypeAlias = "str | Predicate | Iterable[str | Predicate]"

SKIPPED = "dense: skipped"
_STEM_CHANNELS = 4


@dataclass(frozen=True)
class LayerChoice:
    """A convolution of a model and what pruning may do to it. `rate` None or 1: every kernel stays; `block` divides the
    filters of a group."""

    names: tuple[str, ...]  # every name of the module; the first one stands for it
    module: nn.Module
    patterns: bool
    rate: float | None
    reason: str
    block: int = 1

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def weight(self) -> torch.Tensor:
        """OIHW."""
        weight: torch.Tensor = self.module.weight  # type: ignore[assignment]
        return weight

    @property
    def pruned(self) -> bool:
        return self.patterns or self.rate is not None


def choose_layers(
    model: nn.Module,
    patterns: bool,
    connectivity: Rates,
    connectivity_1x1: Rates,
    block: Blocks = 1,
    skip: Skip = (),
    argument: str = "connectivity",
) -> list[LayerChoice]:
    """Every nn.Conv2d of the model, in its order, with the rules of `prune_` applied; errors as there. `argument`: what
    the caller calls the rates of layers that are not 1x1."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    convs = {module: tuple(found) for module, found in names.items() if isinstance(module, nn.Conv2d)}
    for module, found in convs.items():
        _check_initialised(found[0], module)
    prunable = {m: found for m, found in convs.items() if not (is_stem(m) or is_depthwise(m))}
    one = [n for m, n in prunable.items() if _size(m) == (1, 1)]
    others = [n for m, n in prunable.items() if _size(m) != (1, 1)]
    _check_by_name(argument, {} if connectivity is None else connectivity, others, check_rate)
    _check_by_name("connectivity_1x1", {} if connectivity_1x1 is None else connectivity_1x1, one, check_rate)
    _check_by_name("block", block, [*prunable.values()], check_block)
    skips = _skip_predicate(skip, [n for found in names.values() for n in found], convs.values())
    choices = [
        _in_blocks(_choose(found, module, patterns, connectivity, connectivity_1x1, skips), block)
        for module, found in convs.items()
    ]
    return _settle_shared(model, choices)


def _choose(
    names: tuple[str, ...], module: Any, patterns: bool, connectivity: Rates, connectivity_1x1: Rates, skips: Predicate
) -> LayerChoice:
    def choice(use_patterns: bool, rate: float | None, reason: str) -> LayerChoice:
        return LayerChoice(names, module, use_patterns, rate, reason)

    size = _size(module)
    if any(skips(name, module) for name in names):
        return choice(False, None, SKIPPED)
    if is_stem(module):
        return choice(False, None, f"dense: stem ({module.in_channels} input channels)")
    use_patterns = patterns and size == (3, 3)
    if is_depthwise(module):
        return choice(use_patterns, None, "depthwise: patterns only" if use_patterns else "dense: depthwise")
    if size == (1, 1):
        rate, why = _by_name(names, connectivity_1x1), "dense: no connectivity_1x1"
    elif size == (3, 3) or isinstance(connectivity, Mapping):
        rate, why = _by_name(names, connectivity), "dense: no rate"
    else:
        rate, why = None, f"dense: {size[0]}x{size[1]} is pruned only when named"
    done = ["patterns"] * use_patterns + ([f"connectivity {rate:g}x"] if rate is not None else [])
    return choice(use_patterns, rate, ", ".join(done) or why)


def _in_blocks(choice: LayerChoice, block: Blocks) -> LayerChoice:
    """The choice with the block of its layer, which only a layer that loses kernels has."""
    wanted = _by_name(choice.names, block)
    if choice.rate is None or wanted is None:
        return choice
    module: Any = choice.module
    filters = module.out_channels // module.groups
    size = math.gcd(index(wanted), filters)
    why = "" if size == wanted else f" ({wanted} does not divide {filters} filters)"
    text = f", blocks of {size}{why}" if wanted > 1 else ""
    return replace(choice, block=size, reason=choice.reason + text)


def _settle_shared(model: nn.Module, choices: list[LayerChoice]) -> list[LayerChoice]:
    """A weight that several modules own is pruned once, when all owners agree, and not at all when one stays dense."""
    owners: dict[Any, list[str]] = {}
    for name, module in model.named_modules():
        for parameter_name, parameter in module._parameters.items():
            if parameter is not None and not isinstance(parameter, UninitializedParameter):
                owners.setdefault(identity(parameter), []).append(f"{name}.{parameter_name}".lstrip("."))
    by_weight: dict[Any, LayerChoice] = {}
    for choice in choices:
        if choice.pruned:
            _check_prunable(choice)
            first = by_weight.setdefault(identity(choice.weight), choice)
            if (first.patterns, first.rate, first.block) != (choice.patterns, choice.rate, choice.block):
                raise ValueError(
                    f"model: layers '{first.name}' and '{choice.name}' share one weight but ask for different pruning"
                    f" ({first.reason}; {choice.reason})"
                )
    pruned = {f"{choice.name}.weight".lstrip(".") for choice in choices if choice.pruned}
    settled = []
    for choice in choices:
        dense = [] if not choice.pruned else [n for n in owners[identity(choice.weight)] if n not in pruned]
        if dense:
            reason = f"dense: shares its weight with '{dense[0]}', which stays dense"
            choice = replace(choice, patterns=False, rate=None, block=1, reason=reason)
        elif choice.pruned and by_weight[identity(choice.weight)] is not choice:
            first = by_weight[identity(choice.weight)]
            choice = replace(choice, reason=f"{choice.reason} (shares its weight with '{first.name}')")
        settled.append(choice)
    return settled


def distinct(choices: Iterable[LayerChoice]) -> dict[str, LayerChoice]:
    """Those that are pruned, by name; of those that share a weight the first."""
    found: dict[Any, LayerChoice] = {}
    for choice in choices:
        if choice.pruned:
            found.setdefault(identity(choice.weight), choice)
    return {choice.name: choice for choice in found.values()}


def identity(tensor: torch.Tensor) -> Any:
    """Equal for parameters that are the same memory, whether or not they are the same object."""
    place = tensor.untyped_storage().data_ptr()
    return (str(tensor.device), place, tensor.storage_offset(), tensor.shape, tensor.stride()) if place else id(tensor)


def _size(module: Any) -> tuple[int, int]:
    return module.kernel_size[0], module.kernel_size[1]


def is_stem(module: Any) -> bool:
    """A first layer, which stays dense: groups 1 and few input channels."""
    return module.groups == 1 and module.in_channels <= _STEM_CHANNELS


def is_depthwise(module: Any) -> bool:
    """A layer whose filters each see one input channel."""
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


def _check_by_name(argument: str, value: Any, layers: list[tuple[str, ...]], check: Callable[[str, Any], None]) -> None:
    """`check` passes the value, or each of a dict, and every name in a dict matches one of the layers (each given by
    all its names)."""
    if not isinstance(value, Mapping):
        check(argument, value)
        return
    for key, entry in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{argument}: expected layer names as keys, got {type(key).__name__}")
        check(f"{argument}[{key!r}]", entry)
        if not any(_matches(name, key) for names in layers for name in names):
            listed = ", ".join(names[0] for names in layers) or "none"
            raise ValueError(f"{argument}: {key!r} matches no layer that it can prune; those layers are: {listed}")


def _matches(name: str, entry: str) -> bool:
    return name == entry or fnmatchcase(name, entry)


def _by_name(names: tuple[str, ...], value: Any) -> Any:
    """What a value for all layers, or a dict of them, says about one; None: nothing."""
    if not isinstance(value, Mapping):
        return value
    exact = [value[name] for name in names if name in value]
    matched = [entry for key, entry in value.items() for name in names if fnmatchcase(name, key)]
    return (exact + matched + [None])[0]


def _skip_predicate(skip: Any, modules: list[str], convs: Iterable[tuple[str, ...]]) -> Predicate:
    if not (isinstance(skip, (str, Iterable)) or callable(skip)):
        raise TypeError(f"skip: expected names, fnmatch patterns or predicates, got {type(skip).__name__}")
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


def constraints_of(choice: LayerChoice, patterns: PatternSet | None, balance: str | None) -> list[Constraint]:
    """What the choice asks of its layer's weight; the layer is named in errors. A rate that keeps every kernel asks for
    nothing. `patterns` is None only where no choice wants any."""
    if not choice.pruned:
        return []
    weight = choice.weight
    constraints: list[Constraint] = []
    if choice.patterns:
        assert patterns is not None
        constraints.append(InPatterns(patterns, choice.block))
    if choice.rate is not None:
        try:
            count = kernels_to_keep(weight.shape, choice.rate, balance, choice.block)
        except ValueError as error:
            raise ValueError(f"connectivity: layer '{choice.name}': {error}") from None
        if count < kernels_to_keep(weight.shape, 1, balance, choice.block):
            constraints.append(FewKernels(count, balance, choice.block))
    return constraints


def finite_values(name: str, weight: torch.Tensor) -> Float64:
    """A layer's weights in float64; ValueError names the layer where they are NaN or Inf."""
    try:
        return values_of(weight)
    except ValueError:
        raise ValueError(f"model: the weight of layer '{name}' contains NaN or Inf") from None


# ---- models


def check_model(model: Any) -> None:
    """TypeError unless an nn.Module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")


def check_patterns(patterns: Any) -> None:
    """TypeError unless a PatternSet or None."""
    if patterns is not None and not isinstance(patterns, PatternSet):
        raise TypeError(f"patterns: expected a PatternSet or None, got {type(patterns).__name__}")


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's model, whose names count, inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(model._modules.get("_orig_mod"), nn.Module) and len(model._modules) == 1:
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return model
