"""The cost of a call: what conv2d() and PatternConv2d add to the core's run."""

from __future__ import annotations

import statistics

from pconv_ops import benchmark

from .record import Record

BAR_US = 10.0  # what a Python call adds to the core's run of a 1x64x8x8 input


def check(n_runs: int, record: Record) -> None:
    """A verdict for each way to call a layer."""
    runs = [benchmark.call_overhead_us() for _ in range(n_runs)]
    for name in runs[0]:
        cost = statistics.median(run[name] for run in runs)
        record.report(f"call overhead of {name}", f"{cost:.1f} us", f"<= {BAR_US:g} us", cost <= BAR_US)
