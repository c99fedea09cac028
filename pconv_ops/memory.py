"""Arrays for results of the core."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 64  # bytes: numpy aligns to 16, and then every wide store crosses a cache line (docs/PERFORMANCE.md)


def aligned_empty(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """An uninitialised contiguous array that starts at a cache line."""
    n_bytes = 4 * math.prod(shape)
    buffer = np.empty(n_bytes + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + n_bytes].view(np.float32).reshape(shape)
