"""The rows of the table: ways of pruning a trained network, each as a pruner with the same schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from pconv_ops import ADMMPruner, PatternSet
from pconv_ops.baselines import FilterPruner, UnstructuredPruner
from pconv_ops.splitting import SplittingPruner

# A pattern keeps 4 of 9 weights.
PATTERN_RATE = 9 / 4


@dataclass(frozen=True)
class Scheme:
    """A way of pruning; `rate`: weights of the prunable convolutions / kept ones. `build` None: nothing is pruned."""

    name: str
    label: str
    rate: float
    build: Callable[[nn.Module], SplittingPruner] | None


def _pconv(rate: float, block: int = 1) -> Callable[[nn.Module], SplittingPruner]:
    return lambda model: ADMMPruner(model, connectivity=rate / PATTERN_RATE, block=block)


def _patterns(k: int) -> Callable[[nn.Module], SplittingPruner]:
    """Patterns alone: the four SCPs, or the k most frequent natural patterns of the trained network."""
    if k == 4:
        return lambda model: ADMMPruner(model, connectivity=None)
    return lambda model: ADMMPruner(model, PatternSet.from_model(model, k), connectivity=None)


def _baseline(
    kind: type[UnstructuredPruner] | type[FilterPruner], rate: float
) -> Callable[[nn.Module], SplittingPruner]:
    return lambda model: kind(model, rate)


def _schemes() -> list[Scheme]:
    rates = (5.0, 8.0, 12.0)
    rows = [Scheme("dense", "dense", 1, None), Scheme("dense_longer", "dense, trained as long", 1, None)]
    rows += [Scheme(f"pattern{k}", f"{k} patterns", PATTERN_RATE, _patterns(k)) for k in (4, 8, 12)]
    rows += [Scheme(f"pconv{r:g}", "PCONV: 4 patterns, kernels", r, _pconv(r)) for r in rates]
    rows += [Scheme("block8", "PCONV in blocks of 4 filters", 8, _pconv(8, block=4))]
    rows += [Scheme(f"unstructured{r:g}", "single weights", r, _baseline(UnstructuredPruner, r)) for r in rates]
    rows += [Scheme(f"filter{r:g}", "whole filters", r, _baseline(FilterPruner, r)) for r in rates]
    return rows


SCHEMES = {scheme.name: scheme for scheme in _schemes()}
