"""What each operator of torch.export's graphs becomes in ours: layers and elementwise operators; the others stand in
aten_shapes.py. One handler an operator, found by its name.

A handler gets a Builder and the operator's arguments in the order of its schema, defaults filled in: Values for tensors
that depend on the network's input, torch tensors for constants. It returns the Value, or a list of them, that the
operator makes, or raises Lacking. export.py walks the graph, evaluates what is constant and deals with in-place
operators, which come here as their pure forms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ._native import PackedConv
from .folding import norm_scale_shift
from .graph import LAST, Activation, Array, Attribute, Value
from .lowering import Builder, Handler, Lacking, handles, pair, planes
from .packing import parse_activation, parse_padding

# ---- layers


@handles("conv2d.default", "conv2d.padding")
def _conv2d(b: Builder, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Value:
    weights, biases = b.parameter("weight", weight), b.parameter("bias", bias)
    assert weights is not None
    kernel, strides, dilations = (weights.shape[2], weights.shape[3]), pair(stride), pair(dilation)
    sides = parse_padding(padding if isinstance(padding, str) else pair(padding), kernel, strides, dilations)
    return _conv(b, planes(x), weights, biases, strides, sides, dilations, groups)


def _conv(
    b: Builder,
    x: Value,
    weight: Array,
    bias: Array | None,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    shape: Sequence[int] | None = None,
) -> Value:
    given: dict[str, Attribute] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return b.add("conv", [x], given, {"weight": weight, "bias": bias}, shape)


@handles("conv_transpose2d.input")
def _conv_transpose2d(
    b: Builder,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Value:
    """With stride s a convolution that gives the s * s outputs of a pixel as channels, and a pixel shuffle.

    Along an axis, without padding, output s * q + r is the sum of x[q - j] * w[s * j + r] over j.
    """
    turned, biases = b.parameter("weight", weight), b.parameter("bias", bias)
    assert turned is not None
    factor, other = pair(stride)
    if factor != other:
        raise Lacking("transposed convolutions have the same stride along rows and columns here")
    axes = [
        _TransposedAxis.of(*numbers, factor)
        for numbers in zip(turned.shape[2:], pair(dilation), pair(padding), pair(output_padding), strict=True)
    ]
    turned = _by_phase(turned, groups, factor, pair(dilation), [axis.taps for axis in axes])
    biases = None if biases is None else np.repeat(biases, factor * factor)
    sides = (axes[0].before, axes[1].before, axes[0].behind, axes[1].behind)
    n, _, h, w = planes(x).shape
    cut = [axis.first + axis.spare for axis in axes]
    small = [-(-(size + less) // factor) for size, less in zip(b.shape[2:], cut, strict=True)]
    wide = [n, turned.shape[0], *small]
    y = _conv(b, x, turned, biases, (1, 1), sides, (1, 1), groups, wide)
    if factor > 1:
        y = b.add("pixel_shuffle", [y], {"factor": factor}, shape=[n, b.shape[1], *(factor * size for size in small)])
    for dim, axis in enumerate(axes, 2):
        y = b.slice(y, dim, axis.first, -axis.spare or LAST)
    return y


@dataclass(frozen=True)
class _TransposedAxis:
    """One axis of a transposed convolution as a convolution with stride 1: its taps, its padding, and how many outputs
    are cut off at the ends, where the shuffled map reaches further."""

    taps: int
    before: int
    behind: int
    first: int
    spare: int

    @classmethod
    def of(cls, kernel: int, dilation: int, padding: int, output_padding: int, stride: int) -> _TransposedAxis:
        reach = dilation * (kernel - 1) + 1
        skipped, first = divmod(padding, stride)
        taps = -(-reach // stride)
        # (size - 1) * stride + `last` outputs, the first ones that are cut off included.
        last = reach + output_padding - 2 * padding + first
        behind = -(-last // stride) + skipped - 1
        before = taps - 1 - skipped
        if min(before, behind) < 0:
            raise Lacking("pads by more than the kernel reaches")
        return cls(taps, before, behind, first, -last % stride)


def _by_phase(weight: Array, groups: int, factor: int, dilation: tuple[int, int], taps: list[int]) -> Array:
    """The weights [I, O/groups, kh, kw] of a transposed convolution as [O * factor * factor, I/groups, taps_h, taps_w],
    zeros where there is no tap."""
    inputs, outputs, *kernel = weight.shape
    wide = np.zeros((inputs, outputs, factor * taps[0], factor * taps[1]), np.float32)
    rows, columns = (slice(0, d * (k - 1) + 1, d) for k, d in zip(kernel, dilation, strict=True))
    wide[:, :, rows, columns] = weight
    parts = wide.reshape(groups, inputs // groups, outputs, taps[0], factor, taps[1], factor)
    turned = parts[:, :, :, ::-1, :, ::-1].transpose(0, 2, 4, 6, 1, 3, 5)
    return np.ascontiguousarray(turned.reshape(groups * outputs * factor**2, inputs // groups, *taps))


@handles("pconv::conv2d.default")
def _packed_conv2d(b: Builder, x: Any, packed: Any, residual: Any, activation: str) -> Value:
    """A layer that convert() packed."""
    layer = PackedConv.from_bytes(packed.numpy().tobytes())
    weight, bias = layer.to_dense()
    y = _conv(b, planes(x), weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    if residual is not None:
        y = b.add("add", [y, residual])
    low, high = parse_activation(activation.partition("@")[0])  # behind it: the geometry
    return y if (low, high) == (-math.inf, math.inf) else b.activate(y, Activation.CLAMP, low, high)


@handles("linear.default")
def _linear(b: Builder, x: Any, weight: Any, bias: Any) -> Value:
    return b.add("linear", [x], data={"weight": b.parameter("weight", weight), "bias": b.parameter("bias", bias)})


@handles("matmul.default", "mm.default")
def _matmul(b: Builder, x: Any, other: Any) -> Value:
    if not isinstance(x, Value) or isinstance(other, Value) or other.dim() != 2:
        raise Lacking("multiplies by constant matrices only")
    return _linear(b, x, other.t(), None)


@handles("addmm.default")
def _addmm(b: Builder, bias: Any, x: Any, other: Any, beta: float, alpha: float) -> Value:
    if isinstance(bias, Value) or bias.dim() != 1 or beta != 1 or alpha != 1:
        raise Lacking("adds a constant vector only")
    return b.add("add", [_matmul(b, x, other), bias])


@handles("batch_norm.default")
def _batch_norm(
    b: Builder,
    x: Value,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    means, variances = b.parameter("running mean", mean), b.parameter("running variance", var)
    if training or means is None or variances is None:
        raise Lacking("normalises by the statistics of its input")
    scale, shift = norm_scale_shift(means, variances, eps, b.parameter("weight", weight), b.parameter("bias", bias))
    return b.add("affine", [x], {"dim": 1}, {"scale": scale, "shift": shift})


# ---- elementwise


def _activation(kind: Activation, alpha: float = 0.0, beta: float = 0.0) -> Handler:
    return lambda b, x, *_: b.activate(x, kind, alpha, beta)


_ELEMENTWISE: dict[str, Handler] = {
    "relu.default": _activation(Activation.CLAMP, 0.0, math.inf),
    "relu6.default": _activation(Activation.CLAMP, 0.0, 6.0),
    "sigmoid.default": _activation(Activation.SIGMOID),
    "silu.default": _activation(Activation.SILU),
    "hardsigmoid.default": _activation(Activation.HARD_SIGMOID),
    "hardswish.default": _activation(Activation.HARD_SWISH),
    "tanh.default": _activation(Activation.TANH),
    "leaky_relu.default": lambda b, x, slope: b.activate(x, Activation.LEAKY_RELU, slope),
    "hardtanh.default": lambda b, x, low, high: _clamp(b, x, low, high),
    "clamp_min.default": lambda b, x, low: _clamp(b, x, low, None),
    "clamp_max.default": lambda b, x, high: _clamp(b, x, None, high),
}
for _name, _handler in _ELEMENTWISE.items():
    handles(_name)(_handler)


@handles("clamp.default")
def _clamp(b: Builder, x: Value, low: Any, high: Any) -> Value:
    least, most = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return b.activate(x, Activation.CLAMP, min(least, most), most)  # torch gives `high` where the bounds cross


@handles("prelu.default")
def _prelu(b: Builder, x: Value, weight: Any) -> Value:
    slope = b.parameter("weight", weight)
    assert slope is not None
    if slope.size == 1:
        return b.activate(x, Activation.LEAKY_RELU, float(slope.reshape(())))
    return b.activate(x, Activation.PRELU, slope=slope)


@handles("gelu.default")
def _gelu(b: Builder, x: Value, approximate: str) -> Value:
    return b.activate(x, Activation.GELU_TANH if approximate == "tanh" else Activation.GELU)


@handles("elu.default")
def _elu(b: Builder, x: Value, alpha: float, scale: float, input_scale: float) -> Value:
    if input_scale != 1:
        raise Lacking("scales its input")
    y = b.activate(x, Activation.ELU, alpha)
    return y if scale == 1 else b.add("mul", [y, scale])


@handles("selu.default")
def _selu(b: Builder, x: Value) -> Value:
    return _elu(b, x, 1.6732632423543772, 1.0507009873554805, 1)


@handles("add.Tensor", "add.Scalar")
def _add(b: Builder, x: Any, other: Any, alpha: float) -> Value:
    return b.add("add", [x, _times(b, other, alpha)])


@handles("sub.Tensor", "sub.Scalar")
def _sub(b: Builder, x: Any, other: Any, alpha: float) -> Value:
    if isinstance(other, Value):
        return b.add("sub", [x, _times(b, other, alpha)])
    return b.add("add", [x, _times(b, other, -alpha)])


@handles("rsub.Tensor", "rsub.Scalar")
def _rsub(b: Builder, x: Any, other: Any, alpha: float) -> Value:
    return b.add("sub", [other, _times(b, x, alpha)])


def _times(b: Builder, x: Any, factor: float) -> Any:
    if factor == 1:
        return x
    return b.add("mul", [x, factor], shape=x.shape) if isinstance(x, Value) else x * factor


@handles("mul.Tensor", "mul.Scalar")
def _mul(b: Builder, x: Any, other: Any) -> Value:
    return b.add("mul", [x, other])


@handles("neg.default")
def _neg(b: Builder, x: Value) -> Value:
    return b.add("mul", [x, -1.0])


@handles("div.Tensor", "div.Scalar")
def _div(b: Builder, x: Any, other: Any) -> Value:
    if isinstance(other, Value):
        raise Lacking("divides by constants only")
    divisor = torch.as_tensor(other, dtype=torch.float64)
    if not bool((divisor.abs() > 0).all()):
        raise Lacking("divides by zero")
    factor = (1.0 / divisor).to(torch.float32)
    if not bool(factor.isfinite().all()):
        raise Lacking("divides by a number whose reciprocal is beyond float32")
    return b.add("mul", [x, factor])


@handles("pow.Tensor_Scalar")
def _pow(b: Builder, x: Value, exponent: float) -> Value:
    if exponent == 1:
        return x
    if exponent != 2:
        raise Lacking("squares only")
    return b.add("mul", [x, x])


@handles("square.default")
def _square(b: Builder, x: Value) -> Value:
    return b.add("mul", [x, x])


@handles("copy.default")
def _copy(b: Builder, x: Any, source: Any, *_: Any) -> Value:
    value = b.value(source)
    if value.shape != x.shape:
        raise Lacking("copies another shape")
    return value
