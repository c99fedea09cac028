"""The slow, obvious definition of the operator: float64, numpy, no packing. Tests compare everything with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_ROUNDING = 2.0**-24  # half a unit in the last place of 1.0, fp32
_SMALLEST = 2.0**-149  # smallest positive fp32


def conv2d_reference(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    clamp: tuple[float, float] | None = None,
    residual: npt.ArrayLike | None = None,
) -> Float64:
    """clamp(conv2d(x, weight) + bias + residual) in float64.

    x: [N, IC, H, W]; weight: [OC, IC/groups, kh, kw]; bias: [OC]; residual: [N, OC, OH, OW]; padding: zeros at (top,
    left, bottom, right) in pixels; clamp: (min, max), which lets NaN through as torch.clamp does. Returns [N, OC,
    OH, OW]. Weights equal to zero are no taps: Inf and NaN under them have no effect. ValueError for unfit shapes.
    """
    x64, w = np.asarray(x, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    padded, out_h, out_w = _padded(x64, w, stride, padding, dilation, groups)
    out_channels, group_channels, kernel_h, kernel_w = w.shape
    y = np.zeros((x64.shape[0], out_channels, out_h, out_w))
    if bias is not None:
        y += _shaped("bias", bias, (out_channels,))[:, None, None]
    for f in range(out_channels):
        first = f // (out_channels // groups) * group_channels
        for ky in range(kernel_h):
            rows = slice(ky * dilation[0], ky * dilation[0] + (out_h - 1) * stride[0] + 1, stride[0])
            for kx in range(kernel_w):
                columns = slice(kx * dilation[1], kx * dilation[1] + (out_w - 1) * stride[1] + 1, stride[1])
                kept = np.flatnonzero(w[f, :, ky, kx])
                taken = padded[:, first + kept, rows, columns]
                y[:, f] += np.einsum("c,nchw->nhw", w[f, kept, ky, kx], taken)
    if residual is not None:
        y += _shaped("residual", residual, y.shape)
    if clamp is not None:
        y = np.where(y < clamp[0], clamp[0], y)
        y = np.where(y > clamp[1], clamp[1], y)
    return y


def error_bound(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    residual: npt.ArrayLike | None = None,
) -> Float64:
    """How far a correct fp32 result of `conv2d_reference` may be from it; float64 [N, OC, OH, OW].

    (K+2) * 2^-24 * (sum |w||x| + |b|) + K * 2^-149, K = kept taps of that output inside the image; a residual adds one
    to K and its magnitude to the sum. Holds for any order of summation, with or without FMA and clamp (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1), for inputs that are fp32 numbers and no overflow.
    """
    x64, w = np.asarray(x, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    terms = conv2d_reference(np.ones_like(x64), w != 0, None, stride, padding, dilation, groups)
    magnitude = conv2d_reference(
        np.abs(x64), np.abs(w), None if bias is None else np.abs(bias), stride, padding, dilation, groups
    )
    if residual is not None:
        terms += 1
        magnitude += np.abs(_shaped("residual", residual, magnitude.shape))
    return (terms + 2) * _ROUNDING * magnitude + terms * _SMALLEST


def _padded(
    x: Float64,
    weight: Float64,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> tuple[Float64, int, int]:
    """x between zeros, and the output's height and width."""
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(f"x and weight: expected 4 dimensions, got {x.shape} and {weight.shape}")
    if weight.shape[0] % groups or x.shape[1] != weight.shape[1] * groups:
        raise ValueError(f"x and weight: {x.shape} and {weight.shape} do not fit {groups} groups")
    top, left, bottom, right = padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    out_h, out_w = (
        (size - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i, size in enumerate(padded.shape[2:])
    )
    if out_h < 1 or out_w < 1:
        raise ValueError(f"x: the kernel does not fit into the padded input {padded.shape[2:]}")
    return padded, out_h, out_w


def _shaped(name: str, values: npt.ArrayLike, shape: tuple[int, ...]) -> Float64:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array
