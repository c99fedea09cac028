"""A Graph, its passes done -> a network in the core, convolutions packed. Knows the rows of src/graph/ops.def through
the core; decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from ._native import ModelBuilder, NativeModel, PackedConv, operators
from .graph import Graph, Node, Value
from .packing import pack

WEIGHTS = ("fp32", "fp16")  # how layers and weights of linear layers are stored
MAX_NAME = 4096  # bytes, docs/FORMAT.md
_ROWS = {row["name"]: row for row in operators()}


class Encoder:
    """Encodes one graph, as often as its caller likes: convolutions are packed once, also those of a module that is
    called twice."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.packed: dict[tuple[Any, ...], PackedConv] = {}

    def encode(self, weights: str = "fp32", free_dims: Sequence[int] = ()) -> NativeModel:
        """The network of the graph. weights: 'fp16' rounds those of convolutions and linear layers, ValueError where
        one is beyond 65504. free_dims, of each input: bit i lets it have another dims[i] than the example's."""
        builder = ModelBuilder()
        numbers: dict[Value, int] = {}
        for value, free in zip_longest(self.graph.inputs, free_dims, fillvalue=0):
            assert isinstance(value, Value)  # there are not more masks than inputs
            numbers[value] = builder.add_input(_text(value.name), value.shape, free)
        for node in self.graph.nodes:
            inputs = [numbers[value] for value in node.inputs]
            attributes = _attributes(node, "ints"), _attributes(node, "floats")
            data = self._data(node)
            numbers[node.output] = builder.add_node(
                node.op, _text(node.name), inputs, *attributes, data, fp16=weights == "fp16"
            )
        for value in self.graph.outputs:
            builder.add_output(_text(value.name), numbers[value])
        model = builder.finish(self.graph.single)
        for row, node in zip(model.nodes(), self.graph.nodes, strict=True):
            if row["shape"] != node.output.shape:  # a handler or pass has lied about what it made
                raise AssertionError(f"{node.name}: is {list(row['shape'])}, the graph says {list(node.output.shape)}")
        return model

    def _data(self, node: Node) -> dict[str, npt.NDArray[np.float32] | PackedConv]:
        data: dict[str, npt.NDArray[np.float32] | PackedConv] = {}
        for entry in _ROWS[node.op]["data"]:
            name = entry.strip("[]")
            if name == "layer":
                data[name] = self._layer(node)
            elif name in node.data:
                data[name] = np.ascontiguousarray(node.data[name], np.float32)
        return data

    def _layer(self, node: Node) -> PackedConv:
        weight, bias = node.data["weight"], node.data.get("bias")
        top, left, bottom, right = node.numbers("padding")
        sides = ((top, bottom), (left, right))
        (stride_h, stride_w), (dilation_h, dilation_w) = node.numbers("stride"), node.numbers("dilation")
        geometry = ((stride_h, stride_w), sides, (dilation_h, dilation_w), node.number("groups"))
        key = (id(weight), id(bias), *geometry)
        if key not in self.packed:
            try:
                self.packed[key] = pack(weight, bias, *geometry)
            except ValueError as error:
                raise ValueError(f"model: '{node.name}': {error}") from error
        return self.packed[key]


def _text(name: str) -> str:
    """A name as model files may hold it: one line of UTF-8."""
    line = "".join(c if c.isprintable() else "?" for c in name) or "?"
    return line.encode("utf-8", "replace")[:MAX_NAME].decode("utf-8", "ignore")


def _attributes(node: Node, kind: str) -> list[Any]:
    items: list[Any] = []
    for name in _ROWS[node.op][kind]:
        value = node.attributes[name.removesuffix("...")]
        items += value if isinstance(value, tuple) else [value]
    return items
