"""ADMM's splitting of "train, under constraints": the part that all pruners which train share.

    pruner (admm.py, baselines.py): constraints of each layer ----+
                                                                  v
    training loop:  loss + penalty() -> backward -> optimizer     near = nearest weights, dual = what is still missing
                    step() now and then                           new near and dual, next rho, next rates
                    finalize() when it shall be so                weights cut, masks frozen (masks.py)

Knows weights and constraints, nothing of patterns or kernels, and no optimizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .constraints import Constraint, keep_all
from .masks import clear_masked, freeze, kept, thaw
from .projections import check_number, values_of
from .report import PruneReport

_STATE_VERSION = 1


@dataclass
class _Split:
    """A constraint of a weight: the nearest weights that meet it (Z) and the scaled dual (U), fp32."""

    near: torch.Tensor
    dual: torch.Tensor


@dataclass
class _Pull:
    """The sum of n squared distances |W - T_k|^2 as n |W - T|^2 + rest, T the mean of the T_k: one pass, not n."""

    mean: torch.Tensor
    n: int
    rest: float

    @classmethod
    def of(cls, splits: Sequence[_Split]) -> _Pull:
        targets = torch.stack([split.near - split.dual for split in splits])
        mean = targets.mean(0)
        return cls(mean, len(splits), float((targets - mean).double().square().sum()))

    def to(self, weight: torch.Tensor) -> torch.Tensor:
        return self.n * (weight.float() - self.mean).square().sum() + self.rest


@dataclass(frozen=True)
class StepReport:
    """What a step() found: how far each weight is from its constraints, max |W - Z| / |W| of a layer's constraints."""

    step: int
    rho: float  # of the penalty from now on
    residual: dict[str, float]

    @property
    def largest(self) -> float:
        return max(self.residual.values(), default=0.0)


class SplittingPruner(ABC):
    """min f(W) with every weight W_l in the sets S_l1, S_l2, ..., by ADMM with scaled duals (Boyd et al., Foundations
    and Trends in Machine Learning 2011, 3.1.1; for pruning: ADMM-NN, ASPLOS 2019). The public pruners say the rest."""

    def __init__(self, model: nn.Module, rho: float, rho_growth: float, rho_max: float | None, ramp: int) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        check_number("rho", rho, above=0)
        check_number("rho_growth", rho_growth, least=1)
        most = 100 * rho if rho_max is None else rho_max
        check_number("rho_max", most, least=rho)
        if isinstance(ramp, bool) or not isinstance(ramp, int):
            raise TypeError(f"ramp: expected an integer, got {type(ramp).__name__}")
        if ramp < 0:
            raise ValueError(f"ramp: expected a number of steps >= 0, got {ramp}")
        # Names of layers are those of the user's model, whatever wraps it.
        self.model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        self.rho = float(rho)
        self._growth, self._rho_max, self._ramp = float(rho_growth), float(most), ramp
        self._steps = 0
        self._splits: dict[str, list[_Split]] = {}
        self._pulls: dict[str, _Pull] = {}  # of the splits as they are; empty: not computed yet
        self._masked: dict[str, tuple[nn.Module, str]] = {}  # "layer.parameter" of every frozen mask

    # ---- what a pruner says of its model

    @abstractmethod
    def _modules(self) -> Mapping[str, nn.Module]:
        """The layers that are drawn to constraints, by name; no two share a weight."""

    @abstractmethod
    def _constraints(self, progress: float) -> Mapping[str, Sequence[Constraint]]:
        """What is asked of each layer when this share of the ramp is done; 1 asks for all."""

    @abstractmethod
    def _report(self) -> PruneReport:
        """What the layers look like now."""

    def _learn(self) -> None:  # noqa: B027
        """Called before a step asks for constraints, for pruners that learn these from the weights."""

    def _masks(self) -> dict[tuple[str, str], torch.Tensor]:
        """{(layer, parameter): what stays of it} of the weights as they are."""
        constraints = self._constraints(1.0)
        masks = {}
        for name, module in self._modules().items():
            weight = _weight(module)
            keep = keep_all(_finite(name, weight), constraints[name])
            masks[name, "weight"] = torch.from_numpy(keep).to(weight.device)
        return masks

    # ---- the loop's calls

    @property
    def steps(self) -> int:
        """How often step() was called before finalize()."""
        return self._steps

    @property
    def finalized(self) -> bool:
        """Whether the masks are frozen."""
        return bool(self._masked)

    def penalty(self) -> torch.Tensor:
        """rho/2 * sum over layers and constraints of |W - Z + U|^2, a scalar in fp32 to add to the loss; 0 after
        finalize(). With a loss that is divided by k micro-batches divide this by k too."""
        if self.finalized or not self._splits:
            parameter = next(self.model.parameters(), None)
            return torch.zeros((), device=None if parameter is None else parameter.device)
        if not self._pulls:
            self._pulls = {name: _Pull.of(splits) for name, splits in self._splits.items() if splits}
        modules = self._modules()
        terms = [pull.to(_weight(modules[name])) for name, pull in self._pulls.items()]
        return 0.5 * self.rho * torch.stack([term.to(terms[0].device) for term in terms]).sum()

    @torch.no_grad()
    def step(self) -> StepReport:
        """Now and then, after a step of the optimizer: projections, dual update, next rho and rates. Does nothing
        after finalize(). ValueError: a weight is NaN or Inf (the layer is named; nothing is changed)."""
        if self.finalized:
            return StepReport(self._steps, self.rho, {})
        weights = {name: _weight(module).detach().float() for name, module in self._modules().items()}
        for name, weight in weights.items():
            _finite(name, weight)
        residual = {}
        for name, weight in weights.items():
            norm = max(float(weight.norm()), 1e-30)
            residual[name] = max((float((weight - s.near).norm()) / norm for s in self._splits[name]), default=0.0)
        self._steps += 1
        self._project(weights)
        rho = min(self.rho * self._growth, self._rho_max)
        for splits in self._splits.values():
            for split in splits:
                split.dual *= self.rho / rho  # the dual itself stays, its scale is 1/rho (Boyd et al., 3.4.1)
        self.rho, self._pulls = rho, {}
        return StepReport(self._steps, rho, residual)

    @torch.no_grad()
    def finalize(self) -> PruneReport:
        """Cuts the weights, constraint after constraint as in `prune_`, and freezes the masks: from now on gradients
        under a mask are zero after every backward and weights after every step of any torch optimizer, for as long
        as the model lives. A second call changes nothing. ValueError as in step()."""
        if not self.finalized:
            self._freeze(self._masks())
        return self._report()

    def apply_masks(self) -> None:
        """Sets the masked weights to zero again: for optimizers that are not torch's, or after loading weights."""
        clear_masked({module for module, _ in self._masked.values()})

    def release(self) -> None:
        """Lifts the masks; the pruner is done."""
        for module, name in self._masked.values():
            thaw(module, name)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """All that step() and finalize() have made, tensors as copies: with the model's, the optimizer's and the
        generators' states, training goes on bit for bit."""
        splits = {
            name: [{"near": split.near.clone(), "dual": split.dual.clone()} for split in splits]
            for name, splits in self._splits.items()
        }
        masks = {key: kept(*place) for key, place in self._masked.items()}
        return {"version": _STATE_VERSION, "steps": self._steps, "rho": self.rho, "splits": splits, "masks": masks}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state_dict() of a pruner of the same kind, model and arguments; load the model's weights
        first. ValueError, before anything is changed, for a state of anything else."""
        if not isinstance(state, Mapping) or state.get("version") != _STATE_VERSION:
            raise ValueError(f"state: expected version {_STATE_VERSION} of a pruner's state_dict()")
        missing = {"steps", "rho", "splits", "masks"} - set(state)
        if missing:
            raise ValueError(f"state: lacks {', '.join(sorted(missing))}")
        splits = {name: self._loaded(name, state["splits"].get(name)) for name in self._splits}
        unknown = sorted(set(state["splits"]) - set(splits))
        if unknown:
            raise ValueError(f"state: is of another model: no layer '{unknown[0]}' is pruned here")
        masks = {_place(key): self._loaded_mask(key, keep) for key, keep in state["masks"].items()}
        check_number("state['rho']", state["rho"], above=0)
        self.release()
        self._masked = {}
        self._steps, self.rho, self._splits, self._pulls = int(state["steps"]), float(state["rho"]), splits, {}
        self._freeze(masks)

    def _loaded(self, name: str, given: Any) -> list[_Split]:
        have = self._splits[name]
        if given is None or len(given) != len(have):
            raise ValueError(f"state: layer '{name}' has other constraints there")
        device = _weight(self._modules()[name]).device
        loaded = []
        for split, old in zip(given, have, strict=True):
            tensors = [split[key].detach().to(device, torch.float32, copy=True) for key in ("near", "dual")]
            if any(tensor.shape != old.near.shape for tensor in tensors):
                raise ValueError(f"state: layer '{name}' has another shape there")
            loaded.append(_Split(*tensors))
        return loaded

    def _loaded_mask(self, key: str, keep: Any) -> torch.Tensor:
        name, parameter = _place(key)
        try:
            have = self.model.get_submodule(name)._parameters.get(parameter)
        except AttributeError:
            have = None
        if have is None or keep.shape != have.shape or keep.dtype != torch.bool:
            raise ValueError(f"state: the mask of '{key}' does not fit this model")
        return keep

    # ---- inside

    @torch.no_grad()
    def _start(self) -> None:
        """Z = P(W), U = 0: called by the pruner when it knows its layers."""
        weights = {name: _weight(module).detach().float() for name, module in self._modules().items()}
        self._project(weights)
        for splits in self._splits.values():
            for split in splits:
                split.dual.zero_()

    def _project(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Z = P(W + U), U = W + U - Z, for every constraint."""
        self._learn()
        progress = 1.0 if self._steps >= self._ramp else (self._steps + 1) / (self._ramp + 1)
        constraints = self._constraints(progress)
        for name, weight in weights.items():
            before: Sequence[_Split | None] = self._splits.get(name) or [None] * len(constraints[name])
            splits = []
            for constraint, old in zip(constraints[name], before, strict=True):
                moved = weight if old is None else weight + old.dual
                keep = torch.from_numpy(constraint.keep(_finite(name, moved)).copy()).to(moved.device)
                near = moved * keep
                splits.append(_Split(near, moved - near))
            self._splits[name] = splits

    def _freeze(self, masks: Mapping[tuple[str, str], torch.Tensor]) -> None:
        for (name, parameter), keep in masks.items():
            module = self.model.get_submodule(name)
            freeze(module, parameter, keep)
            self._masked[f"{name}.{parameter}"] = (module, parameter)


def _weight(module: nn.Module) -> torch.Tensor:
    return _parameter(module, "weight")


def _parameter(module: nn.Module, name: str) -> torch.Tensor:
    parameter = module._parameters[name]
    assert parameter is not None
    return parameter


def _place(key: str) -> tuple[str, str]:
    name, _, parameter = key.rpartition(".")
    return name, parameter


def _finite(name: str, weight: torch.Tensor) -> Any:
    try:
        return values_of(weight)
    except ValueError:
        raise ValueError(f"model: the weight of layer '{name}' contains NaN or Inf") from None
