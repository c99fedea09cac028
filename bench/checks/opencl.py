"""Speed lines of the OpenCL kernels on PoCL, or on the device that PCONV_OPENCL_DEVICE names: dense 3x3
layers against the device's peak, pattern layers against dense ones, twelve patterns against four."""

from __future__ import annotations

import os
from statistics import median

from opencl import measure

from pconv_ops import BackendUnavailable
from pconv_ops.opencl_bench import measure_peak
from pconv_ops.opencl_device import ENVIRONMENT, open_device

from .record import Record

PEAK_BAR, SPEEDUP_BAR, PATTERNS_BAR = 0.40, 3.0, 1.10


def check(n_runs: int, record: Record) -> None:
    name = None if os.environ.get(ENVIRONMENT) else "Portable Computing Language"
    try:
        device = open_device(name)
    except BackendUnavailable as error:
        print(f"SKIPPED: {error}")
        return
    peak = measure_peak(device)
    rows = measure(name, 2 * n_runs + 1)
    print(f"OpenCL, {device.info.title}, FMA peak {peak:.0f} GFLOP/s, medians of {2 * n_runs + 1} rounds")
    for row in rows:
        name = "x".join(map(str, row.shape))
        share = row.gflops / peak
        record.report(f"opencl dense {name} ({row.dense:.2f} ms)", f"{share:.3f}", f">= {PEAK_BAR}", share >= PEAK_BAR)
        speedup = row.dense / row.four
        line = f"opencl 4 patterns {name} ({row.four:.2f} ms)"
        record.report(line, f"{speedup:.2f}x", f">= {SPEEDUP_BAR:g}", speedup >= SPEEDUP_BAR)
    ratio = median(row.twelve / row.four for row in rows)
    record.report("opencl 12 patterns against 4", f"{ratio:.3f}", f"<= {PATTERNS_BAR}", ratio <= PATTERNS_BAR)
