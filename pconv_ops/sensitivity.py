"""Connectivity rates from a budget: one for all layers, or one for each by how much it can lose.

Before training: budget -> rates -> ADMMPruner or prune_. Needs nothing but the model and a function that scores it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from .constraints import keep_all
from .layers import (
    Blocks,
    LayerChoice,
    Skip,
    check_model,
    check_patterns,
    choose_layers,
    constraints_of,
    distinct,
    finite_values,
    unwrapped,
)
from .patterns import SCP4, PatternSet
from .projections import Keep, check_balance, check_number, check_rate, kernels_to_keep
from .report import Report, format_table

RATES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)


def uniform_rate(model: nn.Module, total: float, patterns: PatternSet | None = SCP4, skip: Skip = ()) -> float:
    """The connectivity rate, the same for every layer, with which 1 of `total` weights stays in the convolutions that
    `prune_` would prune: 3x3, without the stem. (2.25 x 3.56 = 8 with four taps of nine.)

    ValueError when patterns alone keep fewer, or when what may not lose kernels (depthwise layers) keeps more.
    """
    check_rate("total", total)
    choices = _choices(model, patterns, 1, skip)
    weights = sum(choice.weight.numel() for choice in choices.values())
    kept = {name: int(_keep(choice, patterns, None, None).sum()) for name, choice in choices.items()}
    fixed = sum(kept[name] for name, choice in choices.items() if choice.rate is None)
    prunable, allowed = sum(kept.values()) - fixed, weights / total
    if not choices:
        raise ValueError("model: has no layer that could be pruned")
    if not fixed < allowed <= fixed + prunable:
        reach = f"{weights / max(1, fixed + prunable):.3g} to {weights / fixed if fixed else prunable:.3g}"
        raise ValueError(f"total: {total:g} cannot be had by dropping kernels of this model; {reach} can")
    rate = prunable / (allowed - fixed)
    for name, choice in choices.items():
        if choice.rate is not None:
            try:
                kernels_to_keep(choice.weight.shape, rate)
            except ValueError as error:
                raise ValueError(f"total: {total:g} is too high for layer '{name}': {error}") from None
    return rate


class Step(NamedTuple):
    """A layer's move to a higher rate; the least `lost` score for a dropped weight is the best."""

    lost: float
    layer: str
    rate: float
    dropped: int


@dataclass(frozen=True)
class LayerSensitivity:
    """Scores of the whole model when this layer alone is pruned, and the weights that it then keeps, by rate."""

    name: str
    weights: int
    kept: dict[float, int]  # 1.0: with patterns alone
    score: dict[float, float]

    def steps(self, rate: float) -> list[Step]:
        """To every higher scanned rate, so that a score that dips on the way hides nothing behind it."""
        found = []
        for higher in self.score:
            dropped = self.kept[rate] - self.kept[higher]
            if higher > rate and dropped > 0:
                lost = (self.score[rate] - self.score[higher]) / dropped
                found.append(Step(lost, self.name, higher, dropped))
        return found


@dataclass(repr=False)
class SensitivityReport(Report):
    """What sensitivity_scan() found. `dense`: the score of the model as it was; higher is better."""

    dense: float
    layers: list[LayerSensitivity] = field(default_factory=list)

    def rates(self, total: float) -> dict[str, float]:
        """Connectivity rates by layer name, with which about 1 of `total` weights stays in these layers.

        Of all moves of a layer to a higher scanned rate the one that loses least score for a dropped weight is made,
        again and again, as if losses added up; the last one gets the rate that just suffices. ValueError: less than
        patterns alone give, or beyond the highest scanned rates.
        """
        check_rate("total", total)
        weights = sum(layer.weights for layer in self.layers)
        allowed = weights / total
        if allowed > sum(layer.kept[1.0] for layer in self.layers):
            least = weights / sum(layer.kept[1.0] for layer in self.layers)
            raise ValueError(f"total: {total:g} is less than patterns alone give, {least:.3g}")
        rates = {layer.name: 1.0 for layer in self.layers}
        while (kept := sum(layer.kept[rates[layer.name]] for layer in self.layers)) > allowed:
            steps = [step for layer in self.layers for step in layer.steps(rates[layer.name])]
            if not steps:
                most = sum(layer.weights for layer in self.layers) / kept
                raise ValueError(f"total: {total:g} is beyond the scanned rates, which reach {most:.3g}")
            step = min(steps)
            rates[step.layer] = step.rate
            if kept - step.dropped <= allowed:  # the last: as much of it as is needed
                layer = next(layer for layer in self.layers if layer.name == step.layer)
                others = kept - step.dropped - layer.kept[step.rate]
                rates[step.layer] = layer.kept[1.0] / (allowed - others)
                break
        return rates

    def text(self) -> str:
        rates = sorted({rate for layer in self.layers for rate in layer.score})
        rows = [
            (layer.name, layer.weights, *(f"{layer.score[r]:.4g}" if r in layer.score else "-" for r in rates))
            for layer in self.layers
        ]
        table = format_table(("layer", "weights", *(f"{rate:g}x" for rate in rates)), rows)
        return f"{table}\nscore of the model with one layer pruned; nothing pruned: {self.dense:.4g}"

    def to_json(self) -> dict[str, Any]:
        layers = [
            {"name": one.name, "weights": one.weights, "kept": list(one.kept.items()), "score": list(one.score.items())}
            for one in self.layers
        ]
        return {"dense": self.dense, "layers": layers}


def sensitivity_scan(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    patterns: PatternSet | None = SCP4,
    rates: Sequence[float] = RATES,
    block: Blocks = 1,
    skip: Skip = (),
    balance: str | None = None,
) -> SensitivityReport:
    """Prunes one layer at a time, in one shot, at each rate, and asks `evaluate(model)` for a score (higher is better;
    accuracy on held-out images, or minus a loss; a number or a tensor of one). Layers and cuts are those of `prune_`
    with connectivity for the 3x3 layers; each costs len(rates) evaluations. The model is in evaluation mode meanwhile;
    its weights and modes are as before afterwards, also when `evaluate` raises. For a learnt set the default patterns
    serve: they keep as many taps.

        scan = sensitivity_scan(model, accuracy)
        pruner = ADMMPruner(model, connectivity=scan.rates(total=8))

    TypeError and ValueError as `prune_`; rates that would leave a layer no kernel are left out.
    """
    if not callable(evaluate):
        raise TypeError(f"evaluate: expected a function of the model, got {type(evaluate).__name__}")
    if isinstance(rates, (str, bytes)) or not isinstance(rates, Sequence):
        raise TypeError(f"rates: expected a sequence of numbers, got {type(rates).__name__}")
    for rate in rates:
        check_rate("rates", rate)
    check_balance(balance)
    choices = {name: choice for name, choice in _choices(model, patterns, block, skip).items() if choice.rate}
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        report = SensitivityReport(_score(evaluate(model)))
        for name, choice in choices.items():
            masks = _masks(choice, patterns, rates, balance)
            score = _scores(model, evaluate, choice.weight, masks)
            kept = {rate: int(keep.sum()) for rate, keep in masks.items()}
            report.layers.append(LayerSensitivity(name, choice.weight.numel(), kept, score))
    finally:
        for module in training:
            module.training = True
    return report


def _scores(
    model: nn.Module, evaluate: Callable[[nn.Module], float], weight: torch.Tensor, masks: dict[float, Keep]
) -> dict[float, float]:
    """Of the model with this weight cut to each of the masks; the weight is as before afterwards."""
    before, score = weight.detach().clone(), {}
    try:
        for rate, keep in masks.items():
            _write(weight, before.masked_fill(torch.from_numpy(~keep).to(weight.device), 0))
            score[rate] = _score(evaluate(model))
    finally:
        _write(weight, before)
    return score


def _choices(model: nn.Module, patterns: PatternSet | None, block: Blocks, skip: Skip) -> dict[str, LayerChoice]:
    """What `prune_` would prune, by name; `rate` is 1 where kernels may go."""
    check_model(model)
    check_patterns(patterns)
    model = unwrapped(model)
    return distinct(choose_layers(model, patterns is not None, 1.0, None, block, skip))


def _keep(choice: LayerChoice, patterns: PatternSet | None, rate: float | None, balance: str | None) -> Keep:
    values = finite_values(choice.name, choice.weight)
    return keep_all(values, constraints_of(replace(choice, rate=rate), patterns, balance))


def _masks(
    choice: LayerChoice, patterns: PatternSet | None, rates: Sequence[float], balance: str | None
) -> dict[float, Keep]:
    """By rate, 1 included; without those that leave no kernel."""
    masks = {}
    for rate in sorted({1.0, *map(float, rates)}):
        try:
            kernels_to_keep(choice.weight.shape, rate, balance, choice.block)
        except ValueError:
            continue
        masks[rate] = _keep(choice, patterns, rate, balance)
    return masks


def _score(value: Any) -> float:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    check_number("evaluate", value)
    return float(value)


@torch.no_grad()
def _write(weight: torch.Tensor, values: torch.Tensor) -> None:
    weight.copy_(values)
