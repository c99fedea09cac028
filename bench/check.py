"""The speed lines that a release must meet (`make bench-check`): python bench/check.py [--runs 5].

Runs `pconv bench --net vgg16 --threads 1` several times, each in a process of its own, takes the median of every number
over the runs, and compares with the bars below. Exit status 1 if a line fails. The bars hold for AVX-512.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PEAK_FRACTION_BAR = 0.55  # every pruned layer, of the FMA peak measured in the same run
CONV_SUM_BAR = 4.0  # times faster than torch's best layout, summed over the convolutions
CALL_OVERHEAD_BAR_US = 10.0  # what a Python call adds to the core's run of a 1x64x8x8 input


def bench_once() -> list[dict]:
    """Rows of one `pconv bench --net vgg16 --threads 1`."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "pconv_ops", "bench", "--net", "vgg16", "--threads", "1", "--json", str(rows)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(rows.read_text(encoding="utf-8"))


def median_of(runs: list[list[dict]], index: int, key: str) -> float:
    """Median of one number of one row over the runs."""
    return statistics.median(run[index][key] for run in runs)


def report(line: str, value: str, bar: str, passed: bool) -> bool:
    """Prints one line of the verdict."""
    print(f"{'PASS' if passed else 'FAIL'}  {line:<34} {value:>10}  (bar: {bar})")
    return passed


def check_rows(runs: list[list[dict]]) -> list[bool]:
    """A verdict for each pruned layer and one for the sum of the convolutions."""
    verdicts = []
    for i, row in enumerate(runs[0]):
        if row["scope"] == "layer" and row["kind"] != "dense":
            fraction = median_of(runs, i, "peak_fraction")
            name = f"{row['layer']} ({median_of(runs, i, 'ms'):.2f} ms)"
            passed = fraction >= PEAK_FRACTION_BAR
            verdicts.append(report(name, f"{fraction:.3f}", f"peak_fraction >= {PEAK_FRACTION_BAR}", passed))
        elif row["scope"] == "conv_sum":
            speedup, ms, dense = (median_of(runs, i, key) for key in ("speedup", "ms", "dense_ms"))
            name = f"conv_sum ({ms:.1f} of {dense:.1f} ms)"
            passed = speedup >= CONV_SUM_BAR
            verdicts.append(report(name, f"{speedup:.2f}x", f"speedup >= {CONV_SUM_BAR}", passed))
    return verdicts


def check_call_overhead(n_runs: int) -> list[bool]:
    """A verdict for each way to call a layer."""
    from pconv_ops.benchmark import call_overhead_us

    runs = [call_overhead_us() for _ in range(n_runs)]
    verdicts = []
    for name in runs[0]:
        cost = statistics.median(run[name] for run in runs)
        bar = f"<= {CALL_OVERHEAD_BAR_US:g} us"
        verdicts.append(report(f"call overhead of {name}", f"{cost:.1f} us", bar, cost <= CALL_OVERHEAD_BAR_US))
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs whose medians are compared (default 5)")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error("--runs: need >= 1")
    runs = []
    for i in range(args.runs):
        print(f"run {i + 1} of {args.runs}", file=sys.stderr)
        runs.append(bench_once())
    print(f"pconv bench --net vgg16 --threads 1, {runs[0][0]['isa']}, medians of {args.runs} runs")
    verdicts = check_rows(runs) + check_call_overhead(args.runs)
    print(f"{'PASS' if all(verdicts) else 'FAIL'}: {sum(verdicts)} of {len(verdicts)} lines")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
