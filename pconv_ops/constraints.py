"""What pruning asks of one weight, as sets with a projection: patterns, kernels, single weights, whole filters.

Between projections.py, which computes, and the pruners: prune.py meets a layer's constraints one after another, once;
splitting.py draws the weights towards them during training. A constraint knows no layer and no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .patterns import PatternSet
from .projections import Float64, Keep, connectivity_keep, pattern_keep


class Constraint(Protocol):
    """A set of weights [OC, IC/groups, kh, kw] that is closed under setting weights to zero."""

    def keep(self, values: Float64) -> Keep:
        """Which of these finite weights stay, bool of the same shape: `values * keep` are the nearest weights (least
        squares) of the set, and are kept as they are by another call."""
        ...


@dataclass(frozen=True)
class InPatterns:
    """Each 3x3 kernel lies within a pattern of the set, the same for `block` consecutive filters."""

    patterns: PatternSet
    block: int = 1

    def keep(self, values: Float64) -> Keep:
        return pattern_keep(values, self.patterns, self.block)


@dataclass(frozen=True)
class FewKernels:
    """At most `count` kernels (rows of `block` kernels; balance="filter": of each filter) are not all zero."""

    count: int
    balance: str | None = None
    block: int = 1

    def keep(self, values: Float64) -> Keep:
        kernels = connectivity_keep(values, self.count, self.balance, self.block)
        return np.broadcast_to(kernels[:, :, None, None], values.shape)


@dataclass(frozen=True)
class FewWeights:
    """At most `count` weights are not zero (unstructured magnitude pruning, Han et al., NeurIPS 2015)."""

    count: int

    def keep(self, values: Float64) -> Keep:
        # Each weight as a kernel of its own: the same choice of the largest, ties by lowest index.
        return connectivity_keep(values.reshape(1, -1, 1, 1), self.count).reshape(values.shape)


@dataclass(frozen=True)
class FewFilters:
    """At most `count` filters are not all zero (filter pruning, Li et al., ICLR 2017, by L2 norm)."""

    count: int

    def keep(self, values: Float64) -> Keep:
        filters = connectivity_keep(values.reshape(len(values), 1, -1, 1), self.count)
        return np.broadcast_to(filters[:, :, None, None], values.shape)


def keep_all(values: Float64, constraints: Iterable[Constraint]) -> Keep:
    """Which weights stay when the constraints are met one after another, in their order."""
    keep = np.ones(values.shape, dtype=bool)
    for constraint in constraints:
        keep &= constraint.keep(values * keep)
    return keep
