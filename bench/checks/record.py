"""What every part of the check shares: rows of `pconv bench` over several runs, their medians, verdicts and their file.

A part asks `bench_runs` for rows and tells a Record its verdicts; it knows its own bars and nothing of other parts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Runs = dict[str, list[list[Row]]]  # setup -> runs -> rows
Setups = Mapping[str, tuple[str, ...]]  # name -> arguments of `pconv bench`


@dataclass(frozen=True)
class Verdict:
    """One line of the check."""

    line: str
    value: str
    bar: str
    passed: bool


@dataclass
class Record:
    """What a run of the check found: verdicts, printed as they come, and the rows that they rest on."""

    verdicts: list[Verdict] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every line passed."""
        return all(verdict.passed for verdict in self.verdicts)

    def report(self, line: str, value: str, bar: str, passed: bool) -> None:
        """Takes note of a verdict and prints it."""
        self.verdicts.append(Verdict(line, value, bar, passed))
        print(f"{'PASS' if passed else 'FAIL'}  {line:<46} {value:>10}  (bar: {bar})", flush=True)

    def keep(self, runs: Runs) -> None:
        """Takes note of rows, each with its setup and the number of its run."""
        for setup, rows_of_runs in runs.items():
            for number, rows in enumerate(rows_of_runs):
                self.rows += [{"setup": setup, "run": number, **row} for row in rows]

    def write(self, path: Path, command: str) -> None:
        """Writes verdicts and rows as JSON, with CPU, date and command."""
        from pconv_ops.info import cpu_info

        about = {"command": command, "date": str(date.today()), "cpu": cpu_info()["model"]}
        content = {**about, "verdicts": [asdict(verdict) for verdict in self.verdicts], "rows": self.rows}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def bench_once(arguments: tuple[str, ...]) -> list[Row]:
    """Rows of one `pconv bench`, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "pconv_ops", "bench", *arguments, "--json", str(rows)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(rows.read_text(encoding="utf-8"))


def bench_runs(setups: Setups, n_runs: int) -> Runs:
    """Rows of every setup in n_runs runs, turn by turn, so that a slow quarter of an hour meets all setups alike."""
    runs: Runs = {name: [] for name in setups}
    for i in range(n_runs):
        for name, arguments in setups.items():
            print(f"run {i + 1} of {n_runs}: {name}", file=sys.stderr)
            runs[name].append(bench_once(arguments))
    return runs


def median(rows: Iterable[Row], key: str) -> float:
    """Median of one number over rows."""
    return statistics.median(row[key] for row in rows)


def rows_at(runs: list[list[Row]], index: int) -> list[Row]:
    """The row of this index of each run."""
    return [rows[index] for rows in runs]


def rows_of_scope(runs: list[list[Row]], scope: str) -> list[Row]:
    """The rows of a scope in all runs: one a run for all but "layer"."""
    return [row for rows in runs for row in rows if row["scope"] == scope]
