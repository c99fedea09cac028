"""ADMMPruner: patterns and connectivity while a model trains.

The way of those who train, beside prune_: ADMMPruner -> finalize -> convert. layers.py chooses the layers by the same
rules, splitting.py has the method; this file says what is asked of each layer, and when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import index
from typing import Any

from torch import nn

from .constraints import Constraint
from .layers import Blocks, LayerChoice, Rates, Skip, choose_layers, constraints_of, distinct
from .patterns import SCP4, PatternSet
from .projections import check_balance
from .prune import pruning_of
from .report import PruneReport
from .splitting import SplittingPruner


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

    model: pre-trained or not; DistributedDataParallel is looked through, all processes find the same masks.
    patterns: a PatternSet (default SCP4: PCONV, eq. 12); an integer k: the k most frequent natural patterns of the
        model (PatDNN, ASPLOS 2020), chosen anew at every step(), so that the set is learnt too; None: no patterns.
    connectivity, connectivity_1x1, block, skip, balance: as in `prune_`. Rates for a budget: `uniform_rate`,
        `sensitivity_scan`.
    rho, rho_growth, rho_max (None: 100 * rho): the penalty's weight, from step to step. 1e-2 is where a public
        re-implementation of PCONV starts (7bvcxz on GitHub, with Adam); public ADMM pruners let it grow tenfold now
        and then. That 1.2 a step and a hundredfold in all did best in 24 steps is measured: docs/TRAINING.md.
    ramp: steps over which rates rise geometrically from the first one's to those asked for (progressive pruning); 0:
        from the start on what is asked for.

    TypeError and ValueError as `prune_`, and for rho <= 0, rho_growth < 1, rho_max < rho, a negative ramp.
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
        rho: float = 1e-2,
        rho_growth: float = 1.2,
        rho_max: float | None = None,
        ramp: int = 0,
    ) -> None:
        super().__init__(model, rho, rho_growth, rho_max, ramp)
        self._learnt = 0 if patterns is None or isinstance(patterns, PatternSet) else _checked_size(patterns)
        self.patterns: PatternSet | None = patterns if isinstance(patterns, PatternSet) else None
        check_balance(balance)
        self._balance = balance
        self._choices = choose_layers(self.model, patterns is not None, connectivity, connectivity_1x1, block, skip)
        self._pruned = distinct(self._choices)
        self._start()

    def _modules(self) -> Mapping[str, nn.Module]:
        return {name: choice.module for name, choice in self._pruned.items()}

    def _learn(self) -> None:
        if self._learnt:
            self.patterns = PatternSet.from_model(self.model, self._learnt)

    def _constraints(self, progress: float) -> Mapping[str, Sequence[Constraint]]:
        return {
            name: constraints_of(_eased(choice, progress), self.patterns, self._balance)
            for name, choice in self._pruned.items()
        }

    def _report(self) -> PruneReport:
        return pruning_of(self._choices)

    def state_dict(self) -> dict[str, Any]:
        patterns = None if self.patterns is None else list(self.patterns.bits)
        return super().state_dict() | {"patterns": patterns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        bits = state.get("patterns")
        self.patterns = None if bits is None else PatternSet(bits)


def _eased(choice: LayerChoice, progress: float) -> LayerChoice:
    """The choice with the rate that it has on the way."""
    return choice if choice.rate is None or progress >= 1 else replace(choice, rate=choice.rate**progress)


def _checked_size(patterns: Any) -> int:
    try:
        return index(patterns)
    except TypeError:
        raise TypeError(
            f"patterns: expected a PatternSet, a number of patterns or None, got {type(patterns).__name__}"
        ) from None
