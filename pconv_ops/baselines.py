"""What patterns and connectivity are compared with: unstructured and filter pruning, by the same method on the same
layers. (Patterns alone: ADMMPruner(connectivity=None).)

A rate is that of all weights to kept ones in the 3x3 convolutions that `prune_` would prune, so 8 here is 2.25 x 3.56
there. A dropped filter counts with the kernels that read its channel, which go with it.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .channels import channel_readers
from .constraints import Constraint, FewFilters, FewWeights
from .layers import SKIPPED, LayerChoice, Rates, Skip, choose_layers
from .projections import check_rate
from .splitting import RHO, RHO_GROWTH, SplittingPruner


class _RatePruner(SplittingPruner):
    """Common to both: the layers that patterns would prune, and their rates."""

    def __init__(
        self,
        model: nn.Module,
        rate: Rates,
        skip: Skip = (),
        *,
        rho: float = RHO,
        rho_growth: float = RHO_GROWTH,
        rho_max: float | None = None,
        ramp: int = 0,
    ) -> None:
        super().__init__(model, rho, rho_growth, rho_max, ramp)
        self._start(self._chosen(rate, skip))

    @abstractmethod
    def _chosen(self, rate: Any, skip: Skip) -> list[LayerChoice]:
        """Every convolution, with what its report says."""


class UnstructuredPruner(_RatePruner):
    """Keeps round(weights / rate) weights of each 3x3 layer, those with the largest magnitude (ADMM-NN, ASPLOS 2019).

    rate >= 1, or rates by layer name as in `prune_` (layers that are not named stay dense); the other arguments, the
    methods and the errors are those of `ADMMPruner`.
    """

    def _chosen(self, rate: Any, skip: Skip) -> list[LayerChoice]:
        if not isinstance(rate, Mapping):
            check_rate("rate", rate)
        choices = []
        for choice in choose_layers(self.model, True, rate, None, skip=skip, argument="rate"):
            if choice.patterns:  # depthwise layers, which lose no kernels, have no rate of their own
                own = choice.rate if isinstance(rate, Mapping) else float(rate)
                own = None if own == 1 else own
                reason = "dense: no rate" if own is None else f"single weights {own:g}x"
                choice = replace(choice, patterns=False, rate=own, reason=reason)
            choices.append(choice)
        return choices

    def _constraints(self, progress: float) -> Mapping[str, Sequence[Constraint]]:
        return {name: [FewWeights(_count(choice, progress))] for name, choice in self._pruned.items()}

    def _arguments(self) -> dict[str, Any]:
        return {"layers": {name: choice.rate for name, choice in self._pruned.items()}}


def _count(choice: LayerChoice, progress: float) -> int:
    """Weights to keep of a layer."""
    assert choice.rate is not None
    total, rate = choice.weight.numel(), choice.rate**progress
    if round(total / rate) < 1:
        raise ValueError(f"rate: layer '{choice.name}': {rate:g} keeps none of its weights; allowed: below {2 * total}")
    return round(total / rate)


class FilterPruner(_RatePruner):
    """Drops whole filters, those with the smallest L2 norm (Li et al., ICLR 2017), with the kernels that read them.

    Every 3x3 layer whose channels are read by convolutions and linear layers alone (inside residual blocks, not at
    their ends) keeps the same share of its filters, the one that comes nearest to weights / rate kept weights in all
    3x3 layers that `prune_` would prune. finalize() also cuts the kernels that read a dropped filter, and its bias and
    batch normalisation, so that its channel is zero.

    rate >= 1; the other arguments, the methods and the errors are those of `ADMMPruner`. ValueError also for a model
    that torch.fx cannot trace, one without filters that can go, and a rate far beyond one filter left in each layer. A
    skipped layer keeps its weights, so the filters that it reads stay.
    """

    def _chosen(self, rate: Any, skip: Skip) -> list[LayerChoice]:
        check_rate("rate", rate)
        self._rate = float(rate)
        choices = choose_layers(self.model, True, None, None, skip=skip)
        skipped = {name for choice in choices if choice.reason == SKIPPED for name in choice.names}
        self._readers = channel_readers(self.model, skipped)
        return [
            replace(choice, reason="whole filters" if choice.name in self._readers else "channels of dropped filters")
            if choice.patterns
            else choice
            for choice in choices
        ]

    def _modules(self) -> Mapping[str, nn.Module]:
        return {name: choice.module for name, choice in self._pruned.items() if name in self._readers}

    def _constraints(self, progress: float) -> Mapping[str, Sequence[Constraint]]:
        filters = {name: len(weight) for name, weight in self._weights().items()}
        counts = self._counts(progress)
        return {name: [FewFilters(counts[name])] if counts[name] < n else [] for name, n in filters.items()}

    def _arguments(self) -> dict[str, Any]:
        return {"rate": self._rate, "layers": sorted(self._modules())}

    def _counts(self, progress: float) -> dict[str, int]:
        """Filters to keep of each layer: the share that comes nearest to the weights allowed, by bisection."""
        filters = {name: len(weight) for name, weight in self._weights().items()}
        total = self._weights_kept(filters)
        if self._rate > 1 and not filters:
            raise ValueError(
                "rate: this model has no filters that can go: it has no 3x3 layer to prune, or others than convolutions"
                " and linear layers read every channel"
            )
        fewest = self._weights_kept(dict.fromkeys(filters, 1))
        if fewest * self._rate > 1.5 * total:
            reach = total / fewest
            raise ValueError(f"rate: one filter left in each layer is {reach:.3g}x fewer weights; got {self._rate:g}")

        def counts(share: int) -> dict[str, int]:
            return {name: max(1, round(n * share / steps)) for name, n in filters.items()}

        allowed, steps = total / self._rate**progress, 4 * max(filters.values(), default=1)
        at_least = bisect_left(range(1, steps + 1), allowed, key=lambda share: self._weights_kept(counts(share))) + 1
        near = [counts(share) for share in (at_least - 1, at_least) if 1 <= share <= steps]
        return min(near, key=lambda found: abs(self._weights_kept(found) - allowed))

    def _weights_kept(self, counts: Mapping[str, int]) -> int:
        """Weights of the layers when so many filters stay."""
        columns = {reader: counts[name] for name in counts for reader in self._readers[name].convs}
        kept = 0
        for name, choice in self._pruned.items():
            filters, channels, *size = choice.weight.shape
            kept += counts.get(name, filters) * columns.get(name, channels) * size[0] * size[1]
        return kept

    def _kept_of(self) -> dict[tuple[str, str], torch.Tensor]:
        masks = super()._kept_of()
        for name, weight in [(layer, keep) for (layer, _), keep in masks.items()]:
            readers = self._readers[name]
            stays = weight.flatten(1).any(1)
            per_channel = [(name, "bias")] + [(norm, what) for norm in readers.norms for what in ("weight", "bias")]
            for owner, parameter in per_channel:
                if self.model.get_submodule(owner)._parameters.get(parameter) is not None:
                    masks[owner, parameter] = stays
            for reader in readers.convs:
                shape = self.model.get_parameter(f"{reader}.weight").shape
                columns = stays[None, :, None, None].expand(shape)
                masks[reader, "weight"] = masks.get((reader, "weight"), columns) & columns
        return masks
