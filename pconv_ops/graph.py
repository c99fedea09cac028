"""A network as data: values, nodes that compute them, a graph of both. What export.py makes, passes.py rewrites and
model files hold. Knows numpy alone; what the operators compute is said in docs/OPERATORS.md.

A node's attributes and data carry the names of src/graph/ops.def, with these differences:

- `conv` is not packed yet: data weight [O, I/groups, kh, kw], bias [O] or none, attributes stride (h, w), padding (top,
  left, bottom, right), dilation (h, w) and groups beside activation, alpha and beta. A second input is a residual,
  added before the activation.
- `affine` exists only until the passes are through: y = x * scale + shift along `dim`, data float64 [C].
- Attributes of any length ("dims...") are tuples.

    reshape dims: 0 copies the input's size there, -1 is what is left.
    permute dims: output dim i is input dim dims[i].
    pad dims: before and behind, dim after dim: (before_0, behind_0, before_1, ...); negative ones take away.
    slice: start and end as in Python, step >= 1, never empty; end is LAST where it goes to the end of the dim.
    mean: over the last n_dims dims.   avg_pool divisor: 0 is the size of the window.
    upsample mode: UPSAMPLE_MODES. Either out_h and out_w are 0 or scale_h and scale_w are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Attribute = int | float | tuple[int, ...]

LAST = 2**63 - 1  # `end` of a slice that goes to the end, as torch writes it
UPSAMPLE_MODES = ("nearest", "bilinear")  # by number
MAX_RANK = 6  # of a value


class Activation(IntEnum):
    """The kinds of src/kernels/tensor_ops.h, which says what each computes with alpha and beta."""

    NONE = 0
    CLAMP = 1
    LEAKY_RELU = 2
    PRELU = 3
    SIGMOID = 4
    SILU = 5
    HARD_SIGMOID = 6
    HARD_SWISH = 7
    TANH = 8
    GELU = 9
    GELU_TANH = 10
    ELU = 11


NO_ACTIVATION: dict[str, Attribute] = {"activation": int(Activation.NONE), "alpha": 0.0, "beta": 0.0}
ACTIVATED = ("conv", "linear", "activate", "add", "sub", "mul")  # operators that end with an activation


@dataclass(eq=False, repr=False)
class Value:
    """What an input brings or a node computes: float32, with `shape` on the example. `node` is None for an input."""

    name: str
    shape: Shape
    node: Node | None = None


@dataclass(eq=False, repr=False)
class Node:
    """One operation. `module` is the dotted path of the torch module that it came from, '' where there is none."""

    op: str
    inputs: list[Value]
    output: Value
    attributes: dict[str, Attribute] = field(default_factory=dict)
    data: dict[str, Array] = field(default_factory=dict)
    module: str = ""

    @property
    def name(self) -> str:
        """The same as its output's; no other value has it."""
        return self.output.name

    def number(self, name: str) -> int:
        """An attribute that is an integer."""
        value = self.attributes[name]
        assert isinstance(value, int), f"{self.name}: {name} is {value!r}"
        return value

    def numbers(self, name: str) -> tuple[int, ...]:
        """An attribute that is a tuple of integers."""
        value = self.attributes[name]
        assert isinstance(value, tuple), f"{self.name}: {name} is {value!r}"
        return value

    def real(self, name: str) -> float:
        """An attribute that is a float."""
        value = self.attributes[name]
        assert isinstance(value, float), f"{self.name}: {name} is {value!r}"
        return value

    @property
    def activation(self) -> Activation:
        """Of an operator that may have one, and of one that may not: NONE."""
        return Activation(self.number("activation")) if "activation" in self.attributes else Activation.NONE

    def __str__(self) -> str:
        parts = [_name(value) for value in self.inputs]
        parts += [f"{name} {_array_text(array)}" for name, array in self.data.items()]
        parts += [f"{name}={_attribute_text(name, value)}" for name, value in _telling(self.attributes).items()]
        origin = f"  # {self.module!r}" if self.module else ""
        return f"{_name(self.output)} {list(self.output.shape)} = {self.op}({', '.join(parts)}){origin}"


@dataclass(eq=False, repr=False)
class Graph:
    """Nodes in an order in which they can run. `single`: the network returned a tensor, not a sequence or mapping.

    Inputs of nodes and outputs are changed by the methods alone, which keep track of who reads what.
    """

    inputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    single: bool = True
    _readers: dict[Value, list[Node]] | None = None
    _names: set[str] = field(default_factory=set)

    def add_input(self, name: str, shape: Shape) -> Value:
        """A new input; `name` as it is or, where it is taken, with a number behind it."""
        self.inputs.append(Value(self._free_name(name), shape))
        return self.inputs[-1]

    def add(
        self,
        op: str,
        name: str,
        inputs: Sequence[Value],
        shape: Shape,
        attributes: Mapping[str, Attribute] | None = None,
        data: Mapping[str, Array] | None = None,
        module: str = "",
        before: Node | None = None,
    ) -> Value:
        """The output of a new node, at the end or `before` another. An activation that is not given is none."""
        output = Value(self._free_name(name), shape)
        given = dict(attributes or {})
        if op in ACTIVATED:
            given = NO_ACTIVATION | given
        output.node = Node(op, list(inputs), output, given, dict(data or {}), module)
        self.nodes.insert(len(self.nodes) if before is None else self.nodes.index(before), output.node)
        self._readers = None
        return output

    def constant(self, name: str, value: npt.ArrayLike, module: str = "", before: Node | None = None) -> Value:
        """The output of a new `constant`."""
        array = np.array(value, np.float32, order="C")  # a copy
        return self.add("constant", name, [], array.shape, {"dims": array.shape}, {"value": array}, module, before)

    def _free_name(self, name: str) -> str:
        number, free = 1, name
        while free in self._names:
            number += 1
            free = f"{name}__{number}"
        self._names.add(free)
        return free

    def readers(self, value: Value) -> list[Node]:
        """The nodes that read a value, once for each time that they do, in order. Outputs are no readers."""
        if self._readers is None:
            self._readers = {}
            for node in self.nodes:
                for source in node.inputs:
                    self._readers.setdefault(source, []).append(node)
        return self._readers.get(value, [])

    def only_reader(self, value: Value) -> Node | None:
        """The node that alone reads a value, once; None where there are none or several, outputs included."""
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def set_inputs(self, node: Node, inputs: Sequence[Value]) -> None:
        """Lets a node read other values."""
        node.inputs = list(inputs)
        self._readers = None

    def replace(self, old: Value, new: Value) -> None:
        """Everyone who read `old`, outputs included, reads `new`."""
        for node in self.readers(old):
            node.inputs = [new if value is old else value for value in node.inputs]
        self.outputs = [new if value is old else value for value in self.outputs]
        self._readers = None

    def bypass(self, node: Node, value: Value | None = None) -> None:
        """Removes a node; who read it reads `value`, by default its first input."""
        self.replace(node.output, node.inputs[0] if value is None else value)
        self.nodes.remove(node)
        self._readers = None

    def move(self, node: Node, before: Node) -> None:
        """Puts a node right before another one."""
        self.nodes.remove(node)
        self.nodes.insert(self.nodes.index(before), node)
        self._readers = None

    def remove_dead(self) -> int:
        """Removes the nodes that no output needs; how many."""
        needed: set[Value] = set(self.outputs)
        for node in reversed(self.nodes):
            if node.output in needed:
                needed.update(node.inputs)
        before = len(self.nodes)
        self.nodes = [node for node in self.nodes if node.output in needed]
        self._readers = None
        return before - len(self.nodes)

    def values(self) -> Iterator[Value]:
        """All inputs, then the output of every node."""
        yield from self.inputs
        yield from (node.output for node in self.nodes)

    def __str__(self) -> str:
        lines = [f"input {_name(value)} {list(value.shape)}" for value in self.inputs]
        lines += [str(node) for node in self.nodes]
        return "\n".join([*lines, f"output {', '.join(map(_name, self.outputs))}"])

    __repr__ = __str__


def constant_of(value: Value) -> Array | None:
    """What a value always is, where a `constant` brings it."""
    return value.node.data["value"] if value.node is not None and value.node.op == "constant" else None


def _name(value: Value) -> str:
    """Names are the user's: anything that would not stand on one line, or look like several words, is quoted."""
    plain = value.name.replace(".", "").replace("_", "").isalnum()
    return f"%{value.name if plain else repr(value.name)}"


def _telling(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """The attributes of a node without those of an activation that it does not have."""
    if attributes.get("activation", 1) != Activation.NONE:
        return dict(attributes)
    return {name: value for name, value in attributes.items() if name not in ("activation", "alpha", "beta")}


def _attribute_text(name: str, value: Attribute) -> str:
    if name == "activation" and isinstance(value, int):
        return Activation(value).name.lower()
    return (
        str(value).replace(" ", "")
        if isinstance(value, tuple)
        else f"{value:.9g}"
        if isinstance(value, float)
        else str(value)
    )


def _array_text(array: Array) -> str:
    return f"{array.item():.9g}" if array.size == 1 else str(list(array.shape))
