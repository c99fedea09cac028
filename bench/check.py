"""The speed lines that a release must meet (`make bench-check`): python bench/check.py [--runs 5] [--only PART].

Runs `pconv bench` in each setup of the parts several times, turn by turn, each in a process of its own, takes the
median of every number over the runs, and compares with the bars of the parts in checks/. Exit status 1 if a line fails.
The x86 bars hold for a CPU with AVX-512.

  speed  VGG-16: 3x3 layers, their sum against torch, two threads, twelve patterns, AVX2
  nets   whole networks against torch
  kinds  3x3 with stride 2, 1x1 in blocks, dense stems and 1x1
  calls  the cost of a call
  auto   convert(fallback="auto") against the original, from dense to all zeros
  opencl the OpenCL kernels against the device's peak and their own dense form
  neon   instructions of the NEON ukernels on an emulated Cortex-A76
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from checks import auto, calls, kinds, neon, nets, opencl, vgg
from checks.record import Record, bench_runs

BENCHED = {"speed": vgg, "nets": nets, "kinds": kinds}  # judged by rows of `pconv bench`
PARTS = (*BENCHED, "calls", "auto", "opencl", "neon")


def check(parts: tuple[str, ...], n_runs: int) -> Record:
    """Measures and judges the parts."""
    record = Record()
    benched = [part for name, part in BENCHED.items() if name in parts]
    setups = {name: arguments for part in benched for name, arguments in part.SETUPS.items()}  # shared ones run once
    if setups:
        runs = bench_runs(setups, n_runs)
        record.keep(runs)
        print(f"pconv bench, {next(iter(runs.values()))[0][0]['isa']}, medians of {n_runs} runs")
        for part in benched:
            part.check(runs, record)
    if "calls" in parts:
        calls.check(n_runs, record)
    if "auto" in parts:
        auto.check(record)
    if "opencl" in parts:
        opencl.check(n_runs, record)
    if "neon" in parts:
        neon.check(record)
    return record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs whose medians are compared (default 5)")
    parser.add_argument("--only", choices=PARTS, help="check one part alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write verdicts and all rows as JSON")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error("--runs: need >= 1")
    if args.json is not None and not args.json.resolve().parent.is_dir():  # noticed before an hour of measuring
        parser.error(f"--json: the folder of {args.json} does not exist")
    record = check(PARTS if args.only is None else (args.only,), args.runs)
    if args.json is not None:
        record.write(args.json, " ".join(["python bench/check.py", *sys.argv[1:]]))
    passed = sum(verdict.passed for verdict in record.verdicts)
    print(f"{'PASS' if record.passed else 'FAIL'}: {passed} of {len(record.verdicts)} lines")
    return 0 if record.passed else 1


if __name__ == "__main__":
    sys.exit(main())
