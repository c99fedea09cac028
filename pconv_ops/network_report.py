"""What a model file holds, as data, text and JSON: `pconv inspect m.pconv`. Knows only data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .report import Report, format_table, layer_kind, shape_text


@dataclass(frozen=True)
class NodeRow:
    """An operator of a network. `shape`: of its output on the example; `bytes`: of its data in the file, data that it
    shares with an earlier node left out; of convolutions also `weight` (OIHW), kept weights and kernels, patterns."""

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    bytes: int
    kind: str = ""
    weight: tuple[int, ...] = ()
    nnz: int = 0
    total: int = 0
    kernels_kept: int = 0
    kernels_total: int = 0
    n_patterns: int = 0
    block: int = 1

    @property
    def density(self) -> float:
        return self.nnz / self.total if self.total else 1.0


@dataclass(repr=False)
class NetworkReport(Report):
    """A network: inputs and outputs (name -> shape), operators, sizes of the file and of all of it dense in fp32."""

    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    layers: list[NodeRow] = field(default_factory=list)
    file_bytes: int = 0
    layer_bytes: int = 0  # of convolutions
    index_bytes: int = 0  # of them: what is neither weight nor bias
    tensor_bytes: int = 0  # of linear layers and constants
    dense_bytes: int = 0
    dense_layer_bytes: int = 0
    n_choices: int = 0

    def text(self) -> str:
        headers = "node op output inputs weight kept density patterns block bytes".split()
        lines = [format_table(headers, [_cells(row) for row in self.layers])]
        for kind, values in (("input", self.inputs), ("output", self.outputs)):
            lines += [f"{kind} {name} {list(shape)}" for name, shape in values.items()]
        ratio = _ratio(self.dense_bytes, self.file_bytes)
        lines.append(f"file {self.file_bytes} bytes, dense in fp32 {self.dense_bytes}: {ratio}")
        if self.layer_bytes:
            share = self.index_bytes / self.layer_bytes
            ratio = _ratio(self.dense_layer_bytes, self.layer_bytes)
            line = f"convolutions {self.layer_bytes} bytes, dense {self.dense_layer_bytes}: {ratio}"
            lines.append(f"{line}; index {share:.1%} of them")
        if self.n_choices:
            lines.append(f"{self.n_choices} ukernels chosen by measurement")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        for key in ("inputs", "outputs"):
            plain[key] = {name: list(shape) for name, shape in plain[key].items()}
        for row, node in zip(plain["layers"], self.layers, strict=True):
            row |= {name: list(row[name]) for name in ("inputs", "shape", "weight")} | {"density": node.density}
        return plain


def network_report(model: Any, file_bytes: int) -> NetworkReport:
    """Of a NativeModel and the size of its file."""
    inputs, info = model.inputs(), model.info
    names = [name for name, _, _ in inputs]
    rows: list[NodeRow] = []
    dense_layers = 0
    for node in model.nodes():
        rows.append(_row(node, names))
        names.append(node["name"])
        dense_layers += sum(map(_dense_bytes, _own(node, "layer")))
    return NetworkReport(
        {name: shape for name, shape, _ in inputs},
        {name: shape for name, shape, _ in model.outputs()},
        rows,
        file_bytes,
        layer_bytes=info["layer_bytes"],
        index_bytes=info["index_bytes"],
        tensor_bytes=info["tensor_bytes"],
        dense_bytes=info["dense_bytes"],
        dense_layer_bytes=dense_layers,
        n_choices=info["n_choices"],
    )


def _own(node: Mapping[str, Any], name: str = "") -> list[Mapping[str, Any]]:
    """Data of a node (by this name) that it does not share with an earlier one."""
    return [data for data in node["data"] if data["shared_with"] < 0 and name in ("", data["name"])]


def _row(node: Mapping[str, Any], names: list[str]) -> NodeRow:
    own = sum(data["bytes"] for data in _own(node))
    sources = tuple(names[value] for value in node["inputs"])
    layer = next((data for data in node["data"] if data["name"] == "layer"), None)
    if layer is None:
        return NodeRow(node["name"], node["op"], sources, node["shape"], own)
    conv = layer["conv"]
    weight = _weight_shape(conv)
    kernels = weight[0] * weight[1]
    kept = (layer["n_weights"], kernels * weight[2] * weight[3], layer["n_kernels"], kernels)
    row = NodeRow(
        node["name"], node["op"], sources, node["shape"], own, layer_kind(weight, conv["groups"]), weight, *kept
    )
    return replace(row, n_patterns=layer["n_patterns"], block=layer["block"])


def _weight_shape(conv: Mapping[str, int]) -> tuple[int, int, int, int]:
    return (conv["out_channels"], conv["in_channels"] // conv["groups"], conv["kernel_h"], conv["kernel_w"])


def _dense_bytes(layer: Mapping[str, Any]) -> int:
    o, i, h, w = _weight_shape(layer["conv"])
    return 4 * (o * i * h * w + (o if layer["has_bias"] else 0))


def _cells(row: NodeRow) -> tuple[Any, ...]:
    head = (row.name, row.kind or row.op, shape_text(row.shape), " ".join(row.inputs))
    if not row.total:
        return (*head, "-", "-", "-", "-", "-", row.bytes)
    return (*head, shape_text(row.weight), row.nnz, f"{row.density:.3f}", row.n_patterns, row.block, row.bytes)


def _ratio(dense: int, kept: int) -> str:
    if not kept:
        return "-"
    return f"{dense / kept:.2f}x smaller" if kept <= dense else f"{kept / dense:.2f}x larger"
