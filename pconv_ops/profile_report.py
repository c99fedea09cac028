"""Where the time of a compiled network goes, as data, text, JSON and a picture. Knows only data."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .report import Report, format_table, shape_text


@dataclass(frozen=True)
class StepTime:
    """A step in the order in which they run. `shape`: of its output; `ukernel`: of a convolution, else ''; `macs`:
    multiply-adds with kept weights; `ms`: median of the runs."""

    name: str
    op: str
    ukernel: str
    shape: tuple[int, ...]
    macs: int
    ms: float

    @property
    def gflops(self) -> float:
        return 2e-6 * self.macs / self.ms if self.ms > 0 else 0.0


@dataclass(repr=False)
class Profile(Report):
    """CompiledModel.profile(): `ms` is the median of whole runs without the clocks of the steps."""

    layers: list[StepTime] = field(default_factory=list)
    ms: float = 0.0
    runs: int = 0
    isa: str = ""
    threads: int = 1
    arena_bytes: int = 0  # activations
    live_bytes: int = 0  # the largest sum of activations that are needed at one time
    weight_bytes: int = 0
    scratch_bytes_per_thread: int = 0

    @property
    def steps_ms(self) -> float:
        """Sum of the steps."""
        return sum(step.ms for step in self.layers)

    def text(self) -> str:
        total = self.steps_ms or 1.0
        headers = "step op output ms share GFLOP/s ukernel".split()
        rows = [
            (s.name, s.op, shape_text(s.shape), f"{s.ms:.3f}", f"{s.ms / total:.1%}", _gflops(s), s.ukernel or "-")
            for s in self.layers
        ]
        lines = [format_table(headers, rows)]
        lines.append(f"by operator: {', '.join(f'{op} {share:.1%}' for op, share in self.shares().items())}")
        lines.append(
            f"whole run {self.ms:.3f} ms (median of {self.runs}; steps {self.steps_ms:.3f} ms), {self.isa}, "
            f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        )
        lines.append(
            f"memory: activations {_bytes(self.arena_bytes)} ({_bytes(self.live_bytes)} needed at one time), "
            f"weights {_bytes(self.weight_bytes)}, scratch {_bytes(self.scratch_bytes_per_thread)} a thread"
        )
        return "\n".join(lines)

    def shares(self) -> dict[str, float]:
        """Share of the steps' time by operator, largest first."""
        sums: dict[str, float] = {}
        for step in self.layers:
            sums[step.op] = sums.get(step.op, 0.0) + step.ms
        total = self.steps_ms or 1.0
        return {op: ms / total for op, ms in sorted(sums.items(), key=lambda item: -item[1])}

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        for row, step in zip(plain["layers"], self.layers, strict=True):
            row["shape"], row["gflops"] = list(step.shape), step.gflops
        return plain

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Writes a picture of the steps' times. ValueError unless the suffix of `path` is .png; ImportError: matplotlib
        is missing."""
        if Path(path).suffix != ".png":
            raise ValueError(f"path: expected a suffix .png, got '{Path(path).name}'")
        from .plots import save_profile_picture  # matplotlib only with a picture

        try:
            save_profile_picture(
                Path(path), f"{self.ms:.2f} ms, {self.isa}", [(s.name, s.op, s.ms) for s in self.layers]
            )
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "matplotlib":
                raise
            raise ImportError(
                "profile.plot needs matplotlib: pip install 'pconv_ops[bench]'", name=error.name
            ) from error


def _gflops(step: StepTime) -> str:
    return f"{step.gflops:.1f}" if step.macs else "-"


def _bytes(count: int) -> str:
    if count < 10_000:
        return f"{count} B"
    return f"{count / 1e3:.0f} kB" if count < 10_000_000 else f"{count / 1e6:.1f} MB"
