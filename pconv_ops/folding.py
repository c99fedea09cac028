"""The arithmetic of folding, in float64: BatchNorm as scale and shift, both into the weights of a layer.

Shared by convert (epilogue.py) and by the passes over graphs. Knows numpy alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .graph import Array

Float64 = npt.NDArray[np.float64]


def norm_scale_shift(
    mean: Array, variance: Array, eps: float, weight: Array | None, bias: Array | None
) -> tuple[Float64, Float64]:
    """(scale [C], shift [C]) of a BatchNorm with these running statistics: y = x * scale + shift.

    All [C]; weight and bias may be missing. scale = weight / sqrt(variance + eps) is not rounded to float32, so that
    folding adds one rounding to each weight.
    """
    with np.errstate(all="ignore"):  # scaled() refuses what is not finite
        scale = 1.0 / np.sqrt(np.asarray(variance, np.float64) + eps)
        if weight is not None:
            scale = scale * np.asarray(weight, np.float64)
        shift = -np.asarray(mean, np.float64) * scale
    return scale, shift if bias is None else shift + np.asarray(bias, np.float64)


def scaled(
    weight: Array, bias: Array | None, scale: Float64, shift: Float64
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """Weight [O, ...] and bias [O], both float32, of a layer followed by y * scale + shift; None where one of them is
    not finite. scale and shift: [O] or [1]. Zeros stay zeros."""
    outputs = weight.shape[0]
    with np.errstate(all="ignore"):
        factors = np.broadcast_to(scale, (outputs,)).reshape(-1, *[1] * (weight.ndim - 1))
        total = np.broadcast_to(shift, (outputs,)).astype(np.float64)
        if bias is not None:
            total = total + np.asarray(bias, np.float64) * factors.reshape(-1)
        new_weight = (weight.astype(np.float64) * factors).astype(np.float32)
        new_bias = total.astype(np.float32)
    return (new_weight, new_bias) if np.isfinite(new_weight).all() and np.isfinite(new_bias).all() else None
