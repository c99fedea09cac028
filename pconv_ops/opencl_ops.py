"""The operators of a network -> calls of OpenCL kernels (docs/OPERATORS.md says what they compute). Numpy alone: what a
call reads and writes is named, not allocated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from ._native import PackedConv
from .graph import Shape
from .opencl_conv import TEXEL, ConvProgram, Tile, program_of
from .opencl_tuning import default_tile, layer_key
from .opencl_upsample import input_ratio, linear_tables, nearest_table

MAX_FLOATS = 2**31 - 1  # kernels number floats by 32-bit integers
_RANK = 6


@dataclass(frozen=True)
class Use:
    """A tensor as a kernel's argument: of a value of the network, or (negative) scratch of the node."""

    value: int


@dataclass(frozen=True)
class Texels:
    """A tensor as a kernel's argument: an image of `count` texels of four floats, over its memory."""

    value: int
    count: int


@dataclass(frozen=True)
class Call:
    """A kernel and what it is called with. args: Use, Texels, numpy arrays (uploaded once), int and float. size: items
    that are needed; a device may add more, which do nothing."""

    source: str
    kernel: str
    defines: Mapping[str, Any]
    args: Sequence[Any]
    size: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A node's calls. scratch: floats of each scratch tensor. overread: floats behind input 0 that are read in vain."""

    calls: tuple[Call, ...]
    scratch: tuple[int, ...] = ()
    overread: int = 0


@dataclass(frozen=True)
class NodeView:
    """A node with shapes for the inputs at hand. data: tensors by name, fetched when they are asked for."""

    op: str
    name: str
    inputs: tuple[int, ...]
    output: int
    input_shapes: tuple[Shape, ...]
    shape: Shape
    ints: Sequence[int]
    floats: Sequence[float]
    data: Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class Target:
    """What decides how kernels are specialised. lanes: floats of a vector; half: tensors are stored as fp16."""

    lanes: int
    half: bool = False
    tiles: Mapping[str, Tile] = field(default_factory=dict)  # by layer_key(), from tuning
    images: bool = False  # convolutions read their inputs as images where they can
    max_texels: int = 0  # of an image; 0: the device has none
    by_row: bool = False  # items read rows of memory, as suits caches; else neighbours read neighbouring floats


Lowering = Callable[[NodeView, Target], Step]
LOWERINGS: dict[str, Lowering] = {}


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    def register(lowering: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(names, lowering))
        return lowering

    return register


def lower(node: NodeView, target: Target) -> Step:
    """The calls of a node; none where its output is empty. ValueError: a tensor is too large."""
    for shape in (*node.input_shapes, node.shape):
        if math.prod(shape) > MAX_FLOATS:
            raise ValueError(f"opencl: '{node.name}': {math.prod(shape)} floats, allowed are {MAX_FLOATS} a tensor")
    return LOWERINGS[node.op](node, target) if math.prod(node.shape) else Step(())


def is_view(op: str) -> bool:
    """Whether an operator's output is its input."""
    return op in ("reshape", "flatten")


def _call(
    source: str, kernel: str, node: NodeView, target: Target, args: Sequence[Any], size: tuple[int, ...], **more: Any
) -> Call:
    return Call(source, kernel, {"STORAGE_HALF": int(target.half), **more}, args, size)


def _activation(node: NodeView) -> tuple[dict[str, Any], npt.NDArray[np.float32] | None, list[float]]:
    """(macros, slope, [alpha, beta]) of an operator that ends with an activation."""
    slope = np.asarray(node.data["slope"](), np.float32) if "slope" in node.data else None
    return {"ACTIVATION": node.ints[0]}, slope, [float(value) for value in node.floats[:2]]


def _inner(shape: Shape) -> int:
    """Floats for each index of dim 1."""
    return max(math.prod(shape[2:]), 1)


# ---- convolutions


@lowers("conv")
def _conv(node: NodeView, target: Target) -> Step:
    layer: PackedConv = node.data["layer"]()
    n, _, h, w = node.input_shapes[0]
    macros, slope, limits = _activation(node)
    macros["HAS_RESIDUAL"] = int(len(node.inputs) > 1)
    usual = default_tile(layer, *layer.output_shape(h, w), target.lanes, images=target.images, by_row=target.by_row)
    tile = target.tiles.get(layer_key(layer, n, h, w)) or usual
    program = program_of(layer, n, h, w, tile, macros, target.half)
    if program.packing is not None and n * layer.in_channels * program.packing.channel > MAX_FLOATS:
        program = program_of(layer, n, h, w, replace(tile, tiled=False), macros, target.half)  # takes less
    count = program.input_floats(n * layer.in_channels, h * w) // TEXEL
    if program.images and count > target.max_texels:
        program = program_of(layer, n, h, w, replace(tile, images=False), macros, target.half)
    calls, scratch, source = [], [], node.inputs[0]
    if program.packing is not None:
        scratch.append(n * layer.in_channels * program.packing.channel)
        if scratch[0] > MAX_FLOATS:
            raise ValueError(f"opencl: '{node.name}': {scratch[0]} floats of padded input, allowed are {MAX_FLOATS}")
        source = -1
        calls.append(_pack(node, target, layer, program))
    slopes = np.zeros(1, np.float32)
    if slope is not None:
        slopes = np.resize(slope, layer.out_channels)[np.maximum(program.filters, 0)]
    residual = Use(node.inputs[1]) if len(node.inputs) > 1 else Use(node.output)
    x = Texels(source, count) if program.images else Use(source)
    args: list[Any] = [x, *program.arrays, program.filters, program.bias, slopes, residual, Use(node.output)]
    args += [*limits, layer.out_channels]
    calls.append(Call(program.source, program.kernel, program.defines, args, program.size))
    return Step(tuple(calls), tuple(scratch), program.overread)


def _pack(node: NodeView, target: Target, layer: PackedConv, program: ConvProgram) -> Call:
    packing = program.packing
    assert packing is not None
    n, c, h, w = node.input_shapes[0]
    n_lines = packing.tiles[0] * packing.rows * len(packing.phases)
    args = [Use(node.inputs[0]), Use(-1), np.array(packing.phases, np.int32).reshape(-1), h, w, packing.rows]
    args += [len(packing.phases), layer.stride[0], *layer.padding[:2], packing.pitch, c, n * c]
    args += [*packing.tiles, *packing.steps]
    size = (1 if target.by_row else packing.pitch, n * c, n_lines)
    macros = {"LANES": target.lanes, "BY_ROW": int(target.by_row), "STRIDE_W": layer.stride[1]}
    return _call("pack.cl", "pack_planes", node, target, args, size, **macros)


@lowers("linear")
def _linear(node: NodeView, target: Target) -> Step:
    n_in, n_out = node.input_shapes[0][-1], node.shape[-1]
    rows = math.prod(node.shape[:-1])
    block = target.lanes if target.by_row else -(-n_out // target.lanes) * target.lanes
    n_blocks = -(-n_out // block)
    weight = np.zeros((n_blocks * block, n_in), np.float32)
    weight[:n_out] = np.reshape(node.data["weight"](), (n_out, n_in))
    weight = np.ascontiguousarray(weight.reshape(n_blocks, block, n_in).transpose(0, 2, 1))
    bias = np.zeros(n_blocks * block, np.float32)
    if "bias" in node.data:
        bias[:n_out] = node.data["bias"]()
    macros, slope, limits = _activation(node)
    slopes = np.zeros(1, np.float32) if slope is None else slope
    args = [Use(node.inputs[0]), weight, bias, slopes, Use(node.output), *limits, n_in, n_out, block, rows]
    args += [_inner(node.shape), slopes.size]
    size = (-(-n_out // target.lanes), rows)
    return Step((_call("linear.cl", "linear", node, target, args, size, LANES=target.lanes, **macros),))


# ---- elementwise

_OPERATORS = {"activate": 0, "add": 1, "sub": 2, "mul": 3}


@lowers(*_OPERATORS)
def _elementwise(node: NodeView, target: Target) -> Step:
    macros, slope, limits = _activation(node)
    slopes = np.zeros(1, np.float32) if slope is None else slope
    broadcast = any(shape != node.shape for shape in node.input_shapes)
    dims = _dims(node.shape, *(_steps(shape, node.shape) for shape in (*node.input_shapes, node.shape)[:2]))
    a, b = node.inputs[0], node.inputs[-1]
    n = math.prod(node.shape)
    args = [Use(a), Use(b), Use(node.output), dims, slopes, *limits, n, _inner(node.shape), slopes.size]
    macros |= {"OPERATOR": _OPERATORS[node.op], "BROADCAST": int(broadcast)}
    return Step((_call("elementwise.cl", "elementwise", node, target, args, (n,), **macros),))


def _contiguous_steps(shape: Shape) -> tuple[int, ...]:
    return tuple(accumulate((1, *shape[:0:-1]), lambda a, b: a * b))[::-1] if shape else ()


def _steps(shape: Shape, target: Shape) -> tuple[int, ...]:
    """Floats from an index to the next along each dim of `target`, to which a tensor of `shape` is broadcast."""
    steps = _contiguous_steps(shape)
    own = [0 if size == 1 else step for size, step in zip(shape, steps, strict=True)]
    return (*[0] * (len(target) - len(shape)), *own)


def _dims(shape: Shape, *steps: Sequence[int]) -> npt.NDArray[np.int32]:
    """Sizes and steps for kernels that number six dims."""
    blank = _RANK - len(shape)
    rows = [[1] * blank + list(shape), *([0] * blank + list(row) for row in steps)]
    return np.array(rows, np.int64).astype(np.int32).reshape(-1)


# ---- pooling and reduction


def _planes(node: NodeView) -> tuple[int, int, int, int]:
    (h, w), (out_h, out_w) = node.input_shapes[0][-2:], node.shape[-2:]
    return h, w, out_h, out_w


@lowers("max_pool")
def _max_pool(node: NodeView, target: Target) -> Step:
    n = math.prod(node.shape)
    args = [Use(node.inputs[0]), Use(node.output), *_planes(node), *node.ints[:8], n]
    return Step((_call("pool.cl", "max_pool", node, target, args, (n,)),))


@lowers("avg_pool")
def _avg_pool(node: NodeView, target: Target) -> Step:
    n = math.prod(node.shape)
    args = [Use(node.inputs[0]), Use(node.output), *_planes(node), *node.ints[:6], node.ints[7], node.ints[8], n]
    return Step((_call("pool.cl", "avg_pool", node, target, args, (n,)),))


@lowers("adaptive_avg_pool")
def _adaptive_avg_pool(node: NodeView, target: Target) -> Step:
    n = math.prod(node.shape)
    if node.shape[-2:] == (1, 1):
        return _means(node, target, math.prod(node.input_shapes[0][-2:]))
    args = [Use(node.inputs[0]), Use(node.output), *_planes(node), n]
    return Step((_call("pool.cl", "adaptive_avg_pool", node, target, args, (n,)),))


@lowers("mean")
def _mean(node: NodeView, target: Target) -> Step:
    shape = node.input_shapes[0]
    return _means(node, target, math.prod(shape[len(shape) - node.ints[0] :]))


def _means(node: NodeView, target: Target, count: int) -> Step:
    """Of `count` floats each."""
    n = math.prod(node.shape)
    args = [Use(node.inputs[0]), Use(node.output), count, n]
    return Step((_call("reduce.cl", "mean", node, target, args, (n,), LANES=target.lanes),))


@lowers("softmax")
def _softmax(node: NodeView, target: Target) -> Step:
    dim, as_log = node.ints
    count, inner = node.shape[dim], math.prod(node.shape[dim + 1 :])
    n = math.prod(node.shape) // count
    args = [Use(node.inputs[0]), Use(node.output), count, inner, as_log, n]
    return Step((_call("reduce.cl", "softmax", node, target, args, (n,)),))


# ---- moving


def _move(
    node: NodeView,
    target: Target,
    source: int,
    shape: Shape,
    steps: tuple[Sequence[int], Sequence[int]],
    at: tuple[int, int] = (0, 0),
) -> Call:
    """Copies `shape` floats of a value to the output. steps, at: in the source, in the output."""
    n = math.prod(shape)
    args = [Use(source), Use(node.output), _dims(shape, *steps), *at, n]
    return _call("move.cl", "move", node, target, args, (n,))


@lowers("concat")
def _concat(node: NodeView, target: Target) -> Step:
    calls, to, begin = [], _contiguous_steps(node.shape), 0
    for source, shape in zip(node.inputs, node.input_shapes, strict=True):
        if math.prod(shape):
            steps = (_contiguous_steps(shape), to)
            calls.append(_move(node, target, source, shape, steps, (0, begin * to[node.ints[0]])))
        begin += shape[node.ints[0]]
    return Step(tuple(calls))


@lowers("slice")
def _slice(node: NodeView, target: Target) -> Step:
    dim, start, end, step = node.ints
    shape = node.input_shapes[0]
    first = range(shape[dim])[start:end:step].start
    steps = list(_contiguous_steps(shape))
    at = first * steps[dim]
    steps[dim] *= step
    return Step((_move(node, target, node.inputs[0], node.shape, (steps, _contiguous_steps(node.shape)), (at, 0)),))


@lowers("permute")
def _permute(node: NodeView, target: Target) -> Step:
    steps = _contiguous_steps(node.input_shapes[0])
    chosen = [steps[dim] for dim in node.ints]
    return Step((_move(node, target, node.inputs[0], node.shape, (chosen, _contiguous_steps(node.shape))),))


@lowers("pixel_shuffle")
def _pixel_shuffle(node: NodeView, target: Target) -> Step:
    """[.., c r r, h, w] -> [.., c, h r, w r], as a copy of [.., c, h, r, w, r]."""
    factor, (*outer, channels, h, w) = node.ints[0], node.input_shapes[0]
    planes = math.prod(outer) * (channels // factor**2)
    shape = (planes, h, factor, w, factor)
    source = (factor * factor * h * w, w, factor * h * w, 1, h * w)
    return Step((_move(node, target, node.inputs[0], shape, (source, _contiguous_steps(shape))),))


@lowers("pad")
def _pad(node: NodeView, target: Target) -> Step:
    n = math.prod(node.shape)
    calls = [_call("move.cl", "fill", node, target, [Use(node.output), float(node.floats[0]), n], (n,))]
    source, to = _contiguous_steps(node.input_shapes[0]), _contiguous_steps(node.shape)
    shape, x_at, y_at = [], 0, 0
    for dim, size in enumerate(node.input_shapes[0]):
        before, after = node.ints[2 * dim : 2 * dim + 2]
        shape.append(size + min(before, 0) + min(after, 0))
        x_at += max(-before, 0) * source[dim]
        y_at += max(before, 0) * to[dim]
    if math.prod(shape):
        calls.append(_move(node, target, node.inputs[0], tuple(shape), (source, to), (x_at, y_at)))
    return Step(tuple(calls))


# ---- upsample


@lowers("upsample")
def _upsample(node: NodeView, target: Target) -> Step:
    mode, align = node.ints[0], bool(node.ints[1])
    h, w, out_h, out_w = sizes = _planes(node)
    n = math.prod(node.shape)
    ratios = [input_ratio(a, b, s, align) for a, b, s in ((h, out_h, node.floats[0]), (w, out_w, node.floats[1]))]
    head = [Use(node.inputs[0]), Use(node.output)]
    if mode == 0:
        tables = [nearest_table(h, out_h, ratios[0]), nearest_table(w, out_w, ratios[1])]
        return Step((_call("resize.cl", "nearest", node, target, [*head, *tables, *sizes, n], (n,)),))
    rows, columns = linear_tables(h, out_h, ratios[0], align), linear_tables(w, out_w, ratios[1], align)
    args = [*head, *rows, *columns, *sizes, n]
    return Step((_call("resize.cl", "bilinear", node, target, args, (n,)),))
