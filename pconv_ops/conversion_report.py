"""What convert did with a model, as data, text, JSON and picture; read back to replay the choices.

Filled by convert.py; knows only data and imports neither torch nor the core. matplotlib is imported by plot() alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .report import Report, format_table, shape_text

CHOICES = ("pconv", "dense")
_REQUIRED = ("name", "kind", "shape", "density", "chosen", "reason")


@dataclass(frozen=True)
class LayerConversion:
    """What convert did with one convolution at one place of the model, and why.

    `name` is the module's; further calls of the same module are `name__2`, `name__3`. `chosen`: "pconv" or "dense".
    `fused` names the modules and functions that the packed layer computes in its epilogue, or would. `ms_ours` and
    `ms_dense` are medians for the convolution with all of them, on the input that the layer meets. `layout`: "nchw",
    "nhwc" or "strided". `deviation`: largest |ours - dense| over the largest |dense| on the example.
    """

    name: str
    kind: str
    shape: tuple[int, ...]  # weight, OIHW
    density: float
    chosen: str
    reason: str
    input_shape: tuple[int, ...] = ()
    layout: str = ""
    fused: tuple[str, ...] = ()
    ms_ours: float | None = None
    ms_dense: float | None = None
    deviation: float | None = None


@dataclass(repr=False)
class ConvertReport(Report):
    """What convert did with each convolution and with the network. Times in milliseconds, None where none were taken.

    `ms_ours`, `ms_dense`: the converted and the original network. `deviation`: of the network's outputs. `notes`: what
    else there is to say, one sentence each: why nothing was traced, why the original came back. `pools`: max poolings
    that run natively, modules and, of a traced graph, calls, by name.
    """

    layers: list[LayerConversion] = field(default_factory=list)
    ms_ours: float | None = None
    ms_dense: float | None = None
    deviation: float | None = None
    notes: list[str] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)

    @property
    def n_accelerated(self) -> int:
        """Convolutions that run packed."""
        return sum(layer.chosen == "pconv" for layer in self.layers)

    @property
    def accelerated_share(self) -> float | None:
        """Share of the original network's time that was spent in layers which now run packed; None: not measured."""
        if not self.ms_dense:
            return None
        return min(1.0, sum(layer.ms_dense or 0.0 for layer in self.layers if layer.chosen == "pconv") / self.ms_dense)

    def text(self) -> str:
        headers = "layer kind input weight density chosen fused ms dense-ms deviation why".split()
        lines = [format_table(headers, [_cells(layer) for layer in self.layers])]
        lines.append(f"{self.n_accelerated} of {len(self.layers)} convolutions accelerated")
        if self.accelerated_share is not None:
            lines[-1] += f", in which the original spends {self.accelerated_share:.0%} of its time"
        if self.pools:
            lines.append(f"pools: {len(self.pools)} replaced")
        if self.ms_ours is not None and self.ms_dense is not None:
            ours, dense = self.ms_ours, self.ms_dense
            ratio = f"{dense / ours:.2f}x faster" if ours <= dense else f"{ours / dense:.2f}x slower"
            if ours > dense and self.n_accelerated:
                ratio += ", which is kept up to 3 %"
            lines.append(f"network: {ours:.2f} ms, original {dense:.2f} ms: {ratio}")
        if self.deviation is not None:
            lines.append(f"outputs: deviation {self.deviation:.1e}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"ms_ours": self.ms_ours, "ms_dense": self.ms_dense, "deviation": self.deviation}
        plain |= {"accelerated_share": self.accelerated_share, "notes": list(self.notes)}
        plain["pools"] = list(self.pools)
        rows = [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(row).items()} for row in self.layers]
        return {"layers": rows, **plain}

    @classmethod
    def from_json(cls, data: Any) -> ConvertReport:
        """What to_json() made, back again. ValueError: it is something else."""
        if not isinstance(data, Mapping) or not isinstance(data.get("layers"), list):
            raise ValueError("report: expected an object with a list 'layers', as ConvertReport.to_json() makes it")
        layers = [_layer_from(row, index) for index, row in enumerate(data["layers"])]
        names = [layer.name for layer in layers]
        if len(set(names)) < len(names):
            raise ValueError(f"report: layer '{max(names, key=names.count)}' is there more than once")
        notes, pools = _texts(data, "notes"), _texts(data, "pools")
        numbers = {key: _number(data.get(key), f"'{key}'") for key in ("ms_ours", "ms_dense", "deviation")}
        return cls(layers, notes=notes, pools=pools, **numbers)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ConvertReport:
        """A report that save() wrote as .json. OSError: no such file. ValueError: not such a report."""
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise ValueError(f"{os.fspath(path)}: no JSON, as save() writes it to a path in .json: {error}") from error
        except ValueError as error:  # bad JSON and bad UTF-8 are ValueErrors too
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Writes the measured time of each layer, ours beside dense. ValueError unless the suffix of `path` is .png;
        ImportError: matplotlib is missing."""
        if Path(path).suffix != ".png":
            raise ValueError(f"path: expected a suffix .png, got '{Path(path).name}'")
        from .plots import LayerTimes, save_conversion_picture  # matplotlib only with a picture

        rows = [LayerTimes(r.name, r.ms_ours, r.ms_dense, r.chosen == "pconv") for r in self.layers]
        title = f"{self.n_accelerated} of {len(self.layers)} convolutions accelerated"
        if self.ms_ours is not None and self.ms_dense is not None:
            title += f"; network {self.ms_ours:.2f} ms, original {self.ms_dense:.2f} ms"
        try:
            save_conversion_picture(Path(path), title, rows)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "matplotlib":
                raise
            raise ImportError(
                "report.plot needs matplotlib: pip install 'pconv_ops[bench]'", name=error.name
            ) from error


def _cells(row: LayerConversion) -> tuple[Any, ...]:
    deviation = "-" if row.deviation is None else f"{row.deviation:.1e}"
    seen = f"{shape_text(row.input_shape)} {row.layout}".strip() or "-"
    times = ("-" if ms is None else f"{ms:.3f}" for ms in (row.ms_ours, row.ms_dense))
    fused = "+".join(row.fused) or "-"
    head = (row.name, row.kind, seen, shape_text(row.shape), row.density, row.chosen, fused)
    return (*head, *times, deviation, row.reason)


def _layer_from(row: Any, index: int) -> LayerConversion:
    where = f"layers[{index}]"
    if not isinstance(row, Mapping):
        raise ValueError(f"report: {where} is no object")
    known = {item.name for item in fields(LayerConversion)}
    missing, unknown = [key for key in _REQUIRED if key not in row], sorted(set(row) - known)
    if missing or unknown:
        raise ValueError(f"report: {where} lacks {missing}, has unknown {unknown}")
    values = dict(row)
    for key in ("name", "kind", "chosen", "reason", "layout"):
        if not isinstance(values.get(key, ""), str):
            raise ValueError(f"report: {where}.{key}: expected text, got {values[key]!r}")
    if values["chosen"] not in CHOICES:
        raise ValueError(f"report: {where}.chosen: got {values['chosen']!r}, allowed: {', '.join(CHOICES)}")
    for key, kind in (("shape", int), ("input_shape", int), ("fused", str)):
        items = values.get(key, [])
        if not isinstance(items, (list, tuple)) or not all(type(item) is kind for item in items):
            raise ValueError(f"report: {where}.{key}: expected a list of {kind.__name__}, got {items!r}")
        values[key] = tuple(items)
    for key in ("density", "ms_ours", "ms_dense", "deviation"):
        values[key] = _number(values.get(key), f"{where}.{key}")
    if values["density"] is None:
        raise ValueError(f"report: {where}.density: expected a number, got None")
    return LayerConversion(**values)


def _texts(data: Mapping[str, Any], key: str) -> list[str]:
    texts = data.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"report: expected a list of texts in '{key}', got {texts!r}")
    return list(texts)


def _number(value: Any, where: str) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(f"report: {where}: expected a number, got {value!r}")
    return value
