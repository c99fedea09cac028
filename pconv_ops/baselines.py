"""What patterns and connectivity are compared with: unstructured and filter pruning, by the same method on the same
layers. (Patterns alone: ADMMPruner(connectivity=None).)

Rates count kept weights: of the 3x3 convolutions that `prune_` would prune, filters without their kernels' channels
included.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .channels import channel_readers
from .constraints import Constraint, FewFilters, FewWeights
from .layers import Rates, Skip, choose_layers, distinct
from .projections import check_rate
from .prune import pruning_of
from .report import PruneReport
from .splitting import SplittingPruner


class _RatePruner(SplittingPruner):
    """Common to both: the layers that patterns would prune, and their rates."""

    def __init__(
        self,
        model: nn.Module,
        rate: Rates,
        skip: Skip = (),
        *,
        rho: float = 1e-2,
        rho_growth: float = 1.2,
        rho_max: float | None = None,
        ramp: int = 0,
    ) -> None:
        super().__init__(model, rho, rho_growth, rho_max, ramp)
        self._choices = choose_layers(self.model, True, self._checked(rate), None, skip=skip)
        self._convs = {name: choice.module for name, choice in distinct(self._choices).items()}
        self._prepare()
        self._start()

    @abstractmethod
    def _checked(self, rate: Any) -> Rates:
        """Keeps what was asked for; returns what names must be looked up for."""

    def _prepare(self) -> None:
        """For what a pruner must know of its layers before it says constraints."""

    def _modules(self) -> Mapping[str, nn.Module]:
        return self._convs

    def _report(self) -> PruneReport:
        return pruning_of(self._choices)


class UnstructuredPruner(_RatePruner):
    """Keeps round(weights / rate) weights of each 3x3 layer, those with the largest magnitude (ADMM-NN, ASPLOS 2019).

    rate >= 1, or rates by layer name as in `prune_` (layers that are not named stay dense); the other arguments, the
    methods and the errors are those of `ADMMPruner`.
    """

    def _checked(self, rate: Any) -> Rates:
        if not isinstance(rate, Mapping):
            check_rate("rate", rate)
        self._uniform: float | None = None if isinstance(rate, Mapping) else float(rate)
        return rate  # type: ignore[no-any-return]

    def _constraints(self, progress: float) -> Mapping[str, Sequence[Constraint]]:
        found: dict[str, Sequence[Constraint]] = {}
        for name, choice in distinct(self._choices).items():
            rate = self._uniform or choice.rate or 1.0  # depthwise layers have no rate of their own
            found[name] = [FewWeights(max(1, round(_weight(choice.module).numel() / rate**progress)))]
        return found


class FilterPruner(_RatePruner):
    """Drops whole filters, those with the smallest L2 norm (Li et al., ICLR 2017), with the kernels that read them.

    Every 3x3 layer whose channels are read by convolutions and linear layers alone (inside residual blocks, not at
    their ends) keeps the same share of its filters, the one that comes nearest to weights / rate kept weights in all
    3x3 layers that `prune_` would prune. finalize() also cuts the kernels that read a dropped filter, and its bias and
    batch normalisation, so that its channel is zero.

    rate >= 1; the other arguments, the methods and the errors are those of `ADMMPruner`. ValueError also for a model
    that torch.fx cannot trace, and for a rate far beyond one filter left in each layer.
    """

    def _checked(self, rate: Any) -> Rates:
        check_rate("rate", rate)
        self._rate = float(rate)
        return None

    def _prepare(self) -> None:
        readers = channel_readers(self.model)
        self._readers = {name: readers[name] for name in self._convs if name in readers}
        self._counts(1.0)

    def _modules(self) -> Mapping[str, nn.Module]:
        return {name: module for name, module in self._convs.items() if name in self._readers}

    def _constraints(self, progress: float) -> Mapping[str, Sequence[Constraint]]:
        return {name: [FewFilters(count)] for name, count in self._counts(progress).items()}

    def _counts(self, progress: float) -> dict[str, int]:
        """Filters to keep of each layer."""
        allowed = sum(_weight(module).numel() for module in self._convs.values()) / self._rate**progress
        modules = self._modules()
        fewest = self._kept(dict.fromkeys(modules, 1))
        if fewest > allowed * 1.5:
            reached = allowed * self._rate**progress / fewest
            raise ValueError(f"rate: one filter left in each layer is {reached:.3g}x fewer weights; got {self._rate:g}")
        steps = 4 * max((len(_weight(module)) for module in modules.values()), default=1)
        choices = [
            {name: max(1, round(len(_weight(module)) * step / steps)) for name, module in modules.items()}
            for step in range(1, steps + 1)
        ]
        return min(choices, key=lambda counts: abs(self._kept(counts) - allowed))

    def _kept(self, counts: Mapping[str, int]) -> int:
        """Weights of the layers when so many filters stay."""
        columns = {reader: counts[name] for name, readers in self._readers.items() for reader in readers.convs}
        kept = 0
        for name, module in self._convs.items():
            filters, channels, *size = _weight(module).shape
            kept += counts.get(name, filters) * columns.get(name, channels) * size[0] * size[1]
        return kept

    def _masks(self) -> dict[tuple[str, str], torch.Tensor]:
        masks = super()._masks()
        for name, readers in self._readers.items():
            stays = masks[name, "weight"].flatten(1).any(1)
            per_channel = [(name, "bias")] + [(norm, what) for norm in readers.norms for what in ("weight", "bias")]
            for owner, parameter in per_channel:
                if self.model.get_submodule(owner)._parameters.get(parameter) is not None:
                    masks[owner, parameter] = stays
            for reader in readers.convs:
                columns = stays[None, :, None, None].expand(_weight(self.model.get_submodule(reader)).shape)
                masks[reader, "weight"] = masks.get((reader, "weight"), columns) & columns
        return masks


def _weight(module: Any) -> torch.Tensor:
    weight: torch.Tensor = module.weight
    return weight
