"""Speed lines of whole networks: converted and compiled, on one thread, against the pruned network in torch's better
layout; compiled ones are never slower than converted ones."""

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
# Times faster than torch, by scope of the row.
SPEEDUP_BARS = {
    "whole_net": {"resnet18": 4.0, "resnet50": 3.0, "mobilenet_v2": 3.0, "vgg16_cifar": 9.0},
    "compiled_net": {"resnet18": 5.0, "resnet50": 3.5, "mobilenet_v2": 4.0, "vgg16_cifar": 14.0},
}
LABELS = {"whole_net": "whole", "compiled_net": "compiled"}


def check(runs: Runs, record: Record) -> None:
    """Two verdicts for each net, and one that compares both forms."""
    for scope, bars in SPEEDUP_BARS.items():
        for name, bar in bars.items():
            rows = rows_of_scope(runs[name], scope)
            speedup, ms, dense = (median(rows, key) for key in ("speedup", "ms", "dense_ms"))
            line = f"{LABELS[scope]} {name} ({ms:.2f} of {dense:.1f} ms)"
            record.report(line, f"{speedup:.2f}x", f">= {bar:g}", speedup >= bar)
    for name in SETUPS:
        compiled, converted = (
            median(rows_of_scope(runs[name], scope), "ms") for scope in ("compiled_net", "whole_net")
        )
        ratio = compiled / converted
        record.report(f"compiled against converted {name}", f"{ratio:.2f}", "<= 1", ratio <= 1)
