"""Layers whose rows are so wide, or whose planes are so many, that a strip of tiles holds a part of a row or two."""

import numpy as np
import pytest
import torch

import pconv_ops

SHAPES = {  # channels, filters, h, w, kernel, stride, dilation
    "dilation": (96, 24, 3, 700, (3, 3), 1, 2),
    "one row": (64, 16, 1, 5000, (1, 3), 1, 1),
    "stride 2": (96, 24, 4, 1501, (3, 3), 2, 1),
    "stride 3": (64, 8, 5, 1111, (3, 3), 3, 1),
    "several rows": (128, 16, 40, 90, (3, 3), 1, 2),
    "unaligned 1x1": (160, 24, 3, 1337, (1, 1), 1, 1),
}


@pytest.mark.parametrize("block", [1, 4], ids=["single filters", "blocks"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_strips_that_hold_parts_of_rows_compute_the_same(shape, block):
    channels, filters, h, w, kernel, stride, dilation = shape
    rng = np.random.default_rng(1)
    keep = rng.random((filters // block, channels, *kernel)) < 0.2
    weight = rng.integers(-8, 9, (filters, channels, *kernel)).astype(np.float32) * np.repeat(keep, block, axis=0)
    x = rng.integers(-8, 9, (1, channels, h, w)).astype(np.float32)
    padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
    packed = pconv_ops.pack(weight, None, stride, padding, dilation)
    expected = torch.conv2d(torch.from_numpy(x), torch.from_numpy(weight), None, stride, padding, dilation).numpy()
    for isa in (row["name"] for row in pconv_ops.cpu_info()["isas"] if row["supported"]):
        y = np.full_like(expected, np.nan)
        packed.run(x.ctypes.data, y.ctypes.data, 1, h, w, False, n_threads=2, isa=isa)
        assert np.array_equal(y, expected), isa
