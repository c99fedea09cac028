"""The rows of the table: ways of pruning a trained network, each as a pruner with the same schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from pconv_ops import ADMMPruner, PatternSet
from pconv_ops.baselines import FilterPruner, UnstructuredPruner
from pconv_ops.sensitivity import sensitivity_scan
from pconv_ops.splitting import SplittingPruner

# A pattern keeps 4 of 9 weights.
PATTERN_RATE = 9 / 4


# A function that scores a network, higher is better.
Score = Callable[[nn.Module], float]
Build = Callable[[nn.Module, Score], SplittingPruner]


@dataclass(frozen=True)
class Scheme:
    """A way of pruning; `rate`: weights of the prunable convolutions / kept ones. `build` None: nothing is pruned."""

    name: str
    label: str
    rate: float
    build: Build | None


def _patterns(k: int) -> Build:
    """Patterns alone: the four SCPs, or the k most frequent natural patterns of the trained network."""
    if k == 4:
        return lambda model, score: ADMMPruner(model, connectivity=None)
    return lambda model, score: ADMMPruner(model, PatternSet.from_model(model, k), connectivity=None)


def _pconv(total: float, block: int = 1) -> Build:
    """Patterns and kernels: each layer has the rate that a scan finds for it."""
    return lambda model, score: ADMMPruner(
        model, connectivity=sensitivity_scan(model, score, block=block).rates(total), block=block
    )


def _unstructured(total: float) -> Build:
    """As many weights in each layer as PCONV keeps there."""

    def build(model: nn.Module, score: Score) -> SplittingPruner:
        rates = sensitivity_scan(model, score).rates(total)
        return UnstructuredPruner(model, {name: PATTERN_RATE * rate for name, rate in rates.items()})

    return build


def _filters(total: float) -> Build:
    return lambda model, score: FilterPruner(model, total)


def _schemes() -> list[Scheme]:
    totals = (5.0, 8.0, 12.0)
    rows = [Scheme("dense", "dense", 1, None), Scheme("dense_longer", "dense, trained as long", 1, None)]
    rows += [Scheme(f"pattern{k}", f"{k} patterns", PATTERN_RATE, _patterns(k)) for k in (4, 8, 12)]
    rows += [Scheme(f"pconv{t:g}", "PCONV: 4 patterns, kernels", t, _pconv(t)) for t in totals]
    rows += [Scheme("block8", "PCONV in blocks of 4 filters", 8, _pconv(8, block=4))]
    rows += [Scheme(f"unstructured{t:g}", "single weights", t, _unstructured(t)) for t in totals]
    rows += [Scheme(f"filter{t:g}", "whole filters", t, _filters(t)) for t in totals]
    return rows


SCHEMES = {scheme.name: scheme for scheme in _schemes()}
