"""Speed lines of whole networks: converted, on one thread, against the pruned network in torch's better layout."""

from __future__ import annotations

from .record import Record, Runs, median, rows_of_scope

# 3.1x fewer kernels in 3x3 and 1x1 layers, the latter in blocks of four filters; VGG-16 has no 1x1 layers.
RATES = ("--connectivity", "3.1", "--connectivity-1x1", "3.1", "--block", "4")
SETUPS = {
    "resnet18": ("--net", "resnet18", "--threads", "1", *RATES),
    "resnet50": ("--net", "resnet50", "--threads", "1", *RATES),
    "mobilenet_v2": ("--net", "mobilenet_v2", "--threads", "1", *RATES),
    "vgg16_cifar": ("--net", "vgg16_cifar", "--threads", "1", "--connectivity", "3.1"),
}
SPEEDUP_BARS = {"resnet18": 4.0, "resnet50": 3.0, "mobilenet_v2": 3.0, "vgg16_cifar": 9.0}  # times faster than torch


def check(runs: Runs, record: Record) -> None:
    """A verdict for each net."""
    for name, bar in SPEEDUP_BARS.items():
        rows = rows_of_scope(runs[name], "whole_net")
        speedup, ms, dense = (median(rows, key) for key in ("speedup", "ms", "dense_ms"))
        line = f"whole {name} ({ms:.2f} of {dense:.1f} ms)"
        record.report(line, f"{speedup:.2f}x", f">= {bar:g}", speedup >= bar)
