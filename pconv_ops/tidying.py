"""The passes that make a graph plain: what does nothing goes, what can be one node becomes one, activations that were
written by hand become what they are. Of the same kind as those of passes.py, which run them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .folding import Float64
from .graph import LAST, Activation, Array, Graph, Node, Value, constant_of

Pass = Callable[[Graph], int]

# ---- what passes ask about nodes


@dataclass(frozen=True)
class Affine:
    """y = x * scale + shift along `dim` (None: the same everywhere); scale and shift float64 [C] or [1]."""

    x: Value
    dim: int | None
    scale: Float64
    shift: Float64

    def applied_to(self, inner: Affine) -> Affine | None:
        """This one after another; None where they go along different dims."""
        if self.dim is not None and inner.dim is not None and self.dim != inner.dim:
            return None
        dim = inner.dim if self.dim is None else self.dim
        with np.errstate(all="ignore"):
            return Affine(inner.x, dim, inner.scale * self.scale, inner.shift * self.scale + self.shift)


def affine_of(node: Node | None) -> Affine | None:
    """What an `affine` does, or an addition, subtraction or multiplication of a constant along one dim."""
    if node is None or node.activation is not Activation.NONE:
        return None
    if node.op == "affine":
        return Affine(node.inputs[0], node.number("dim"), node.data["scale"], node.data["shift"])
    if node.op not in ("add", "sub", "mul"):
        return None
    left, right = node.inputs
    constant, x = (constant_of(right), left) if constant_of(right) is not None else (constant_of(left), right)
    if constant is None or x.shape != node.output.shape or len(x.shape) < 2:
        return None
    wide = [i - constant.ndim + len(x.shape) for i, size in enumerate(constant.shape) if size != 1]
    if len(wide) > 1:
        return None
    numbers, one, zero = constant.reshape(-1).astype(np.float64), np.ones(1), np.zeros(1)
    dim = wide[0] if wide else None
    if node.op == "mul":
        return Affine(x, dim, numbers, zero)
    if node.op == "add":
        return Affine(x, dim, one, numbers)
    return Affine(x, dim, one, -numbers) if x is left else Affine(x, dim, -one, numbers)


def sole_producer(graph: Graph, node: Node) -> Node | None:
    """The node whose result `node` alone reads."""
    return node.inputs[0].node if graph.only_reader(node.inputs[0]) is node else None


# ---- tidying


def remove_dead(graph: Graph) -> int:
    """Removes nodes that no output needs."""
    return graph.remove_dead()


def remove_identities(graph: Graph) -> int:
    """Removes nodes that give their input back."""
    found = [node for node in graph.nodes if _is_identity(node)]
    for node in found:
        graph.bypass(node, next(value for value in node.inputs if constant_of(value) is None))
    return len(found)


def _is_identity(node: Node) -> bool:
    if node.activation is not Activation.NONE or all(constant_of(value) is not None for value in node.inputs):
        return False
    if node.op in ("activate", "concat"):
        return len(node.inputs) == 1
    if node.op in ("reshape", "flatten"):
        return node.inputs[0].shape == node.output.shape
    if node.op == "permute":
        return node.numbers("dims") == tuple(range(len(node.output.shape)))
    if node.op == "pad":
        return not any(node.numbers("dims"))
    if node.op == "slice":
        return (node.number("start"), node.number("end"), node.number("step")) == (0, LAST, 1)
    affine = affine_of(node)
    return affine is not None and bool((affine.scale == 1).all()) and bool((affine.shift == 0).all())


def fold_constants(graph: Graph) -> int:
    """Computes nodes all of whose inputs are constants."""
    found = 0
    for node in list(graph.nodes):
        values = [constant_of(value) for value in node.inputs]
        arrays = [value for value in values if value is not None]
        if node.op in _EVALUATED and len(arrays) == len(values) and node.activation is Activation.NONE:
            result = _EVALUATED[node.op](node, *arrays)
            graph.bypass(node, graph.constant(f"{node.name}.constant", result, node.module, before=node))
            found += 1
    return found


_EVALUATED: dict[str, Callable[..., Array]] = {
    "add": lambda node, a, b: a + b,
    "sub": lambda node, a, b: a - b,
    "mul": lambda node, a, b: a * b,
    "concat": lambda node, *arrays: np.concatenate(arrays, node.number("dim")),
    "reshape": lambda node, x: x.reshape(node.output.shape),
    "flatten": lambda node, x: x.reshape(node.output.shape),
    "permute": lambda node, x: x.transpose(node.numbers("dims")),
}


def compose_permutes(graph: Graph) -> int:
    """A permute of a permute is one permute of its input."""
    found = 0
    for node in graph.nodes:
        inner = node.inputs[0].node if node.op == "permute" else None
        if inner is not None and inner.op == "permute":
            node.attributes["dims"] = tuple(inner.numbers("dims")[dim] for dim in node.numbers("dims"))
            graph.set_inputs(node, inner.inputs)
            found += 1
    return found


def compose_reshapes(graph: Graph) -> int:
    """A reshape of a reshape is one reshape of its input, where sizes that it copies were copied before. A flatten
    counts as one."""
    found = 0
    for node in graph.nodes:
        inner = node.inputs[0].node if node.inputs else None
        outer_dims, inner_dims = _reshape_dims(node), _reshape_dims(inner)
        if inner is None or outer_dims is None or inner_dims is None:
            continue
        if all(inner_dims[i : i + 1] == (0,) for i, dim in enumerate(outer_dims) if dim == 0):
            node.op, node.attributes = "reshape", {"dims": outer_dims}
            graph.set_inputs(node, inner.inputs)
            found += 1
    return found


def _reshape_dims(node: Node | None) -> tuple[int, ...] | None:
    """The dims of a reshape, or of a flatten up to the last dim written as one; None: another node."""
    if node is None or node.op not in ("reshape", "flatten"):
        return None
    if node.op == "reshape":
        return node.numbers("dims")
    whole = node.number("end_dim") == len(node.inputs[0].shape) - 1
    return (*[0] * node.number("start_dim"), -1) if whole else None


def compose_clamps(graph: Graph) -> int:
    """A clamp right after another clamp becomes part of it."""
    found = 0
    for node in list(graph.nodes):
        inner = sole_producer(graph, node) if node.op == "activate" else None
        if inner is None or not node.activation is inner.activation is Activation.CLAMP:
            continue
        low, high = node.real("alpha"), node.real("beta")
        for name in ("alpha", "beta"):
            inner.attributes[name] = min(max(inner.real(name), low), high)
        graph.bypass(node)
        found += 1
    return found


def pool_to_mean(graph: Graph) -> int:
    """Adaptive pooling to one pixel is a mean; a mean whose dims are dropped right behind it does not keep them."""
    found = 0
    for node in list(graph.nodes):
        if node.op == "adaptive_avg_pool" and (node.number("out_h"), node.number("out_w")) == (1, 1):
            node.op, node.attributes = "mean", {"n_dims": 2, "keepdim": 1}
            found += 1
        if node.op == "mean" and node.number("keepdim"):
            reader, kept = graph.only_reader(node.output), node.inputs[0].shape[: -node.number("n_dims")]
            if reader is not None and reader.op in ("reshape", "flatten") and reader.output.shape == kept:
                node.attributes["keepdim"], node.output.shape = 0, kept
                graph.bypass(reader)
                found += 1
    return found


# ---- patterns: activations that were written by hand


def recognise_hard_activations(graph: Graph) -> int:
    """clamp(x + 3, 0, 6) / 6 is hardsigmoid(x); x * clamp(x + 3, 0, 6) / 6 is hardswish(x)."""
    found = 0
    for node in list(graph.nodes):
        source = _times_constant(node, 1 / 6)
        inner = source.node if source is not None and graph.only_reader(source) is node else None
        if inner is None:
            continue
        x = _clamp_of_plus_three(graph, inner.output)
        if x is not None:
            _become_activation(graph, node, x, Activation.HARD_SIGMOID)
            found += 1
        elif _is_plain(inner, "mul"):
            for x, gate in (inner.inputs, inner.inputs[::-1]):
                if graph.only_reader(gate) is inner and _clamp_of_plus_three(graph, gate) is x:
                    _become_activation(graph, node, x, Activation.HARD_SWISH)
                    found += 1
                    break
    return found


_GATED = {Activation.SIGMOID: Activation.SILU, Activation.HARD_SIGMOID: Activation.HARD_SWISH}


def recognise_gates(graph: Graph) -> int:
    """x * sigmoid(x) is silu(x), x * hardsigmoid(x) is hardswish(x)."""
    found = 0
    for node in list(graph.nodes):
        for x, gate in (node.inputs, node.inputs[::-1]) if _is_plain(node, "mul") else ():
            inner = gate.node
            if inner is None or inner.op != "activate" or inner.inputs[0] is not x or inner.activation not in _GATED:
                continue
            _become_activation(graph, node, x, _GATED[inner.activation])
            found += 1
            break
    return found


def _is_plain(node: Node | None, op: str) -> bool:
    return node is not None and node.op == op and node.activation is Activation.NONE


def _times_constant(node: Node, factor: float) -> Value | None:
    """x where `node` is x times this number; None: something else."""
    return _other_operand(node, factor) if _is_plain(node, "mul") else None


def _other_operand(node: Node, number: float) -> Value | None:
    for value, other in (node.inputs, node.inputs[::-1]):
        constant = constant_of(value)
        if constant is not None and constant.size == 1 and abs(constant.item() - number) <= 1e-6 * number:
            return other
    return None


def _clamp_of_plus_three(graph: Graph, value: Value) -> Value | None:
    """x where a value is clamp(x + 3, 0, 6) and the sum is read by nobody else."""
    clamp = value.node
    if clamp is None or clamp.op != "activate" or clamp.activation is not Activation.CLAMP:
        return None
    plus = clamp.inputs[0].node
    if (clamp.real("alpha"), clamp.real("beta")) != (0.0, 6.0) or plus is None or not _is_plain(plus, "add"):
        return None
    return _other_operand(plus, 3.0) if graph.only_reader(plus.output) is clamp else None


def _become_activation(graph: Graph, node: Node, x: Value, kind: Activation) -> None:
    node.op, node.data = "activate", {}
    node.attributes = {"activation": int(kind), "alpha": 0.0, "beta": 0.0}
    graph.set_inputs(node, [x])


TIDYING: tuple[Pass, ...] = (
    *(remove_dead, fold_constants, remove_identities),
    *(compose_permutes, compose_reshapes, compose_clamps, pool_to_mean),
)
PATTERNS: tuple[Pass, ...] = (recognise_hard_activations, recognise_gates)
