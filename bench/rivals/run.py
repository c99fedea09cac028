"""The same pruned networks in every framework: python bench/rivals/run.py [--nets ... | --layers] [--threads 1 2].

`make rivals` sets up the environments and runs it. Every framework is a process of its own (worker.py) with the network
loaded; in each round all take a turn after a quiet moment, and the median over rounds counts. What does not return what
torch returns does not count. Writes rivals-ISA or layers-ISA
(.json, .md, .png).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from models import LAYERS, NETS
from table import MARKED, write_report
from worker import LOADERS, OWN_FORM

import pconv_ops
from pconv_ops import _native
from pconv_ops.info import cpu_info
from pconv_ops.timing import MIN_ROUND_S, QUIET_S

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "rivals"
OUR_ENVIRONMENT = Path(sys.executable)  # torch's too
ENVIRONMENTS = {"DeepSparse": BUILD / "deepsparse" / "bin" / "python"}  # others: BUILD / main
TOLERANCE = 1e-3  # of the largest output; with reduced precision 0.05
LOAD_S, TURN_S = 900, 300  # a rival that takes longer has failed
# What limits frameworks to AVX2; the others have no such switch and are left out there.
AVX2 = {
    "PCONV_FORCE_ISA": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "NM_ARCH": "avx2",
}
AVX2_FRAMEWORKS = [name for name in LOADERS if name.startswith(OWN_FORM)] + ["DeepSparse"]


@dataclass
class Cell:
    """A network in a framework: milliseconds, or why there are none."""

    net: str
    threads: int
    framework: str
    version: str | None = None
    ms: float | None = None
    rounds: tuple[float, ...] = ()
    deviation: float | None = None
    reason: str = ""


def python_of(framework: str) -> Path:
    if framework.startswith(OWN_FORM):
        return OUR_ENVIRONMENT
    return ENVIRONMENTS.get(framework, BUILD / "main" / "bin" / "python")


class Worker:
    """A process of worker.py. RuntimeError: it ended."""

    def __init__(self, framework: str, folder: Path, threads: int, environment: dict[str, str]) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed with the worker
        command = [str(python_of(framework)), str(HERE / "worker.py"), framework, str(folder), str(threads)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment},
        )

    def answer(self, limit_s: float = TURN_S) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], limit_s)[0]:
            raise RuntimeError(f"no answer in {limit_s} s")
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines()[-3:]
            raise RuntimeError(f"ended with status {self.process.wait()}: {' '.join(said)[-300:] or 'without a word'}")
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise RuntimeError(f"answered {line[:100]!r}") from error
        return found

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # answer() says why it ended
        return self.answer()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


@contextmanager
def workers(cells: Sequence[Cell], folder: Path, environment: dict[str, str]) -> Iterator[list[tuple[Cell, Worker]]]:
    """Started one after the other, so that none loads while another tunes itself; those that fail say so in their
    cells."""
    started: list[tuple[Cell, Worker]] = []
    try:
        for cell in cells:
            try:
                worker = Worker(cell.framework, folder, cell.threads, environment)
            except OSError as error:
                cell.reason = f"not installed: {error}"
                continue
            try:
                cell.version = worker.answer(LOAD_S)["version"]
                check_output(cell, worker, folder)
            except RuntimeError as error:
                cell.reason = str(error)
                worker.close()
                continue
            started.append((cell, worker))
        yield started
    finally:
        for _, worker in started:
            worker.close()


def check_output(cell: Cell, worker: Worker, folder: Path) -> None:
    """RuntimeError: it returns something else than torch."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "output.npy"
        worker.ask(f"output {path}")
        got, want = np.load(path).reshape(-1), np.load(folder / "want.npy").reshape(-1)
    if got.shape != want.shape:
        raise RuntimeError(f"returns {got.size} numbers instead of {want.size}")
    cell.deviation = float(np.abs(got - want).max() / np.abs(want).max())
    allowed = 0.05 if cell.framework in MARKED else TOLERANCE
    if not cell.deviation <= allowed:
        raise RuntimeError(f"its output deviates by {cell.deviation:.1e}")


def check_again(cell: Cell, worker: Worker, folder: Path) -> None:
    """After all its runs."""
    if cell.reason:
        return
    try:
        check_output(cell, worker, folder)
    except RuntimeError as error:
        cell.ms, cell.reason = None, str(error)


def take_turns(turns: Sequence[tuple[Cell, Worker]], rounds: int) -> None:
    """Milliseconds into the cells. A worker that fails on the way has a reason instead."""
    times: list[list[float]] = [[] for _ in turns]
    repeats = [1] * len(turns)
    for i in range(rounds + 1):  # the first one tells how often to repeat
        for turn in range(len(turns)):
            k = (turn + i) % len(turns)  # nobody always follows the same one
            cell, worker = turns[k]
            if cell.reason:
                continue
            time.sleep(QUIET_S)
            try:
                seconds = worker.ask(f"time {repeats[k]}")["seconds"]
            except RuntimeError as error:
                cell.reason = str(error)
                continue
            if i == 0:
                repeats[k] = max(1, int(MIN_ROUND_S / seconds) + 1)
            else:
                times[k].append(1e3 * seconds)
    for (cell, _), found in zip(turns, times, strict=True):
        if not cell.reason:
            cell.rounds = tuple(found)
            cell.ms = median(cell.rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--layers", action="store_true", help="the nine unique layers of VGG-16 instead of networks")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--frameworks", nargs="+", choices=list(LOADERS), default=list(LOADERS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--avx2", action="store_true", help="ours and those that can be limited to AVX2, limited so")
    parser.add_argument("--models", type=Path, default=BUILD / "models", help="what models.py and convert.py wrote")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="the folder for the report")
    args = parser.parse_args()
    environment = AVX2 if args.avx2 else {}
    frameworks = [name for name in args.frameworks if not args.avx2 or name in AVX2_FRAMEWORKS]
    nets = list(LAYERS) if args.layers else args.nets
    isa = "avx2" if args.avx2 else cpu_info()["isa"]
    cells: list[Cell] = []
    peaks: dict[str, float] = {}
    facts = {
        "command": " ".join(["python bench/rivals/run.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_info()["model"],
        "isa": isa,
        "limits": environment,
        "pconv_ops": pconv_ops.__version__,
        "rounds": args.rounds,
        "fma_peak_gflops": peaks,
        "weights": {net: json.loads((args.models / net / "kept.json").read_text()) for net in nets},
    }
    stem = args.out / f"{'layers' if args.layers else 'rivals'}-{isa}"
    for threads in args.threads:
        for net in nets:
            row = [Cell(net, threads, framework) for framework in frameworks]
            with workers(row, args.models / net, environment) as turns:
                take_turns(turns, args.rounds)
                for cell, worker in turns:
                    check_again(cell, worker, args.models / net)
            peaks[str(threads)] = max(_native.measure_peak(isa, threads, 10), peaks.get(str(threads), 0.0))
            cells += row
            for cell in row:
                print(f"{net}, {threads}: {cell.framework} {cell.reason or f'{cell.ms:.2f} ms'}", flush=True)
            write_report(stem, facts, [asdict(cell) for cell in cells])  # what is known so far
    return 0


if __name__ == "__main__":
    sys.exit(main())
