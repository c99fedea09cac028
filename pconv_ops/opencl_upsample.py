"""Where the outputs of upsampling lie between inputs, as tables for the kernels of resize.cl. Numpy alone.

The rules, and why, are those of src/graph/ops_resize.cpp.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt


def _meant(scale: float) -> Fraction:
    """The simplest fraction that gives a float."""
    for below in range(1, 1001):
        fraction = Fraction(round(scale * below), below)
        if np.float32(fraction.numerator / fraction.denominator) == np.float32(scale):
            return fraction
    return Fraction(scale)


def input_ratio(size: int, out: int, scale: float, align_corners: bool) -> np.float32:
    """Inputs for an output."""
    if align_corners:
        return np.float32(size - 1) / np.float32(out - 1) if out > 1 else np.float32(0)
    return np.float32(float(1 / _meant(scale))) if scale > 0 else np.float32(size) / np.float32(out)


def nearest_table(size: int, out: int, ratio: np.float32) -> npt.NDArray[np.int32]:
    places = np.arange(out)
    if out == size:
        return places.astype(np.int32)
    if out == 2 * size:
        return (places // 2).astype(np.int32)
    return np.minimum((places.astype(np.float32) * ratio).astype(np.int64), size - 1).astype(np.int32)


def linear_tables(
    size: int, out: int, ratio: np.float32, align_corners: bool
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The input below each output, the next one, and how far the output lies from the first towards the second."""
    i = np.arange(out).astype(np.float32)
    if out == size:  # no neighbour has a part in it, also none that is NaN
        same = np.arange(out, dtype=np.int32)
        return same, same, np.zeros(out, np.float32)
    half = np.float32(0.5)
    places = ratio * i if align_corners else np.maximum(ratio * (i + half) - half, np.float32(0))
    below = np.minimum(places.astype(np.int64), size - 1)
    weights = np.clip(places - below.astype(np.float32), np.float32(0), np.float32(1))
    return below.astype(np.int32), np.minimum(below + 1, size - 1).astype(np.int32), weights.astype(np.float32)
