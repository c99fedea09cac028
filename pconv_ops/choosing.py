"""Ours or dense: checks that both compute the same, times them, applies the rule, or replays earlier choices.

convert.py shows it every group with the inputs that the model gave it. The clockwork is timing.py.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from .candidates import dense_row
from .checking import LOUD, TOLERANCE, ConversionError, deviation
from .conversion_report import ConvertReport, LayerConversion
from .epilogue import Case, Group, magnitude, packed_layer
from .modules import PatternConv2d
from .timing import QUIET_S, take_rounds

FALLBACKS = ("auto", "never", "always")
ROUNDS = 7
LOST_ROUNDS = 5  # dense is taken when it wins at least so many rounds
MARGIN = 1.03  # a round is won by more than 3 %
# Short rounds: a network of 50 layers must convert in seconds. One round is noisy, five of seven are not.
ROUND_S, WARM_S = 0.003, 0.001


@dataclass(frozen=True)
class Race:
    """Seconds per run in each round, ours and dense in turn."""

    ours: list[float]
    dense: list[float]

    @property
    def won_by_dense(self) -> int:
        return sum(mine > MARGIN * theirs for mine, theirs in zip(self.ours, self.dense, strict=True))

    @property
    def lost(self) -> bool:
        """Whether dense is to be kept."""
        return self.won_by_dense >= LOST_ROUNDS

    @property
    def slower(self) -> bool:
        """Whether ours is the slower by more than the margin in the median."""
        ours, dense = self.ms
        return ours > MARGIN * dense

    @property
    def ms(self) -> tuple[float, float]:
        """Medians, (ours, dense)."""
        return 1e3 * statistics.median(self.ours), 1e3 * statistics.median(self.dense)


def race(label: str, ours: Callable[[], object], dense: Callable[[], object]) -> Race:
    """Interleaved rounds of both until the rule has decided and the medians agree, at most ROUNDS. `label` says what is
    timed."""
    # Idle workers of torch spin about 5 ms after a call and would take a core from ours; alone it has none.
    quiet = QUIET_S if torch.get_num_threads() > 1 else 0.0

    def decided(times: Mapping[str, list[float]]) -> bool:
        so_far = Race(times["ours"], times["dense"])
        kept = len(so_far.ours) - so_far.won_by_dense > ROUNDS - LOST_ROUNDS
        return (so_far.lost and so_far.slower) or (kept and not so_far.slower)

    times = take_rounds({"ours": ours, "dense": dense}, ROUNDS, ROUND_S, WARM_S, quiet, decided)
    return Race(times["ours"], times["dense"])


class Choices:
    """Choices of an earlier conversion by layer name, matched with the layers of a model."""

    def __init__(self, source: Any) -> None:
        if isinstance(source, ConvertReport):
            report = source
        elif isinstance(source, (str, os.PathLike)):
            report = ConvertReport.load(source)
        else:
            raise TypeError(f"choices: expected a ConvertReport or the path of one, got {type(source).__name__}")
        self._rows = {row.name: row for row in report.layers}
        self.pools = list(report.pools)

    def check(self, rows: Iterable[LayerConversion]) -> None:
        """ValueError: the layers are not those of the report. `rows`: the model's, as far as they are known."""
        found = {row.name: row for row in rows}
        for name in [*self._rows, *found]:
            if name not in found:
                raise ValueError(
                    f"choices: layer '{name}' is not in the model, or not found this way (example_inputs?)"
                )
            if name not in self._rows:
                raise ValueError(f"choices: the model's layer '{name}' is not in the report")
            old, new = self._rows[name], found[name]
            if old.shape != new.shape:
                raise ValueError(
                    f"choices: layer '{name}' has weights {list(new.shape)}, in the report {list(old.shape)}"
                )
            if old.chosen == "pconv" and new.chosen != "pconv":
                raise ValueError(f"choices: layer '{name}' cannot be replaced as the report says: {new.reason}")

    def check_pools(self, names: Iterable[str]) -> None:
        """ValueError: a pooling of the report is not among those of the model, `names`."""
        missing = sorted(set(self.pools) - set(names))
        if missing:
            raise ValueError(f"choices: pooling '{missing[0]}' is not in the model, or not found this way")

    def wanted(self, name: str, input_shape: tuple[int, ...]) -> bool:
        """Whether the report replaced the layer. ValueError: its choice was made for another input."""
        row = self._rows[name]
        if row.input_shape and input_shape and row.input_shape != input_shape:
            raise ValueError(
                f"choices: layer '{name}' gets input {list(input_shape)}, the report was made for"
                f" {list(row.input_shape)}: give example_inputs of that size, or choose anew without `choices`"
            )
        return row.chosen == "pconv"


class Judge:
    """Decides group by group; `rows` are the decisions, `layers` the packed layers of those that are replaced, `pools`
    the names of the max poolings that are."""

    def __init__(self, fallback: str, choices: Choices | None) -> None:
        self.fallback, self.choices = fallback, choices
        self.rows: dict[Group, LayerConversion] = {}
        self.layers: dict[Group, PatternConv2d] = {}
        self.pools: dict[str, None] = {}  # in order
        self._shared: dict[tuple[Any, ...], PatternConv2d] = {}

    def look(self, group: Group, cases: list[Case]) -> None:
        """Decides about a group from the calls that the model made of it; without any it stays dense."""
        if not cases:
            self.rows[group] = dense_row(group.name, group.conv, "not called in every run on example_inputs")
            return
        x = cases[0].x
        row = dense_row(group.name, group.conv, "")
        row = replace(row, input_shape=tuple(x.shape), layout=layout_of(x), fused=group.fused)
        self.rows[group], layer = self._decide(group, cases, row)
        if layer is not None:
            self.layers[group] = layer

    def wants_pool(self, name: str) -> bool:
        """Whether a max pooling is to be replaced; nothing is measured, ours has not lost yet."""
        return self.fallback != "always" if self.choices is None else name in self.choices.pools

    def look_at_pool(self, name: str, ours: torch.Tensor, y: torch.Tensor) -> None:
        """Takes note of a call of a max pooling that is to be replaced. ConversionError: the results differ."""
        if deviation(ours, y) != 0.0:
            raise ConversionError(
                f"pooling '{name}': native and original results differ; this is a bug of pconv_ops, please report it"
            )
        self.pools[name] = None

    def _decide(
        self, group: Group, cases: list[Case], row: LayerConversion
    ) -> tuple[LayerConversion, PatternConv2d | None]:
        if self.choices is not None and not self.choices.wanted(group.name, row.input_shape):
            return replace(row, reason="as in choices"), None
        if self.choices is None and self.fallback == "always":
            return replace(row, reason="fallback='always'"), None
        try:
            layer = self._layer(group)
            row, reason = self._checked(group, layer, cases, row)
        except (ValueError, MemoryError) as error:
            return replace(row, reason=f"does not run packed: {error}"), None
        if reason:
            return replace(row, reason=reason), None
        if self.choices is not None or self.fallback == "never":
            text = "as in choices" if self.choices is not None else "fallback='never'"
            return replace(row, chosen="pconv", reason=text), layer
        result = race(
            group.name,
            lambda: [layer(c.x) if c.residual is None else layer(c.x, c.residual) for c in cases],
            lambda: [group.dense(c.x, c.residual) for c in cases],
        )
        ours, dense = result.ms
        row = replace(row, ms_ours=ours, ms_dense=dense)
        if result.lost:
            won = f"{result.won_by_dense} of {len(result.ours)} rounds"
            return replace(row, reason=f"dense is faster in {won}, {ours / dense:.2f}x by the median"), None
        verdict = f"{dense / ours:.2f}x faster than dense" if ours < dense else "not slower than dense by the rule"
        return replace(row, chosen="pconv", reason=verdict), layer

    def _layer(self, group: Group) -> PatternConv2d:
        layer = self._shared.get(group.key)
        if layer is None:
            layer = self._shared[group.key] = packed_layer(group)
            for other, made in self._shared.items():  # same convolution and BatchNorm: one copy of the bytes
                if other[:2] == group.key[:2] and made is not layer:
                    layer.register_buffer("packed", made.packed)
                    break
        return layer

    def _checked(
        self, group: Group, layer: PatternConv2d, cases: list[Case], row: LayerConversion
    ) -> tuple[LayerConversion, str]:
        """The row with its deviation, and why the layer may not be used, or ''. ConversionError: it is wrong."""
        for case in cases:
            if case.x.dtype is not torch.float32 or case.x.device.type != "cpu":
                return row, f"gets {case.x.dtype} on {case.x.device}: only float32 on the CPU runs"
            if case.y.dtype is not torch.float32:
                return row, f"gives {str(case.y.dtype).removeprefix('torch.')}: runs under autocast"
            if not bool(case.y.isfinite().all()):
                return row, "its output on the example is not finite: nothing to compare with"
            y = layer(case.x) if case.residual is None else layer(case.x, case.residual)
            off = deviation(y, case.y)
            row = replace(row, deviation=max(off, row.deviation or 0.0))
            # Where terms cancel, the largest output is small beside them, and rounding alone deviates by more.
            if not off <= LOUD:
                scale, largest = float(case.y.abs().max()) or 1.0, magnitude(group, case)
                if not off * scale <= TOLERANCE * largest:
                    raise ConversionError(
                        f"layer '{group.name}': packed and dense results differ by {off:.3g} of the largest value; this"
                        " is a bug of pconv_ops, please report it"
                    )
        if not (row.deviation or 0.0) <= TOLERANCE:
            return row, f"deviates by {row.deviation:.1e} of the largest value, allowed {TOLERANCE:g}: terms cancel"
        return row, ""


def layout_of(x: torch.Tensor) -> str:
    """Name of a tensor's memory format: "nchw", "nhwc" or "strided"."""
    if x.is_contiguous():
        return "nchw"
    batch = x if x.dim() == 4 else x.unsqueeze(0)
    return "nhwc" if batch.dim() == 4 and batch.is_contiguous(memory_format=torch.channels_last) else "strided"
