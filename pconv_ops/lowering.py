"""What handlers of operators build with: the registry, a Builder of nodes, and the errors about what cannot be built.

Used by aten.py and aten_shapes.py, which hold the handlers, and by export.py, which calls them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .graph import LAST, MAX_RANK, Activation, Array, Attribute, Graph, Shape, Value

Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}  # by name and overload, without namespace for aten's own


class Lacking(Exception):
    """There is no such operator in our graphs, or not with these arguments; the text says why, or is empty."""


@dataclass(frozen=True)
class MissingOperator:
    """An operation that our graphs cannot express. `node`: its name in torch's graph; `module`: dotted path, '' for the
    model itself; `where`: the line of Python that called it, '' where torch does not know; `reason`: why not, '' where
    there is no such operator at all."""

    operator: str
    node: str
    module: str
    where: str
    reason: str

    def __str__(self) -> str:
        place = f"in module '{self.module}'" if self.module else "in the model's own forward"
        reason = f": {self.reason}" if self.reason else ""
        where = f"\n    {self.where}" if self.where else ""
        return f"{self.operator} (node '{self.node}' {place}){reason}{where}"


class UnsupportedOperatorError(ValueError):
    """A model uses operators that our graphs lack; `missing` has all of them, in the order in which they run."""

    def __init__(self, missing: list[MissingOperator]) -> None:
        self.missing = missing
        count = "an operator" if len(missing) == 1 else f"{len(missing)} operators"
        super().__init__("\n".join([f"model: {count} cannot be compiled:", *(f"- {row}" for row in missing)]))


class ChangedState(ValueError):
    """A forward changes a tensor of its model and reads it: a graph would not do that."""

    def __init__(self, name: str) -> None:
        super().__init__(f"model: its forward changes '{name}', which a graph would not do")


class ExportError(ValueError):
    """Neither torch.export nor torch.fx can turn the model into a graph; the text says why."""


class Builder:
    """Adds nodes to a graph for the operator at hand, whose name, module and output shape it knows.

    `batch`: size of dim 0 of the network's first input. Where a reshape names it, it is left open.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.name, self.module = "", ""
        self.shape: Shape = ()
        # The tensors are held, so that nothing else comes to lie at their addresses.
        self._parameters: dict[tuple[Any, ...], tuple[torch.Tensor, Array]] = {}

    @property
    def batch(self) -> int:
        shapes = [value.shape for value in self.graph.inputs if value.shape]
        return shapes[0][0] if shapes else 1

    def add(
        self,
        op: str,
        inputs: Sequence[Any],
        attributes: Mapping[str, Attribute] | None = None,
        data: Mapping[str, Array | None] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Value:
        """A node's output, of the shape that the operator at hand gives, or another. Data that is None is left out."""
        values = [self.value(source) for source in inputs]
        held = {name: array for name, array in (data or {}).items() if array is not None}
        given = self.shape if shape is None else tuple(int(size) for size in shape)
        if shape is None and op in ("add", "sub", "mul") and np.broadcast_shapes(*(v.shape for v in values)) != given:
            raise Lacking("repeats a tensor that was expanded: only what it is added to or multiplied with may do that")
        if len(given) > MAX_RANK:
            raise Lacking(f"makes {len(given)} dimensions; there are at most {MAX_RANK}")
        return self.graph.add(op, self.name, values, given, attributes, held, self.module)

    def value(self, source: Any) -> Value:
        """A Value as it is; of a constant, the output of a `constant` node."""
        if isinstance(source, Value):
            return source
        return self.graph.constant(f"{self.name}.constant", array_of(source), self.module)

    def parameter(self, name: str, tensor: Any) -> Array | None:
        """Data of a node from a constant, or None; the same array for the same tensor. Lacking: it is none."""
        if tensor is None:
            return None
        if isinstance(tensor, Value):
            raise Lacking(f"its {name} depends on the input")
        key = (tensor.data_ptr(), tensor._version, tensor.shape, tensor.stride())
        if key not in self._parameters:
            self._parameters[key] = tensor, array_of(tensor)
        return self._parameters[key][1]

    def activate(
        self, x: Value, kind: Activation, alpha: float = 0.0, beta: float = 0.0, slope: Array | None = None
    ) -> Value:
        given = {"activation": int(kind), "alpha": float(alpha), "beta": float(beta)}
        return self.add("activate", [x], given, {"slope": slope}, x.shape)

    def reshape(self, x: Value, shape: Sequence[int], dims: Sequence[int] | None = None) -> Value:
        """`x` in another shape. dims: as the user wrote it, with -1. Other sizes work as far as a graph can say so:
        neighbouring dims that become one are flattened; else leading sizes that stay are copied from the input, and a
        first one that holds the batch is left open."""
        if tuple(shape) == x.shape:
            return x
        merged = _merged_dims(x.shape, tuple(shape))
        if merged is not None:
            return self.add("flatten", [x], {"start_dim": merged[0], "end_dim": merged[1]}, shape=shape)
        wanted = list(shape if dims is None else dims)
        for i, (old, new) in enumerate(zip(x.shape, shape, strict=False)):
            if old != new:
                break
            wanted[i] = 0
        if wanted and wanted[0] > 0 and wanted[0] % self.batch == 0:
            wanted = [-1, *shape[1:]]
        return self.add("reshape", [x], {"dims": tuple(wanted)}, shape=shape)

    def permute(self, x: Value, dims: Sequence[int]) -> Value:
        if list(dims) == list(range(len(dims))):
            return x
        return self.add("permute", [x], {"dims": tuple(dims)}, shape=[x.shape[dim] for dim in dims])

    def slice(self, x: Value, dim: int, start: int, end: int, step: int = 1) -> Value:
        """x[start:end:step] along `dim`, with the meaning that Python gives to negative numbers and to large ones."""
        size = x.shape[dim]
        count = len(range(size)[start:end:step])
        if not count:
            raise Lacking("takes an empty slice")
        if (start, end, step) == (0, LAST, 1):  # of a larger input others may leave something out
            return x
        given: dict[str, Attribute] = {"dim": dim, "start": start, "end": end, "step": step}
        return self.add("slice", [x], given, shape=[*x.shape[:dim], count, *x.shape[dim + 1 :]])


def _merged_dims(old: Shape, new: Shape) -> tuple[int, int] | None:
    """(first, last) of the dims of `old` that are one in `new` while all others stay; None: no such dims."""
    n_gone = len(old) - len(new)
    if n_gone < 1:
        return None
    for first in range(len(new)):
        last = first + n_gone
        if (*old[:first], math.prod(old[first : last + 1]), *old[last + 1 :]) == new:
            return first, last
    return None


def array_of(source: Any) -> Array:
    """A float32 copy of a constant: a tensor or a number."""
    tensor = source if isinstance(source, torch.Tensor) else torch.tensor(source)
    if tensor.is_complex():
        raise Lacking("has a complex constant")
    return np.array(tensor.detach().to(torch.float32).resolve_neg().contiguous().numpy())


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Registers a handler for these operators."""

    def register(handler: Handler) -> Handler:
        assert not HANDLERS.keys() & set(names)
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


# ---- arguments


def pair(value: Any) -> tuple[int, int]:
    numbers = [value] if isinstance(value, int) else list(value)
    return int(numbers[0]), int(numbers[-1])


def planes(x: Any) -> Value:
    if not isinstance(x, Value) or len(x.shape) != 4:
        raise Lacking(f"takes [N, C, H, W] here, got {list(x.shape)}")
    return x


def dim_of(dim: int, rank: int) -> int:
    return dim + rank if dim < 0 else dim
