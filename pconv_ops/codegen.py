"""C++ for one compiled network (PCONV, AAAI 2020, section 5: code is generated for the DNN): the graph as straight
calls of the core's operators, weights in a file beside it, a CMake project for host and aarch64.

The code is written for one set of input shapes and any instruction set: which ukernels run is decided where it runs.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._native import NativeModel, NativeSession
from .codegen_templates import CMAKE, HEADER, MAIN, README, SOURCE

CLAMP, ALIGN = 1, 64  # the activation that convolutions compute themselves; of pieces of the weights file, in bytes
Place = tuple[str, int, int, tuple[int, ...], int]  # base, index, offset, shape, step


def emit_cpp(model: NativeModel, session: NativeSession, folder: Path) -> list[Path]:
    """Writes network.h, network.cpp, network.weights, main.cpp, CMakeLists.txt and README.md into `folder`, which is
    made; other files in it stay. Returns their paths. OSError: it cannot be written."""
    emitter = _Emitter(model, session)
    emitter.emit()
    files = {
        "network.h": emitter.header(),
        "network.cpp": emitter.source(),
        "main.cpp": MAIN.format(n_inputs=len(emitter.input_shapes), n_outputs=len(emitter.output_shapes)),
        "CMakeLists.txt": CMAKE,
        "README.md": README.format(
            inputs=_shapes_text(emitter.input_shapes), outputs=_shapes_text(emitter.output_shapes)
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "network.weights").write_bytes(bytes(emitter.weights))
    return [folder / name for name in (*files, "network.weights")]


@dataclass
class _Emitter:
    """Collects the lines of the constructor (`prepare`) and of run() (`calls`)."""

    model: NativeModel
    session: NativeSession
    prepare: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    weights: bytearray = field(default_factory=bytearray)
    n_plans: int = 0
    n_ops: int = 0

    def __post_init__(self) -> None:
        self.nodes = self.model.nodes()
        self.steps = self.session.steps()
        self.input_shapes = [shape for _, shape, _ in self.model.inputs()]
        self.output_shapes = list(self.session.output_shapes)
        # (node, index) of data -> that of the equal data which comes first; where that lies in the weights file.
        order = [(i, k) for i, node in enumerate(self.nodes) for k in range(len(node["data"]))]
        shared = (self.nodes[i]["data"][k]["shared_with"] for i, k in order)
        self.first = {own: own if number < 0 else order[number] for own, number in zip(order, shared, strict=True)}
        self.written: dict[tuple[int, int], tuple[int, int]] = {}

    def emit(self) -> None:
        for step in self.steps:
            if step["op"] == "conv":
                self._emit_conv(step)
            elif step["op"] == "copy":
                self._emit_op(step, "slice", _whole(step["inputs"][0]), (), {})
            else:
                node = self.nodes[step["node"]]
                self._emit_op(step, step["op"], node["ints"], node["floats"], self._data(step["node"]))

    # ---- calls

    def _emit_conv(self, step: Mapping[str, Any]) -> None:
        node = self.nodes[step["node"]]
        kind, (alpha, beta) = node["ints"][0], node["floats"]
        low, high = (alpha, beta) if kind == CLAMP else (-math.inf, math.inf)
        x, y = step["inputs"][0], step["output"]
        residual = step["inputs"][1] if len(step["inputs"]) > 1 else None
        images = x[3][0]
        together = all(_is_contiguous(place) for place in (x, y, *([residual] if residual else [])))
        at, size = self._write(step["node"], 0)
        plan, self.n_plans = self.n_plans, self.n_plans + 1
        h, w = x[3][2:]
        shape = f"{images if together else 1}, {h}, {w}, {step['max_pool']}"
        self.prepare.append(f"plans_[{plan}] = plan_conv(weights + {at}, {size}, {shape});  // {_label(step)}")
        for i in range(1 if together else images):
            x_at, y_at, plus = (self._address(place, i) for place in (x, y, residual))
            tensors, limits = f"{x_at}, {plus}, {y_at}", f"{_float(low)}, {_float(high)}"
            self.calls.append(f"conv(plans_[{plan}], {tensors}, {limits}, n_threads);  // {_label(step)}")
        if kind not in (0, CLAMP):
            data = {name: value for name, value in self._data(step["node"]).items() if name == "slope"}
            activation = {**step, "inputs": [y]}
            self._emit_op(activation, "activate", node["ints"], node["floats"], data)

    def _emit_op(
        self,
        step: Mapping[str, Any],
        op: str,
        ints: Sequence[int],
        floats: Sequence[float],
        data: Mapping[str, tuple[int, int]],
    ) -> None:
        number, self.n_ops = self.n_ops, self.n_ops + 1
        shapes = ", ".join(_shape(place) for place in step["inputs"])
        values = ", ".join(f'{{"{name}", floats + {at}, {count}}}' for name, (at, count) in data.items())
        numbers = ", ".join(_int(value) for value in ints)
        fractions = ", ".join(_float(value) for value in floats)
        self.prepare.append(
            f'ops_[{number}].reset(make_op("{op}", {{{shapes}}}, {{{numbers}}}, {{{fractions}}}, {{{values}}}, '
            f"{step['output'][4]}));  // {_label(step)}"
        )
        inputs = ", ".join(self._address(place, 0) for place in step["inputs"])
        output = self._address(step["output"], 0)
        self.calls.append(f"run_op(ops_[{number}], {{{inputs}}}, {output}, n_threads);  // {_label(step)}")

    def _address(self, place: Place | None, image: int) -> str:
        if place is None:
            return "nullptr"
        base, index, offset, _, step = place
        offset += image * step
        if base == "data":
            return f"constants + {self._write(index, 0)[0] // 4 + offset}"
        name = {"arena": "arena", "input": f"x{index}", "output": f"y{index}"}[base]
        return f"{name} + {offset}" if offset else name

    # ---- weights

    def _add_bytes(self, data: bytes) -> int:
        """Where they lie in the weights file."""
        self.weights += bytes(-len(self.weights) % ALIGN)
        at = len(self.weights)
        self.weights += data
        return at

    def _write(self, node: int, index: int) -> tuple[int, int]:
        """Where data of a node lie, and their number of bytes; data that nodes share are written once."""
        first = self.first[node, index]
        if first not in self.written:
            layer = self.nodes[node]["data"][index]["name"] == "layer"
            values = (
                self.model.layer(node).to_bytes() if layer else self.model.values(node, index).astype("<f4").tobytes()
            )
            self.written[first] = self._add_bytes(values), len(values)
        return self.written[first]

    def _data(self, node: int) -> dict[str, tuple[int, int]]:
        """Tensors by name: (floats from the start of the weights, their number)."""
        found = {}
        for i, row in enumerate(self.nodes[node]["data"]):
            if row["name"] != "layer":
                at, size = self._write(node, i)
                found[row["name"]] = (at // 4, size // 4)
        return found

    # ---- files

    def header(self) -> str:
        return HEADER.format(
            parameters=self._parameters(),
            comment=_comment(self.input_shapes, self.output_shapes),
            n_plans=max(self.n_plans, 1),
            n_ops=max(self.n_ops, 1),
            arena=max(self.session.info["arena_bytes"] // 4, 1),
            input_sizes=", ".join(str(math.prod(shape)) for shape in self.input_shapes),
            output_sizes=", ".join(str(math.prod(shape)) for shape in self.output_shapes),
        )

    def source(self) -> str:
        self._add_bytes(b"")
        self.weights += struct.pack("<I", zlib.crc32(bytes(self.weights)))
        return SOURCE.format(
            parameters=self._parameters(),
            n_bytes=len(self.weights),
            prepare="\n  ".join(self.prepare),
            calls="\n  ".join(self.calls),
        )

    def _parameters(self) -> str:
        inputs = [f"const float* x{i}" for i in range(len(self.input_shapes))]
        return ", ".join([*inputs, *(f"float* y{i}" for i in range(len(self.output_shapes)))])


def _is_contiguous(place: Place) -> bool:
    shape, step = place[3], place[4]
    return shape[0] <= 1 or step == math.prod(shape[1:])


def _whole(place: Place) -> tuple[int, int, int, int]:
    """Attributes of a slice that leaves nothing out."""
    return 0, 0, place[3][0], 1


def _shape(place: Place) -> str:
    return f"{{{len(place[3])}, {{{', '.join(map(str, place[3]))}}}, {place[4]}}}"


def _int(value: int) -> str:
    return "INT64_MAX" if value == 2**63 - 1 else str(value)


def _float(value: float) -> str:
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    if math.isnan(value):
        return "NAN"
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _label(step: Mapping[str, Any]) -> str:
    """The node's name, which is the user's, as a comment may hold it."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", step["name"])[:60]


def _shapes_text(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "a single number" for shape in shapes)


def _comment(inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]) -> str:
    rows = [f"x{i}: {_shapes_text([shape])}" for i, shape in enumerate(inputs)]
    return ", ".join([*rows, *(f"y{i}: {_shapes_text([shape])}" for i, shape in enumerate(outputs))])
