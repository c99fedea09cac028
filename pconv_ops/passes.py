"""Passes over a Graph: each a small function that changes the graph in place and says how many times it did.

optimize() runs them all, in the order that lets each see what it is for: patterns while they are whole (tidying.py),
then folding into weights, then fusing into epilogues. What a pass does holds for every input, up to rounding; shapes of
the example decide only where they are the same for every batch. Knows data alone, neither torch nor the core.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .folding import scaled
from .graph import ACTIVATED, Activation, Graph, Node, Value, constant_of
from .tidying import PATTERNS, TIDYING, Pass, affine_of

_MAX_PADDING = 65535  # of a side (docs/FORMAT.md)


def optimize(graph: Graph) -> Graph:
    """The same graph, rewritten for speed by all passes until none finds anything. Afterwards no `affine` is left."""
    _until_settled(graph, (*TIDYING, *PATTERNS))
    _until_settled(graph, (*TIDYING, *FOLDING))
    lower_affine(graph)
    _until_settled(graph, (*TIDYING, *FUSING))
    return graph


def _until_settled(graph: Graph, passes: Sequence[Pass]) -> None:
    while sum(step(graph) for step in passes):
        pass


# ---- folding into weights


def fold_affine(graph: Graph) -> int:
    """BatchNorm, and constants added to and multiplied with the result of a convolution or linear layer that nobody
    else reads, go into its weights and bias, in float64, where these stay finite. Zeros stay zeros. Pixel shuffles and
    slices of planes may lie in between."""
    found = 0
    for node in list(graph.nodes):
        affine = affine_of(node)
        layer, repeats = _source_of(graph, affine.x, node) if affine is not None else (None, 1)
        if affine is None or layer is None or not _takes_affine(layer):
            continue
        if layer.op == "linear" and layer is not affine.x.node:
            continue  # its channels are the columns of planes
        if affine.dim not in (None, 1 if layer.op == "conv" else len(layer.output.shape) - 1):
            continue
        factors = [
            np.repeat(numbers, repeats) if numbers.size > 1 else numbers for numbers in (affine.scale, affine.shift)
        ]
        arrays = scaled(layer.data["weight"], layer.data.get("bias"), *factors)
        if arrays is not None:
            layer.data |= {"weight": arrays[0], "bias": arrays[1]}
            graph.bypass(node, affine.x)
            found += 1
    return found


def _source_of(graph: Graph, value: Value, reader: Node) -> tuple[Node | None, int]:
    """(node, n): where a value comes from that one reader alone sees, the steps in between too. These only move pixels
    of planes: of the node's channels n in a row become one. None: the value is an input, or others see it."""
    repeats = 1
    while graph.only_reader(value) is reader and value.node is not None:
        reader = value.node
        if reader.op == "pixel_shuffle":
            repeats *= reader.number("factor") ** 2
        elif reader.op != "slice" or len(value.shape) != 4 or reader.number("dim") < 2:
            return reader, repeats
        value = reader.inputs[0]
    return None, repeats


def _takes_affine(node: Node) -> bool:
    return node.op in ("conv", "linear") and len(node.inputs) == 1 and node.activation is Activation.NONE


def merge_affines(graph: Graph) -> int:
    """Two scalings and shifts in a row become one `affine`."""
    found = 0
    for node in list(graph.nodes):
        outer = affine_of(node)
        inner = affine_of(outer.x.node) if outer is not None else None
        if outer is None or inner is None or graph.only_reader(outer.x) is not node:
            continue
        both = outer.applied_to(inner)
        if both is not None:
            node.op, node.attributes = "affine", {"dim": 1 if both.dim is None else both.dim}
            node.data = {"scale": both.scale, "shift": both.shift}
            graph.set_inputs(node, [both.x])
            found += 1
    return found


def lower_affine(graph: Graph) -> int:
    """What is left of `affine` becomes a multiplication and an addition of constants, each where it does something."""
    found = [node for node in graph.nodes if node.op == "affine"]
    for node in found:
        value, shape = node.inputs[0], [1] * len(node.output.shape)
        shape[node.number("dim")] = -1
        for op, name, neutral in (("mul", "scale", 1), ("add", "shift", 0)):
            numbers = node.data[name]
            if (numbers == neutral).all():
                continue
            constant = numbers.reshape(shape) if numbers.size > 1 else numbers.reshape(())
            inputs = [value, graph.constant(f"{node.name}.{name}", constant, node.module, node)]
            value = graph.add(op, f"{node.name}.{op}", inputs, node.output.shape, module=node.module, before=node)
        graph.bypass(node, value)
    return len(found)


def fold_padding(graph: Graph) -> int:
    """Zeros padded around an image go into the convolutions that read it, which pad by zeros themselves."""
    found = 0
    for node in list(graph.nodes):
        pad = node.inputs[0].node if node.op == "conv" else None
        if pad is None or pad.op != "pad" or pad.real("value") != 0 or any(pad.numbers("dims")[:4]):
            continue
        if min(pad.numbers("dims")) < 0:
            continue
        above, below, before, behind = pad.numbers("dims")[4:]
        sides = zip(node.numbers("padding"), (above, before, below, behind), strict=True)
        padding = tuple(own + more for own, more in sides)
        if max(padding) <= _MAX_PADDING:
            node.attributes["padding"] = padding
            graph.set_inputs(node, [pad.inputs[0], *node.inputs[1:]])
            found += 1
    return found


# ---- fusing into epilogues


def fuse_activations(graph: Graph) -> int:
    """An activation moves into the operator before it that can have one, where nobody else reads what lies between.
    Pixel shuffles and slices of planes may."""
    found = 0
    for node in list(graph.nodes):
        source, repeats = _source_of(graph, node.inputs[0], node) if node.op == "activate" else (None, 1)
        if source is not None and source.op in ACTIVATED and source.activation is Activation.NONE:
            _take_activation(source, node, repeats)
            graph.bypass(node)
            found += 1
    return found


def fuse_residuals(graph: Graph) -> int:
    """An addition of equal shapes, with the activation behind it, moves into a convolution that only it reads: into the
    later one of two, which then has the result of the other. A convolution has one residual, before its activation."""
    found = 0
    for node in list(graph.nodes):
        conv = _adding_conv(graph, node) if node.op == "add" else None
        if conv is None:
            continue
        residual = next(value for value in node.inputs if value is not conv.output)
        graph.move(conv, node)
        graph.set_inputs(conv, [conv.inputs[0], residual])
        _take_activation(conv, node)
        graph.bypass(node, conv.output)
        found += 1
    return found


def _adding_conv(graph: Graph, add: Node) -> Node | None:
    """The convolution that can take an addition."""
    # A constant has one shape for every batch; on the example it may look like a residual.
    if any(value.shape != add.output.shape or constant_of(value) is not None for value in add.inputs):
        return None
    sources = [value.node for value in add.inputs if value.node is not None and graph.only_reader(value) is add]
    convs = [node for node in sources if node.op == "conv" and _takes_affine(node)]
    return max(convs, key=graph.nodes.index, default=None)


def _take_activation(node: Node, giver: Node, repeats: int = 1) -> None:
    """`repeats`: channels of `node` that are one channel of `giver`."""
    node.attributes |= {name: giver.attributes[name] for name in ("activation", "alpha", "beta")}
    if "slope" in giver.data:
        node.data["slope"] = np.repeat(giver.data["slope"], repeats)


FOLDING: tuple[Pass, ...] = (fold_padding, fold_affine, merge_affines)
FUSING: tuple[Pass, ...] = (fuse_activations, fuse_residuals)
