"""Command line of the experiment: train what is missing, deploy it, write the table and the pictures."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from pconv_ops.cli_common import positive_int

from .nets import NETS
from .pictures import draw_all
from .runs import Run, Setting, deploy_all, run_all, write_json
from .schemes import SCHEMES
from .table import markdown, rows_of
from .training import PRECISIONS, Schedule

# Seconds a run, to see that everything works: few images, few epochs, one row of each kind.
QUICK = Schedule(dense=2, draw=1, retrain=1, images=8192)
QUICK_SCHEMES = ("dense", "pattern8", "pconv8", "block8", "unstructured8", "filter8")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.fashion_mnist", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of runs and results (default: runs/DATASET[-quick])")
    parser.add_argument("--dataset", choices=("fashion_mnist", "cifar10"), default="fashion_mnist")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with the four .gz files of Fashion-MNIST (default: Debian's package), or with the unpacked python"
        " or binary version of CIFAR-10",
    )
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--schemes", nargs="+", choices=list(SCHEMES), default=None, help="default: all")
    parser.add_argument("--seeds", type=positive_int, default=3, metavar="N", help="seeds 0 to N-1 (default: 3)")
    workers = os.cpu_count() or 1
    text = "processes that train, each with its share of the CPUs (default: one for each CPU)"
    parser.add_argument("--workers", type=positive_int, default=workers, help=text)
    text = "of the forward pass in training; bf16 is faster where the CPU or GPU has it (default: fp32)"
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32", help=text)
    parser.add_argument("--quick", action="store_true", help="one seed, few images and epochs: does it all work?")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    schedule, schemes = (QUICK, QUICK_SCHEMES) if args.quick else (Schedule(), tuple(SCHEMES))
    schedule = replace(schedule, precision=args.precision)
    out = args.out or Path("runs", f"{args.dataset}-quick" if args.quick else args.dataset)
    setting = Setting(out, args.dataset, args.data, schedule)
    seeds = range(1 if args.quick else args.seeds)
    names = dict.fromkeys(["dense", *(args.schemes or schemes)])
    runs = [Run(net, scheme, seed) for seed in seeds for net in dict.fromkeys(args.nets) for scheme in names]
    try:
        failures = run_all(runs, setting, args.workers)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finished = [run for run in runs if setting.finished(run)]
    try:
        deploy_all(finished, setting)
        report(finished, setting)
    except ValueError as error:
        failures.append(str(error))
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def report(runs: list[Run], setting: Setting) -> None:
    """results.json, table.md and the pictures, beside the runs."""
    records = [setting.record(run) for run in runs]
    rows = rows_of(records)
    write_json(setting.out / "results.json", {"records": records, "rows": [asdict(row) for row in rows]})
    text = markdown(rows)
    (setting.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    for path in draw_all(rows, setting):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
