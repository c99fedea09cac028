"""ADMM's splitting of "train, under constraints": the part that all pruners which train share.

    pruner (admm.py, baselines.py): constraints of each layer ----+
                                                                  v
    training loop:  loss + penalty() -> backward -> optimizer     near = nearest weights, dual = what is still missing
                    step() now and then                           new near and dual, next rho, next rates
                    finalize() when it shall be so                weights cut, masks frozen (masks.py)

Knows weights and constraints, nothing of patterns or kernels, and no optimizer.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import nn

from .constraints import Constraint, keep_all
from .layers import LayerChoice, check_model, distinct, finite_values, unwrapped
from .masks import Mask, clear_masked, freeze, thaw
from .projections import check_number, checked_integer
from .prune import pruning_of
from .report import PruneReport

RHO, RHO_GROWTH = 1e-2, 1.2  # defaults of every pruner; see ADMMPruner
_STATE_VERSION = 1


@dataclass
class _Split:
    """A constraint of a weight: the nearest weights that meet it (Z) and the scaled dual (U), fp32."""

    near: torch.Tensor
    dual: torch.Tensor

    def to(self, device: torch.device) -> _Split:
        return _Split(self.near.to(device), self.dual.to(device))


# By the name of the constraint's class: a weight has at most one constraint of a kind, some come with a higher rate.
_Splits = dict[str, _Split]


@dataclass
class _Pull:
    """The sum of n squared distances |W - T_k|^2 as n |W - T|^2 + rest, T the mean of the T_k: one pass, not n."""

    mean: torch.Tensor
    n: int
    rest: float

    @classmethod
    def of(cls, splits: _Splits, device: torch.device) -> _Pull:
        targets = torch.stack([(split.near - split.dual).to(device) for split in splits.values()])
        mean = targets.mean(0)
        return cls(mean, len(splits), float((targets - mean).cpu().double().square().sum()))

    def distance(self, weight: torch.Tensor) -> torch.Tensor:
        return self.n * (weight.float() - self.mean).square().sum() + self.rest


@dataclass(frozen=True)
class StepReport:
    """What a step() found: how far each weight is from its constraints, max |W - Z| / |W| of a layer's constraints."""

    step: int
    rho: float  # of the penalty from now on
    residual: dict[str, float]

    @property
    def largest(self) -> float:
        """Of the layers' residuals: around 1 at first, 0 where every weight meets its constraints."""
        return max(self.residual.values(), default=0.0)


class SplittingPruner(ABC):
    """min f(W) with every weight W_l in the sets S_l1, S_l2, ..., by ADMM with scaled duals (Boyd et al., Foundations
    and Trends in Machine Learning 2011, 3.1.1; for pruning: ADMM-NN, ASPLOS 2019). The public pruners say the rest."""

    def __init__(self, model: nn.Module, rho: float, rho_growth: float, rho_max: float | None, ramp: int) -> None:
        check_model(model)
        check_number("rho", rho, above=0)
        check_number("rho_growth", rho_growth, least=1)
        most = 100 * rho if rho_max is None else rho_max
        check_number("rho_max", most, least=rho)
        self.model = unwrapped(model)
        self.rho = float(rho)
        self._growth, self._rho_max, self._ramp = float(rho_growth), float(most), _checked_ramp(ramp)
        self._choices: list[LayerChoice] = []  # every convolution, with what its report says
        self._pruned: dict[str, LayerChoice] = {}  # those that the pruner is about; no two share a weight
        self._steps = 0
        self._finalized = False
        self._splits: dict[str, _Splits] = {}  # of each layer; empty after finalize()
        self._pulls: dict[str, _Pull] = {}  # of the splits as they are, as far as computed
        self._masked: dict[str, tuple[nn.Module, str, Mask]] = {}  # by "layer.parameter"

    # ---- what a pruner says of its model

    def _modules(self) -> Mapping[str, nn.Module]:
        """The layers that are drawn to constraints, by name."""
        return {name: choice.module for name, choice in self._pruned.items()}

    @abstractmethod
    def _constraints(self, progress: float) -> Mapping[str, Sequence[Constraint]]:
        """What is asked of each layer when this share of the ramp is done; 1 asks for all."""

    @abstractmethod
    def _arguments(self) -> dict[str, Any]:
        """What must be equal where a state goes on, as plain types."""

    def _learn(self, weights: Mapping[str, torch.Tensor]) -> None:  # noqa: B027
        """Called before a step asks for constraints, for pruners that learn these from the weights."""

    def _kept_of(self) -> dict[tuple[str, str], torch.Tensor]:
        """{(layer, parameter): what stays of it} when the weights are cut as they are."""
        constraints = self._constraints(1.0)
        kept = {}
        for name, weight in self._weights().items():
            values = finite_values(name, weight)
            if constraints[name]:
                kept[name, "weight"] = torch.from_numpy(keep_all(values, constraints[name])).to(weight.device)
        return kept

    # ---- the loop's calls

    @property
    def steps(self) -> int:
        """How often step() was called before finalize()."""
        return self._steps

    @property
    def finalized(self) -> bool:
        """Whether the weights are cut."""
        return self._finalized

    def penalty(self) -> torch.Tensor:
        """rho/2 * sum over layers and constraints of |W - Z + U|^2, a scalar in fp32 to add to the loss; 0 after
        finalize(). With a loss that is divided by k micro-batches divide this by k too."""
        weights = {name: weight for name, weight in self._weights().items() if self._splits.get(name)}
        terms = [self._pull(name, weight).distance(weight) for name, weight in weights.items()]
        if not terms:
            parameter = next(self.model.parameters(), None)
            return torch.zeros((), device=None if parameter is None else parameter.device, requires_grad=True)
        return 0.5 * self.rho * torch.stack([term.to(terms[0].device) for term in terms]).sum()

    @torch.no_grad()
    def step(self) -> StepReport:
        """Now and then, after a step of the optimizer: projections, dual update, next rho and rates. Does nothing
        after finalize(). ValueError: a weight is NaN or Inf (the layer is named; nothing is changed)."""
        if self._finalized:
            return StepReport(self._steps, self.rho, {})
        weights = self._weights()
        splits = self._projected(weights, self._steps + 1)
        residual = {}
        for name, weight in weights.items():
            nears = [split.near.to(weight.device) for split in self._splits.get(name, {}).values()]
            farthest = max((float((weight - near).norm()) for near in nears), default=0.0)
            residual[name] = farthest / max(float(weight.norm()), 1e-30)
        rho = min(self.rho * self._growth, self._rho_max)
        for of_layer in splits.values():
            for split in of_layer.values():
                split.dual *= self.rho / rho  # the dual itself stays, its scale is 1/rho (Boyd et al., 3.4.1)
        self._splits, self._pulls, self.rho = splits, {}, rho
        self._steps += 1
        return StepReport(self._steps, rho, residual)

    @torch.no_grad()
    def finalize(self) -> PruneReport:
        """Cuts the weights, constraint after constraint as in `prune_`, and freezes the masks: from now on gradients
        under a mask are zero after every backward and weights after every step of any torch optimizer, for as long
        as the model lives. A second call changes nothing. ValueError as in step()."""
        if not self._finalized:
            if self._steps == 0 and self._modules():
                warnings.warn("finalize() without a step(): the weights were not drawn anywhere", stacklevel=3)
            self._freeze(self._kept_of())
        return pruning_of(self._choices)

    def apply_masks(self) -> None:
        """Sets the masked weights to zero again: for optimizers that are not torch's, or after loading weights."""
        clear_masked({module for module, _, _ in self._masked.values()})

    def release(self) -> None:
        """Lifts the masks of finalize(), for good, but not those that another pruner has laid over them since."""
        for module, name, mask in self._masked.values():
            thaw(module, name, mask)
        self._masked = {}

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """All that step() and finalize() have made, tensors as copies: with the model's, the optimizer's and the
        generators' states, training goes on bit for bit."""
        splits = {
            name: {kind: {"near": one.near.clone(), "dual": one.dual.clone()} for kind, one in of_layer.items()}
            for name, of_layer in self._splits.items()
        }
        masks = {key: mask.keep for key, (_, _, mask) in self._masked.items()}
        counted = {"version": _STATE_VERSION, "steps": self._steps, "rho": self.rho, "finalized": self._finalized}
        return counted | {"arguments": self._all_arguments(), "splits": splits, "masks": masks}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state_dict() of a pruner of the same kind, model and arguments; load the model's weights
        first. ValueError, before anything is changed, for a state of anything else."""
        if not isinstance(state, Mapping) or state.get("version") != _STATE_VERSION:
            raise ValueError(f"state: expected version {_STATE_VERSION} of a pruner's state_dict()")
        ours, theirs = self._all_arguments(), state.get("arguments")
        if not isinstance(theirs, Mapping) or theirs != ours:
            known = theirs if isinstance(theirs, Mapping) else {}
            key = next((key for key in ours if known.get(key) != ours[key]), "pruner")
            raise ValueError(f"state: was made with other arguments: {key} {known.get(key)}, here {ours[key]}")
        try:
            splits = {name: self._read_splits(name, given) for name, given in dict(state["splits"]).items()}
            kept = {_place(key): self._read_mask(key, keep) for key, keep in dict(state["masks"]).items()}
            steps, rho, finalized = index(state["steps"]), float(state["rho"]), bool(state["finalized"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state: does not fit: {error}") from None
        if steps < 0 or not rho > 0 or set(splits) != (set() if finalized else set(self._modules())):
            raise ValueError("state: steps, rho and layers do not fit each other")
        self._restore(state)
        self.release()
        self._steps, self.rho, self._splits, self._pulls, self._finalized = steps, rho, splits, {}, False
        if finalized:
            self._freeze(kept)

    def _restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Takes what a pruner itself has added to the state; ValueError before anything is changed."""

    def _all_arguments(self) -> dict[str, Any]:
        shared = {"rho_growth": self._growth, "rho_max": self._rho_max, "ramp": self._ramp}
        return {"pruner": type(self).__name__} | self._arguments() | shared

    def _read_splits(self, name: str, given: Mapping[str, Any]) -> _Splits:
        weight = self._weights()[name]
        found = {}
        for kind, tensors in dict(given).items():
            near, dual = (tensors[key].detach().to(weight.device, torch.float32, copy=True) for key in ("near", "dual"))
            if not near.shape == dual.shape == weight.shape:
                raise ValueError(f"layer '{name}' has another shape in this model")
            found[str(kind)] = _Split(near, dual)
        return found

    def _read_mask(self, key: str, keep: torch.Tensor) -> torch.Tensor:
        name, parameter = _place(key)
        have = self.model.get_submodule(name)._parameters.get(parameter)
        if have is None or keep.shape != have.shape or keep.dtype != torch.bool:
            raise ValueError(f"the mask of '{key}' does not fit this model")
        return keep

    # ---- inside

    @torch.no_grad()
    def _start(self, choices: list[LayerChoice]) -> None:
        """Z = P(W), U = 0: called by the pruner when it knows its layers. What is impossible is said now, not when the
        ramp gets there."""
        self._choices, self._pruned = choices, distinct(choices)
        weights = self._weights()
        if not weights:
            warnings.warn("this pruner has nothing to prune: no layer of the model was chosen", stacklevel=4)
        self._splits = self._projected(weights, 0)
        self._constraints(1.0)
        for of_layer in self._splits.values():
            for split in of_layer.values():
                split.dual.zero_()

    def _weights(self) -> dict[str, torch.Tensor]:
        found = {}
        for name, module in self._modules().items():
            weight = module._parameters.get("weight")
            if weight is None:
                raise ValueError(
                    f"model: layer '{name}' computes its weight now (a parametrization): remove that first"
                )
            found[name] = weight
        return found

    def _pull(self, name: str, weight: torch.Tensor) -> _Pull:
        pull = self._pulls.get(name)
        if pull is None or pull.mean.device != weight.device:
            pull = self._pulls[name] = _Pull.of(self._splits[name], weight.device)
        return pull

    def _projected(self, weights: Mapping[str, torch.Tensor], steps: int) -> dict[str, _Splits]:
        """Z = P(W + U), U = W + U - Z, for every constraint after so many steps."""
        self._learn(weights)
        constraints = self._constraints(1.0 if steps >= self._ramp else (steps + 1) / (self._ramp + 1))
        found: dict[str, _Splits] = {}
        for name, weight in weights.items():
            before, found[name] = self._splits.get(name, {}), {}
            for constraint in constraints[name]:
                kind = type(constraint).__name__
                moved = weight.detach().float()
                if kind in before:
                    moved = moved + before[kind].to(weight.device).dual
                keep = constraint.keep(finite_values(name, moved))
                near = moved * torch.from_numpy(keep.copy()).to(weight.device)
                found[name][kind] = _Split(near, moved - near)
        return found

    def _freeze(self, kept: Mapping[tuple[str, str], torch.Tensor]) -> None:
        places = [(name, parameter, self.model.get_submodule(name), keep) for (name, parameter), keep in kept.items()]
        for name, parameter, module, keep in places:
            self._masked[f"{name}.{parameter}"] = (module, parameter, freeze(module, parameter, keep))
        self._finalized, self._splits, self._pulls = True, {}, {}


def _checked_ramp(ramp: Any) -> int:
    steps = checked_integer("ramp", ramp)
    if steps < 0:
        raise ValueError(f"ramp: expected a number of steps >= 0, got {steps}")
    return steps


def _place(key: str) -> tuple[str, str]:
    name, _, parameter = key.rpartition(".")
    return name, parameter
