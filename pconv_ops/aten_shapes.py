"""What operators of torch.export's graphs become in ours, as in aten.py: pooling, parts, shapes, resizing, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .graph import LAST, UPSAMPLE_MODES, Attribute, Value
from .lowering import Builder, Lacking, dim_of, handles, pair, planes

_MAX_PARTS = 16  # lines that are padded one by one

# ---- pooling


@handles("max_pool2d.default")
def _max_pool2d(b: Builder, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Value:
    window = _window(kernel, stride, padding)
    dilation_h, dilation_w = pair(dilation)
    more = {"dilation_h": dilation_h, "dilation_w": dilation_w, "ceil_mode": int(ceil_mode)}
    return b.add("max_pool", [planes(x)], window | more)


@handles("max_pool2d_with_indices.default")
def _max_pool2d_with_indices(b: Builder, *arguments: Any) -> list[Any]:
    return [_max_pool2d(b, *arguments), None]


@handles("adaptive_max_pool2d.default")
def _adaptive_max_pool2d(b: Builder, x: Any, output_size: Any) -> list[Any]:
    out, size = pair(output_size), planes(x).shape[2:]
    if any(n % o for n, o in zip(size, out, strict=True)):
        raise Lacking(f"takes windows of different sizes of {list(size)}")
    window = [n // o for n, o in zip(size, out, strict=True)]
    return [_max_pool2d(b, x, window, window, 0, 1, False), None]


def _window(kernel: Any, stride: Any, padding: Any) -> dict[str, Attribute]:
    (kernel_h, kernel_w), (pad_h, pad_w) = pair(kernel), pair(padding)
    stride_h, stride_w = pair(stride) if stride else (kernel_h, kernel_w)
    sizes = (kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w)
    return dict(zip(("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"), sizes, strict=True))


@handles("avg_pool2d.default")
def _avg_pool2d(
    b: Builder, x: Any, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_pad: bool, divisor: int | None
) -> Value:
    more = {"ceil_mode": int(ceil_mode), "count_include_pad": int(count_pad), "divisor": divisor or 0}
    return b.add("avg_pool", [planes(x)], _window(kernel, stride, padding) | more)


@handles("adaptive_avg_pool2d.default")
def _adaptive_avg_pool2d(b: Builder, x: Any, output_size: Any) -> Value:
    out_h, out_w = pair(output_size)
    return b.add("adaptive_avg_pool", [planes(x)], {"out_h": out_h, "out_w": out_w})


@handles("mean.default")
def _mean_of_all(b: Builder, x: Value, dtype: Any) -> Value:
    return b.add("mean", [x], {"n_dims": len(x.shape), "keepdim": 0})


@handles("mean.dim")
def _mean(b: Builder, x: Value, dims: Any, keepdim: bool, dtype: Any) -> Value:
    rank = len(x.shape)
    gone = sorted(dim_of(dim, rank) for dim in (dims or range(rank)))
    kept = [dim for dim in range(rank) if dim not in gone]
    given: dict[str, Attribute] = {"n_dims": len(gone), "keepdim": int(keepdim)}
    if not kept or kept[-1] < gone[0]:
        return b.add("mean", [x], given)
    order, ones = [*kept, *gone], [1] * len(gone) * keepdim
    y = b.add("mean", [b.permute(x, order)], given, shape=[*(x.shape[dim] for dim in kept), *ones])
    return b.permute(y, np.argsort(order).tolist()) if keepdim else y


# ---- parts and shapes


@handles("cat.default")
def _cat(b: Builder, tensors: Sequence[Any], dim: int) -> Value:
    return b.add("concat", tensors, {"dim": dim_of(dim, len(b.shape))})


@handles("stack.default")
def _stack(b: Builder, tensors: Sequence[Any], dim: int) -> Value:
    at = dim_of(dim, len(b.shape))
    shape = [*b.shape[:at], 1, *b.shape[at + 1 :]]
    return b.add("concat", [b.reshape(b.value(tensor), shape) for tensor in tensors], {"dim": at})


@handles("split_with_sizes.default", "split.sizes")
def _split_with_sizes(b: Builder, x: Value, sizes: Sequence[int], dim: int) -> list[Value]:
    at, ends = dim_of(dim, len(x.shape)), np.cumsum(sizes).tolist()
    return [b.slice(x, at, end - size, end) for size, end in zip(sizes, ends, strict=True)]


@handles("split.Tensor")
def _split(b: Builder, x: Value, size: int, dim: int) -> list[Value]:
    at = dim_of(dim, len(x.shape))
    return [b.slice(x, at, start, start + size) for start in range(0, x.shape[at], size)]


@handles("chunk.default")
def _chunk(b: Builder, x: Value, chunks: int, dim: int) -> list[Value]:
    return _split(b, x, -(-x.shape[dim_of(dim, len(x.shape))] // chunks), dim)


@handles("unbind.int")
def _unbind(b: Builder, x: Value, dim: int) -> list[Value]:
    return [_select(b, x, dim, i) for i in range(x.shape[dim_of(dim, len(x.shape))])]


@handles("select.int")
def _select(b: Builder, x: Value, dim: int, index: int) -> Value:
    at = dim_of(dim, len(x.shape))
    return b.reshape(b.slice(x, at, index, LAST if index == -1 else index + 1), [*x.shape[:at], *x.shape[at + 1 :]])


@handles("slice.Tensor")
def _slice(b: Builder, x: Value, dim: int, start: Any, end: Any, step: int) -> Value:
    return b.slice(x, dim_of(dim, len(x.shape)), start or 0, LAST if end is None else end, step)


@handles("narrow.default")
def _narrow(b: Builder, x: Value, dim: int, start: int, length: int) -> Value:
    at = dim_of(dim, len(x.shape))
    first = dim_of(start, x.shape[at])
    return b.slice(x, at, first, first + length)


@handles("view.default", "reshape.default", "_unsafe_view.default")
def _view(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    return b.reshape(x, b.shape, dims)


@handles("squeeze.default", "squeeze.dim", "squeeze.dims", "unsqueeze.default", "unflatten.int", "view_as.default")
def _reshaped(b: Builder, x: Value, *_: Any) -> Value:
    return b.reshape(x, b.shape)


@handles("flatten.using_ints")
def _flatten(b: Builder, x: Value, start_dim: int, end_dim: int) -> Value:
    rank = len(x.shape)
    if start_dim == end_dim or rank < 2:
        return b.reshape(x, b.shape)
    return b.add("flatten", [x], {"start_dim": dim_of(start_dim, rank), "end_dim": dim_of(end_dim, rank)})


@handles("permute.default")
def _permute(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    return b.permute(x, [dim_of(dim, len(x.shape)) for dim in dims])


@handles("transpose.int", "swapaxes.default", "swapdims.default")
def _transpose(b: Builder, x: Value, one: int, other: int) -> Value:
    dims = list(range(len(x.shape)))
    dims[one], dims[other] = dims[other], dims[one]
    return b.permute(x, dims)


@handles("mT.default")
def _matrix_transpose(b: Builder, x: Value) -> Value:
    return _transpose(b, x, -1, -2)


@handles("t.default", "numpy_T.default")
def _t(b: Builder, x: Value) -> Value:
    return b.permute(x, range(len(x.shape))[::-1])


@handles(
    *("contiguous.default", "clone.default", "detach.default", "alias.default", "lift_fresh_copy.default"),
    *("to.dtype", "to.device", "to.dtype_layout", "to.other", "_to_copy.default", "type_as.default"),
)
def _identity(b: Builder, x: Value, *_: Any) -> Value:
    """Another dtype is noticed by its result's."""
    return x


@handles("dropout.default", "feature_dropout.default", "alpha_dropout.default", "feature_alpha_dropout.default")
def _dropout(b: Builder, x: Value, p: float, train: bool) -> Value:
    if train and p:
        raise Lacking("drops at random")
    return x


@handles("pixel_shuffle.default")
def _pixel_shuffle(b: Builder, x: Any, factor: int) -> Value:
    return b.add("pixel_shuffle", [planes(x)], {"factor": factor})


@handles("pixel_unshuffle.default")
def _pixel_unshuffle(b: Builder, x: Any, factor: int) -> Value:
    n, c, h, w = planes(x).shape
    cells = b.reshape(x, [n, c, h // factor, factor, w // factor, factor])
    return b.reshape(b.permute(cells, [0, 1, 3, 5, 2, 4]), b.shape)


@handles("channel_shuffle.default", "native_channel_shuffle.default")
def _channel_shuffle(b: Builder, x: Any, groups: int) -> Value:
    n, c, h, w = planes(x).shape
    return b.reshape(b.permute(b.reshape(x, [n, groups, c // groups, h, w]), [0, 2, 1, 3, 4]), b.shape)


# ---- the rest


@handles("upsample_nearest2d.vec", "upsample_nearest2d.default")
def _nearest(b: Builder, x: Any, size: Any, *scales: Any) -> Value:
    return _upsample(b, x, "nearest", False, scales)


@handles("upsample_bilinear2d.vec", "upsample_bilinear2d.default")
def _bilinear(b: Builder, x: Any, size: Any, align_corners: bool, *scales: Any) -> Value:
    return _upsample(b, x, "bilinear", align_corners, scales)


def _upsample(b: Builder, x: Any, mode: str, align_corners: bool, scales: tuple[Any, ...]) -> Value:
    """`scales`: a list of two or none, or two numbers or nones."""
    factors = scales[0] if len(scales) == 1 else None if None in scales else scales
    out_h, out_w = b.shape[2:] if factors is None else (0, 0)
    scale_h, scale_w = (0.0, 0.0) if factors is None else factors
    given: dict[str, Attribute] = {"mode": UPSAMPLE_MODES.index(mode), "align_corners": int(align_corners)}
    given |= {"out_h": out_h, "out_w": out_w, "scale_h": float(scale_h), "scale_w": float(scale_w)}
    return b.add("upsample", [planes(x)], given)


@handles("softmax.int", "_softmax.default")
def _softmax(b: Builder, x: Value, dim: int, *_: Any) -> Value:
    return b.add("softmax", [x], {"dim": dim_of(dim, len(x.shape)), "log": 0})


@handles("log_softmax.int", "_log_softmax.default")
def _log_softmax(b: Builder, x: Value, dim: int, *_: Any) -> Value:
    return b.add("softmax", [x], {"dim": dim_of(dim, len(x.shape)), "log": 1})


@handles("pad.default")
def _pad(b: Builder, x: Value, sides: Sequence[int], mode: str, value: float | None) -> Value:
    return _pad_constant(b, x, sides, value or 0.0) if mode == "constant" else _pad_by_parts(b, x, sides, mode)


@handles("reflection_pad1d.default", "reflection_pad2d.default")
def _pad_reflected(b: Builder, x: Value, sides: Sequence[int]) -> Value:
    return _pad_by_parts(b, x, sides, "reflect")


@handles("replication_pad1d.default", "replication_pad2d.default")
def _pad_replicated(b: Builder, x: Value, sides: Sequence[int]) -> Value:
    return _pad_by_parts(b, x, sides, "replicate")


@handles("constant_pad_nd.default")
def _pad_constant(b: Builder, x: Value, sides: Sequence[int], value: float) -> Value:
    """torch names the sides of the last dim first. A negative one takes away."""
    dims = [0] * (2 * len(x.shape))
    for i, side in enumerate(sides):
        dims[2 * (len(x.shape) - 1 - i // 2) + i % 2] = side
    if not any(dims):
        return x
    return b.add("pad", [x], {"dims": tuple(dims), "value": float(value)})


def _pad_by_parts(b: Builder, x: Value, sides: Sequence[int], mode: str) -> Value:
    """Slices of the tensor itself before and behind it."""
    for i in range(0, len(sides), 2):
        before, behind = sides[i], sides[i + 1]
        if min(before, behind) < 0 or max(before, behind) > _MAX_PARTS:
            raise Lacking(f"pads by {before} and {behind} in mode '{mode}', allowed is 0 to {_MAX_PARTS}")
        dim = len(x.shape) - 1 - i // 2
        parts = [b.slice(x, dim, *part) for part in _parts_before(mode, before)] + [x]
        parts += [b.slice(x, dim, *part) for part in _parts_behind(mode, behind)]
        if len(parts) > 1:
            size = x.shape[dim] + before + behind
            x = b.add("concat", parts, {"dim": dim}, shape=[*x.shape[:dim], size, *x.shape[dim + 1 :]])
    return x


def _parts_before(mode: str, n: int) -> list[tuple[int, int]]:
    if mode == "circular":
        return [(-n, LAST)] if n else []
    return [(i, i + 1) if mode == "reflect" else (0, 1) for i in range(n, 0, -1)]


def _parts_behind(mode: str, n: int) -> list[tuple[int, int]]:
    if mode == "circular":
        return [(0, n)] if n else []
    return [(-i - 1, -i) if mode == "reflect" else (-1, LAST) for i in range(1, n + 1)]
