"""Time against density: from which share of kept weights on a layer is better left dense.

A sweep cuts one layer to a row of densities from 0 to 100 %, and times ours, forced at every one of them, beside
torch's dense convolution on the same weights, by the rules of benchmark.py. Kernels go as connectivity pruning takes
them. 3x3 layers but stems are swept twice: with patterns (at most 4 of 9 weights are left) and with whole kernels.
Depthwise layers lose taps, the same number in every kernel, because a kernel of theirs is all that a channel has.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from .benchmark import Row, Track, bench_case, conditions_text, finish_rows, no_track, runtime
from .cases import BenchOptions, ConvCase, LayerSpec, conv_cases, random_input, seeded_net, single_conv
from .layers import is_depthwise, is_stem
from .patterns import named_patterns
from .plots import SweepLine, save_sweep_picture
from .projections import check_block, connectivity_keep, pattern_keep, values_of
from .report import format_table, layer_kind
from .zoo import NETS

# Shares of kernels, or of taps, that stay; close together where the break-even usually lies.
SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

# One layer of each kind and its block, with the sizes of the network that is known for it.
KINDS: tuple[tuple[LayerSpec, int], ...] = (
    (LayerSpec(128, 128, 28, 28), 1),  # ResNet
    (LayerSpec(512, 512, 7, 7), 1),
    (LayerSpec(128, 128, 56, 56, stride=2), 1),
    (LayerSpec(512, 128, 28, 28, kernel=1), 1),
    (LayerSpec(512, 128, 28, 28, kernel=1), 4),
    (LayerSpec(256, 512, 56, 56, stride=2, kernel=1), 1),
    (LayerSpec(256, 512, 56, 56, stride=2, kernel=1), 4),
    (LayerSpec(3, 64, 224, 224, stride=2, kernel=7), 1),
    (LayerSpec(3, 32, 224, 224, stride=2), 1),  # MobileNet-v2
    (LayerSpec(144, 144, 56, 56, groups=144), 1),
    (LayerSpec(144, 144, 56, 56, stride=2, groups=144), 1),
    (LayerSpec(240, 240, 28, 28, kernel=5, groups=240), 1),  # EfficientNet
    (LayerSpec(64, 192, 27, 27, kernel=5), 1),  # AlexNet
    (LayerSpec(128, 128, 17, 17, kernel=7), 1),  # Inception, where it is cut into 1x7 and 7x1
    (LayerSpec(256, 256, 28, 28, dilation=2), 1),  # DeepLab
    (LayerSpec(256, 256, 28, 28, groups=32), 1),  # ResNeXt
)


@dataclass(frozen=True)
class Sweep:
    """A layer at rising densities. patterns: what its 3x3 kernels were cut to, None = whole kernels. rows: as those of
    bench_layer, with scope "sweep" and pattern_set = patterns."""

    label: str
    patterns: str | None
    rows: list[Row]

    @property
    def break_even(self) -> float | None:
        """See `break_even`."""
        return break_even([(row["density"], row["speedup"]) for row in self.rows])

    def text(self) -> str:
        """The table, with a line where ours stops being faster."""
        headers = ("density %", "ms", "torch ms", "torch layout", "speedup")
        cells = [
            (100 * row["density"], f"{row['ms']:.3f}", f"{row['dense_ms']:.3f}", row["dense_layout"], row["speedup"])
            for row in self.rows
        ]
        lines = format_table(headers, cells).split("\n")
        at = self.break_even
        mark = "not slower than torch at any density" if at is None else f"break-even at {100 * at:.1f} %"
        below = sum(row["density"] <= (math.inf if at is None else at) for row in self.rows) if at != 0 else 0
        lines.insert(2 + below, f"---- {mark} ----")
        layer = f" ({self.rows[0]['layer']})" if self.rows[0]["net"] else ""
        return "\n".join([f"{self.title}{layer}, {geometry_text(self.rows[0])}", *lines])

    @property
    def title(self) -> str:
        """What the sweep is of, as tables and pictures name it."""
        what = "single taps" if self.label.startswith("depthwise") else "whole kernels"
        return f"{self.label}, {self.patterns or what}"


def break_even(points: Sequence[tuple[float, float]]) -> float | None:
    """The density up to which ours is not slower, of (density, speedup) by rising density: linear between the last
    point that is not slower and the first that is. 0: slower from the first point on; None: never slower."""
    before = None
    for density, speedup in points:
        if speedup < 1:
            if before is None:
                return 0.0
            return before[0] + (density - before[0]) * (before[1] - 1) / (before[1] - speedup)
        before = density, speedup
    return None


def geometry_text(row: Row) -> str:
    """The shape of a row's layer in words."""
    parts = [f"{row['ic']} to {row['oc']} channels, {row['h']}x{row['w']}"]
    parts += [f"{key} {row[key]}" for key in ("stride", "groups", "dilation", "block") if row[key] != 1]
    return ", ".join(parts)


# ---- what is swept ---------------------------------------------------------------------------------------------------


def label_of(conv: nn.Conv2d) -> str:
    """Kind of a layer as sweeps tell them apart: "conv3x3", "conv1x1/2" for stride 2, with "d2" for dilation 2."""
    text = layer_kind(conv.weight.shape, conv.groups)
    text += f"/{conv.stride[0]}" if conv.stride[0] != 1 else ""
    return text + (f"d{conv.dilation[0]}" if conv.dilation[0] != 1 else "")


def kinds_of_net(net: str) -> list[ConvCase]:
    """The largest layer (multiply-adds) of each kind of a zoo net, dense, with a random input; in calling order."""
    model = NETS[net].benchmarked(seeded_net(net))
    part = NETS[net].part
    largest: dict[str, tuple[float, ConvCase]] = {}
    for case in conv_cases(model, random_input(1, 3, NETS[net].size, NETS[net].size), f"{part}." if part else ""):
        strides = math.prod(case.conv.stride)
        work = case.conv.weight.numel() * math.prod(case.x.shape[-2:]) / strides
        label = label_of(case.conv)
        if label not in largest or work > largest[label][0]:
            largest[label] = (work, case)
    return [replace(case, x=random_input(*case.x.shape)) for _, case in largest.values()]


def cut(conv: nn.Conv2d, share: float, patterns: str | None, block: int = 1) -> nn.Conv2d:
    """A copy of a dense convolution that keeps this share of its kernels (depthwise: of each kernel's taps), those with
    the largest norm; patterns: of 3x3 kernels; block: divides the filters of a group."""
    values = values_of(conv.weight)
    keep = np.ones(values.shape, dtype=bool)
    if is_depthwise(conv):
        taps = values.reshape(values.shape[0] * values.shape[1], 1, -1).transpose(0, 2, 1)[..., None]
        keep = connectivity_keep(taps, round(share * taps.shape[1]), "filter").reshape(values.shape)
    else:
        if patterns is not None:
            keep = pattern_keep(values, named_patterns(patterns), block)
        count = round(share * (values.shape[0] // block) * values.shape[1])
        keep &= connectivity_keep(values * keep, count, block=block)[:, :, None, None]
    result = copy.deepcopy(conv)
    with torch.no_grad():
        result.weight.masked_fill_(torch.from_numpy(~keep), 0)
    return result


def shares_of(conv: nn.Conv2d) -> list[float]:
    """The shares that a layer is swept at: of a depthwise layer with few taps, every number of taps."""
    taps = math.prod(conv.kernel_size)
    if is_depthwise(conv) and taps < len(SHARES):
        return [kept / taps for kept in range(taps + 1)]
    return [*SHARES]


def pattern_sets_of(conv: nn.Conv2d, options: BenchOptions) -> list[str | None]:
    """The pattern sets that a layer is swept with; None: whole kernels. As in prune_, stems have no patterns."""
    has_patterns = tuple(conv.kernel_size) == (3, 3) and not (is_depthwise(conv) or is_stem(conv))
    return [options.patterns, None] if has_patterns else [None]


def block_of(conv: nn.Conv2d, options: BenchOptions, alone: bool) -> int:
    """The block of a layer: 1x1 layers have one, a layer alone whatever its kernel."""
    if is_depthwise(conv) or not (alone or tuple(conv.kernel_size) == (1, 1)):
        return 1
    return math.gcd(options.block, conv.out_channels // conv.groups)


# ---- sweeping --------------------------------------------------------------------------------------------------------


def sweep_net(net: str, options: BenchOptions, track: Track = no_track) -> list[Sweep]:
    """Sweeps of the largest layer of each kind of a zoo net."""
    check_block("block", options.block)
    cases = [replace(case, block=block_of(case.conv, options, alone=False)) for case in kinds_of_net(net)]
    return _sweeps(net, cases, options, track)


def sweep_layer(spec: LayerSpec, options: BenchOptions, track: Track = no_track) -> list[Sweep]:
    """Sweeps of one layer; the options' connectivity does not matter."""
    check_block("block", options.block)
    case = _case_of(spec)
    return _sweeps(None, [replace(case, block=block_of(case.conv, options, alone=True))], options, track)


def sweep_kinds(options: BenchOptions, track: Track = no_track) -> list[Sweep]:
    """Sweeps of KINDS; the options' connectivity and block do not matter."""
    return _sweeps(None, [_case_of(*kind) for kind in KINDS], options, track)


def _case_of(spec: LayerSpec, block: int = 1) -> ConvCase:
    return ConvCase("layer", single_conv(spec), random_input(1, spec.ic, spec.h, spec.w), block)


def _sweeps(net: str | None, cases: Sequence[ConvCase], options: BenchOptions, track: Track) -> list[Sweep]:
    swept = [(Sweep(label_of(c.conv), p, []), c) for c in cases for p in pattern_sets_of(c.conv, options)]
    sweeps = [sweep for sweep, _ in swept]
    with runtime(options) as (isa, threads):
        points = [(sweep, case, share) for sweep, case in swept for share in shares_of(case.conv)]
        for sweep, case, share in track(points, net or "layer"):
            case = replace(case, conv=cut(case.conv, share, sweep.patterns, case.block))
            sweep.rows.append(bench_case(case, options, isa, threads, forced=True))
    finish_rows([row for sweep in sweeps for row in sweep.rows], net, options, isa, threads)
    for sweep in sweeps:
        for row in sweep.rows:
            row.update(scope="sweep", pattern_set=sweep.patterns)
    return sweeps


# ---- showing ---------------------------------------------------------------------------------------------------------


def sweeps_text(sweeps: Sequence[Sweep]) -> str:
    """A table for each sweep, and the conditions that all share."""
    rows = [row for sweep in sweeps for row in sweep.rows]
    return "\n\n".join([*(sweep.text() for sweep in sweeps), conditions_text(rows)])


def draw_sweeps(path: str, sweeps: Sequence[Sweep]) -> None:
    """Writes a PNG: for each sweep, time against density of ours and of torch, break-even marked."""
    row = sweeps[0].rows[0]
    what = f"{row['net']}: " if row["net"] else ""
    lines = [
        SweepLine(
            f"{sweep.title}\n{geometry_text(sweep.rows[0])}",
            [row["density"] for row in sweep.rows],
            [row["ms"] for row in sweep.rows],
            [row["dense_ms"] for row in sweep.rows],
            sweep.break_even,
        )
        for sweep in sweeps
    ]
    save_sweep_picture(path, f"{what}time against density, {row['threads']} thread(s), {row['isa']}", lines)
