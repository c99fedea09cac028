"""What was pruned or packed, as data, text and JSON; the base of conversion_report.py.

The steps of the flow fill these reports; nothing here imports torch or the core. Every report has `layers`, `.text()`
(aligned table, also its repr), `.to_json()` (plain types) and `.save(path)` (.txt or .json).
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .patterns import pattern_name


class Spread(NamedTuple):
    """Smallest, mean and largest of some counts; zeros when there are none."""

    min: int
    mean: float
    max: int

    @classmethod
    def of(cls, counts: npt.NDArray[Any]) -> Spread:
        if counts.size == 0:
            return cls(0, 0.0, 0)
        return cls(int(counts.min()), float(counts.mean()), int(counts.max()))

    def __str__(self) -> str:
        return f"{self.min}/{self.mean:.1f}/{self.max}"


def layer_kind(shape: Sequence[int], groups: int = 1) -> str:
    """Kind of a convolution from its OIHW weight shape and groups: "conv3x3", "grouped3x3" or "depthwise3x3"."""
    prefix = "conv" if groups == 1 else "depthwise" if shape[1] == 1 else "grouped"
    return f"{prefix}{shape[2]}x{shape[3]}"


def mask_counts(kept: npt.NDArray[np.bool_]) -> dict[int, int]:
    """How often each mask comes among kernels [K, taps]: {mask (bit t = tap t): count}, most frequent first (ties:
    lowest mask). Kernels that keep nothing are left out."""
    taps = kept.shape[1]
    if taps <= 16:  # counted by value: sorting the kernels of a network takes seconds
        counts = np.bincount(kept @ (1 << np.arange(taps)), minlength=1 << taps)
        return _by_count({int(mask): int(counts[mask]) for mask in np.flatnonzero(counts) if mask})
    packed = np.packbits(kept[kept.any(axis=1)], axis=1, bitorder="little")
    rows, counts = np.unique(packed, axis=0, return_counts=True)
    found = {int.from_bytes(row.tobytes(), "little"): int(n) for row, n in zip(rows, counts, strict=True)}
    return _by_count(found)


def _by_count(counts: dict[int, int]) -> dict[int, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def format_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned text table: columns of numbers to the right, others to the left; floats with two decimals."""
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"rows: expected {len(headers)} cells in each row, got {len(row)}")
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    table = [list(headers), *cells]
    widths = [max(len(line[i]) for line in table) for i in range(len(headers))]
    right = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(headers))]
    lines = []
    for line in table:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        lines.append("  ".join(parts).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def shape_text(shape: Sequence[int]) -> str:
    """As in 8x4x3x3; empty for no dimensions."""
    return "x".join(str(n) for n in shape)


def _ratio_text(dense: int, kept: int) -> str:
    return f"{dense / kept:.2f}x" if kept else "-"


class Report(ABC):
    """Common part of the reports."""

    @abstractmethod
    def text(self) -> str:
        """An aligned table."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain types."""

    def __repr__(self) -> str:
        return self.text()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report; ValueError unless the suffix of `path` is .txt or .json."""
        target = Path(path)
        if target.suffix not in (".txt", ".json"):
            raise ValueError(f"path: expected a suffix .txt or .json, got '{target.name}'")
        text = self.text() if target.suffix == ".txt" else json.dumps(self.to_json(), indent=2)
        target.write_text(text + "\n", encoding="utf-8")


# ---- pruning


@dataclass(frozen=True)
class LayerPruning:
    """A convolution after prune_: its OIHW weight shape, kept weights and kernels, and what was done to it."""

    name: str
    kind: str
    shape: tuple[int, ...]
    nnz: int
    total: int
    kernels_kept: int
    kernels_total: int
    patterns: dict[int, int]  # mask of the non-zero taps (bit ky*kw+kx) -> kernels
    kernels_per_filter: Spread
    reason: str
    block: int = 1  # consecutive filters that were made to keep the same kernels

    @property
    def density(self) -> float:
        return self.nnz / self.total if self.total else 1.0

    @classmethod
    def of(cls, name: str, weight: npt.NDArray[Any], groups: int, reason: str, block: int = 1) -> LayerPruning:
        """Counts the non-zero weights of an OIHW array."""
        shape = tuple(int(n) for n in weight.shape)
        kept = weight.reshape(shape[0], shape[1], -1) != 0
        kernels = kept.any(axis=2)
        return cls(
            name=name,
            kind=layer_kind(shape, groups),
            shape=shape,
            nnz=int(np.count_nonzero(kept)),
            total=prod(shape),
            kernels_kept=int(np.count_nonzero(kernels)),
            kernels_total=kernels.size,
            patterns=mask_counts(kept.reshape(-1, kept.shape[2])),
            kernels_per_filter=Spread.of(kernels.sum(axis=1)),
            reason=reason,
            block=block,
        )


@dataclass(repr=False)
class PruneReport(Report):
    """What prune_ left of each convolution."""

    layers: list[LayerPruning] = field(default_factory=list)

    @property
    def nnz(self) -> int:
        return sum(layer.nnz for layer in self.layers)

    @property
    def total(self) -> int:
        return sum(layer.total for layer in self.layers)

    @property
    def density(self) -> float:
        return self.nnz / self.total if self.total else 1.0

    def text(self) -> str:
        headers = ("layer", "kind", "weight", "kept", "of", "fewer", "kernels", "of", "per filter", "patterns", "why")
        rows = [
            (
                layer.name,
                layer.kind,
                shape_text(layer.shape),
                layer.nnz,
                layer.total,
                _ratio_text(layer.total, layer.nnz),
                layer.kernels_kept,
                layer.kernels_total,
                str(layer.kernels_per_filter),
                len(layer.patterns),
                layer.reason,
            )
            for layer in self.layers
        ]
        ratio = _ratio_text(self.total, self.nnz)
        return f"{format_table(headers, rows)}\nconvolutions: {self.nnz} of {self.total} weights kept, {ratio} fewer"

    def to_json(self) -> dict[str, Any]:
        layers = [_named_patterns(asdict(layer), layer.shape[2:]) | {"density": layer.density} for layer in self.layers]
        return {"nnz": self.nnz, "total": self.total, "density": self.density, "layers": layers}


def _named_patterns(row: dict[str, Any], kernel_size: Sequence[int]) -> dict[str, Any]:
    """JSON keys are strings: masks become their names, tuples become lists."""
    taps = prod(kernel_size)
    row["patterns"] = {pattern_name(mask, taps): count for mask, count in row["patterns"].items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


# ---- packed layers


@dataclass(frozen=True)
class LayerInspection:
    """Layerwise information of a packed layer (PCONV's "layerwise information extraction").

    A run is a row of kernels of one filter with the same pattern: `runs_before` with filters and channels in natural
    order, `runs_after` as filter kernel reorder left them. Bytes count weights, indices and bias.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    nnz: int
    density: float
    patterns: dict[int, int]  # mask (bit ky*kw+kx) -> kernels
    connections: int  # kept kernels
    connections_total: int
    kernels_per_filter: Spread
    n_runs_before: int
    runs_before: Spread
    n_runs_after: int
    runs_after: Spread
    bytes_packed: int
    bytes_dense: int
    bytes_csr: int
    ukernel: str | None = None  # what a plan for the inspected map runs
    n_runs_planned: int | None = None  # after the plan merged short runs
    added_taps: int | None = None  # zero weights that run beside the kept ones


def inspect_packed(name: str, packed: Any, map_size: tuple[int, int] | None = None) -> LayerInspection:
    """Layerwise information of a PackedConv, computed from `packed.arrays()` (docs/FORMAT.md), and for a map of
    map_size = (h, w) pixels what its plan on this machine made of the runs."""
    arrays = packed.arrays()
    n_filters = packed.out_channels
    kernel_start = arrays["kernel_start"].astype(np.int64)
    runs = arrays["runs"].astype(np.int64).reshape(-1, 2)
    block = n_filters // (kernel_start.size - 1)
    per_unit = np.diff(kernel_start)
    pattern = np.repeat(runs[:, 0], runs[:, 1])
    before = _natural_runs(np.repeat(np.arange(per_unit.size), per_unit), arrays["channels"], pattern)
    masks = [sum(int(word) << 64 * i for i, word in enumerate(row)) for row in arrays["masks"]]
    counts = (np.bincount(pattern, minlength=len(masks)) * block).tolist()
    shape = (n_filters, packed.in_channels // packed.groups, *packed.kernel_size)
    bias_bytes = 4 * n_filters if packed.has_bias else 0
    return LayerInspection(
        name=name,
        kind=layer_kind(shape, packed.groups),
        shape=shape,
        nnz=packed.nnz,
        density=packed.nnz / prod(shape),
        patterns=_by_count(dict(zip(masks, counts, strict=True))),
        connections=int(kernel_start[-1]) * block,
        connections_total=shape[0] * shape[1],
        kernels_per_filter=Spread.of(per_unit),
        n_runs_before=before.size * block,
        runs_before=Spread.of(before),
        n_runs_after=len(runs) * block,
        runs_after=Spread.of(runs[:, 1]),
        bytes_packed=packed.n_bytes,
        bytes_dense=4 * prod(shape) + bias_bytes,
        # 4-byte values, column indices and row starts.
        bytes_csr=8 * packed.nnz + 4 * (n_filters + 1) + bias_bytes,
        **_planned(packed, map_size),
    )


def _planned(packed: Any, map_size: tuple[int, int] | None) -> dict[str, Any]:
    """The fields that need a plan. ValueError: the layer does not fit the map."""
    if map_size is None:
        return {}
    plan = packed.plan_info(1, *map_size)
    return {"ukernel": plan["ukernel"], "n_runs_planned": plan["n_runs"], "added_taps": plan["added_taps"]}


def _natural_runs(
    units: npt.NDArray[np.int64], channels: npt.NDArray[Any], pattern: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Lengths of the runs when each unit's kernels [K] are ordered by channel. No run leaves its unit, so the order of
    the units does not matter."""
    order = np.lexsort((channels, units))
    u, p = units[order], pattern[order]
    starts = np.flatnonzero((np.diff(u, prepend=-1) != 0) | (np.diff(p, prepend=-1) != 0))
    return np.diff(starts, append=order.size)


@dataclass(repr=False)
class InspectReport(Report):
    """Layerwise information of packed layers."""

    layers: list[LayerInspection] = field(default_factory=list)

    def text(self) -> str:
        headers = (
            "layer kind weight density patterns kernels of per-filter runs-before runs-after bytes dense CSR".split()
        )
        planned = any(layer.ukernel is not None for layer in self.layers)
        headers += ["ukernel", "runs-planned", "added-taps"] if planned else []
        rows = [
            (
                layer.name,
                layer.kind,
                shape_text(layer.shape),
                layer.density,
                len(layer.patterns),
                layer.connections,
                layer.connections_total,
                str(layer.kernels_per_filter),
                str(layer.runs_before),
                str(layer.runs_after),
                layer.bytes_packed,
                layer.bytes_dense,
                layer.bytes_csr,
                *((layer.ukernel or "-", layer.n_runs_planned, layer.added_taps) if planned else ()),
            )
            for layer in self.layers
        ]
        note = "per-filter: kernels; runs: kernels in a run, before and after reorder; both as min/mean/max"
        if planned:
            note += "\nruns-planned: runs of the layer on the given map, short ones merged under a covering pattern"
        return f"{format_table(headers, rows)}\n{note}"

    def to_json(self) -> dict[str, Any]:
        return {"layers": [_named_patterns(asdict(layer), layer.shape[2:]) for layer in self.layers]}


def pattern_text(layers: Sequence[LayerInspection]) -> str:
    """How the kept 3x3 kernels of all layers share the patterns, as a table of the 16 most frequent."""
    counts: dict[int, int] = {}
    for layer in layers:
        if layer.shape[2:] == (3, 3):
            for mask, count in layer.patterns.items():
                counts[mask] = counts.get(mask, 0) + count
    total = sum(counts.values())
    rows = [(pattern_name(m), n, 100 * n / total) for m, n in sorted(counts.items(), key=lambda i: (-i[1], i[0]))]
    more = f"\nand {len(rows) - 16} more" if len(rows) > 16 else ""
    return f"\n{format_table(('3x3 pattern', 'kernels', '%'), rows[:16])}{more}" if rows else ""
