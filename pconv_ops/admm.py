"""ADMMPruner: patterns and connectivity while a model trains.

The way of those who train, beside prune_: ADMMPruner -> finalize -> convert. layers.py chooses the layers by the same
rules, splitting.py has the method; this file says what is asked of each layer, and when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .constraints import Constraint
from .layers import Blocks, LayerChoice, Rates, Skip, choose_layers, constraints_of, finite_values
from .patterns import MAX_NATURAL, SCP4, PatternSet
from .projections import check_balance, checked_integer
from .splitting import RHO, RHO_GROWTH, SplittingPruner


class ADMMPruner(SplittingPruner):
    """Trains a model towards patterns and connectivity, then cuts it there (PCONV, AAAI 2020, section 4.3).

    The problem is min f(W) with every 3x3 kernel of W_l within a pattern (the set S_l) and few kernels of W_l not zero
    (the set S'_l). ADMM-NN's splitting (Ren et al., ASPLOS 2019), with one copy of the weights for each set, Z_l in S_l
    and Y_l in S'_l, and scaled duals U_l, V_l:

        W    <-  argmin f(W) + sum_l rho/2 |W_l - Z_l + U_l|^2 + rho/2 |W_l - Y_l + V_l|^2    your loop, some batches
        Z_l  <-  P_S (W_l + U_l),     Y_l  <-  P_S'(W_l + V_l)                                \\
        U_l  <-  U_l + W_l - Z_l,     V_l  <-  V_l + W_l - Y_l                                 } step()
        rho  <-  min(rho * rho_growth, rho_max)         (U, V scaled by old rho / new rho)    /

    penalty() is the two sums, P are the projections of `prune_` (each the nearest weights by least squares). finalize()
    cuts W to its pattern, then to its kernels, and freezes the masks. Train on after it.

        pruner = ADMMPruner(model, connectivity=3.56)          # after DistributedDataParallel, if that is used
        for epoch in range(10):
            for i, (x, y) in enumerate(batches):
                optimizer.zero_grad()
                (cross_entropy(model(x), y) + pruner.penalty()).backward()
                optimizer.step()
                if i % 60 == 59:
                    pruner.step()
            if epoch == 2:
                pruner.finalize()

    step() is meant to be called 20 to 30 times before the cut: once an epoch in long trainings, as ADMM-NN does, and
    several times an epoch in short ones.

    model: pre-trained or not; DistributedDataParallel, DataParallel and torch.compile are looked through. All processes
        find the same masks.
    patterns: a PatternSet (default SCP4: PCONV, eq. 12); an integer k: the k most frequent natural patterns of the
        layers that get patterns (PatDNN, ASPLOS 2020), chosen anew at every step(), so that the set is learnt too;
        None: no patterns.
    connectivity, connectivity_1x1, block, skip, balance: as in `prune_`. Rates for a budget: `uniform_rate`,
        `sensitivity_scan`.
    rho, rho_growth, rho_max (None: 100 * rho): the penalty's weight, from step to step. 1e-2 is where a public
        re-implementation of PCONV starts (7bvcxz on GitHub, with Adam); public ADMM pruners let it grow tenfold now
        and then. That 1.2 a step and a hundredfold in all did best in 24 steps is measured: docs/TRAINING.md.
    ramp: progressive pruning: after k < ramp steps a layer's rate is rate ** ((k + 1) / (ramp + 1)); 0: from the start
        on what is asked for.

    Attributes: `patterns`, the set in use (the learnt one too); `rho`; `steps`; `finalized`; `model`. A layer whose
    rate keeps every kernel, without patterns, is left alone. Warned of: nothing to prune, and a cut without a step.
    TypeError and ValueError as `prune_`, at once, and for rho <= 0, rho_growth < 1, rho_max < rho, a negative ramp.
    """

    def __init__(
        self,
        model: nn.Module,
        patterns: PatternSet | int | None = SCP4,
        connectivity: Rates = 3.1,
        connectivity_1x1: Rates = None,
        block: Blocks = 1,
        skip: Skip = (),
        balance: str | None = None,
        *,
        rho: float = RHO,
        rho_growth: float = RHO_GROWTH,
        rho_max: float | None = None,
        ramp: int = 0,
    ) -> None:
        super().__init__(model, rho, rho_growth, rho_max, ramp)
        learnt = patterns is not None and not isinstance(patterns, PatternSet)
        self._learnt: int | None = _checked_size(patterns) if learnt else None
        self.patterns: PatternSet | None = patterns if isinstance(patterns, PatternSet) else None
        check_balance(balance)
        self._balance = balance
        self._start(choose_layers(self.model, patterns is not None, connectivity, connectivity_1x1, block, skip))

    def _learn(self, weights: Mapping[str, torch.Tensor]) -> None:
        if self._learnt is None:
            return
        layers = {name: finite_values(name, weight) for name, weight in weights.items() if self._pruned[name].patterns}
        if layers:
            self.patterns = PatternSet.from_weights(layers, self._learnt)

    def _constraints(self, progress: float) -> Mapping[str, Sequence[Constraint]]:
        return {
            name: constraints_of(_eased(choice, progress), self.patterns, self._balance)
            for name, choice in self._pruned.items()
        }

    def _arguments(self) -> dict[str, Any]:
        bits = None if self.patterns is None else list(self.patterns.bits)
        return {
            "layers": {name: [c.patterns, c.rate, c.block] for name, c in self._pruned.items()},
            "patterns": bits if self._learnt is None else self._learnt,
            "balance": self._balance,
        }

    def state_dict(self) -> dict[str, Any]:
        learnt = None if self._learnt is None or self.patterns is None else list(self.patterns.bits)
        return super().state_dict() | {"learnt": learnt}

    def _restore(self, state: Mapping[str, Any]) -> None:
        if self._learnt is not None and state.get("learnt") is not None:
            try:
                self.patterns = PatternSet(state["learnt"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"state: does not fit: its patterns: {error}") from None


def _eased(choice: LayerChoice, progress: float) -> LayerChoice:
    """The choice with the rate that it has on the way."""
    return choice if choice.rate is None or progress >= 1 else replace(choice, rate=choice.rate**progress)


def _checked_size(patterns: Any) -> int:
    size = checked_integer("patterns", patterns, "a PatternSet, a number of patterns or None")
    if not 1 <= size <= MAX_NATURAL:
        raise ValueError(f"patterns: expected a number of natural patterns in 1..{MAX_NATURAL}, got {size}")
    return size
