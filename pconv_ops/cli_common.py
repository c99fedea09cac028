"""What the commands of the pconv command share: types of arguments, the options of pruning, errors, progress."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .patterns import PATTERN_SETS
from .threads import MAX_THREADS

NETS = (  # of zoo.py, which needs torch
    *("vgg16", "vgg16_cifar", "resnet18", "resnet18_cifar", "resnet50", "resnet50_cifar"),
    *("mobilenet_v2", "mobilenet_v2_cifar"),
)


class UsageError(ValueError):
    """The command line or an input file is at fault."""


def check_file(option: str, path: str | Path | None) -> None:
    """Raises UsageError where no file can be written, before minutes are spent on what it would hold."""
    if path is None:
        return
    if Path(path).is_dir():
        raise UsageError(f"{option}: {path} is a folder")
    if not Path(path).resolve().parent.is_dir():
        raise UsageError(f"{option}: the folder of {path} does not exist")


def positive_int(text: str) -> int:
    """An integer >= 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, need an integer >= 1")
    return value


def thread_count(text: str) -> int:
    """An integer in 1 .. MAX_THREADS."""
    value = positive_int(text)
    if value > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"got {text!r}, need an integer in 1..{MAX_THREADS}")
    return value


def rate(text: str) -> float:
    """A finite number >= 1: one kernel in `rate` is kept."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 1):
        raise argparse.ArgumentTypeError(f"got {text!r}, need a number >= 1")
    return value


def add_pruning(parser: argparse.ArgumentParser) -> None:
    """The options that say how weights are pruned."""
    parser.add_argument(
        "--connectivity", type=rate, default=3.1, metavar="R", help="keep 1/R of the kernels of a layer (default 3.1)"
    )
    parser.add_argument(
        "--connectivity-1x1", type=rate, metavar="R", help="the same for 1x1 layers of a network (default: leave them)"
    )
    parser.add_argument("--patterns", choices=PATTERN_SETS, default="scp4", help="pattern set of 3x3 layers")
    parser.add_argument(
        "--block",
        type=positive_int,
        default=1,
        metavar="B",
        help="filters that keep the same kernels (default 1); in a network: those of its 1x1 layers",
    )


def track(items: Sequence[Any], label: str) -> Iterable[Any]:
    """A progress bar on stderr where that is a terminal and tqdm is installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return items
    return tqdm(items, desc=label, file=sys.stderr, disable=None, leave=False)
