"""Layers at the edges of how planes are cut and shared (src/run_planes.cpp): every general ukernel against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pconv_ops import _native
from pconv_ops.packing import pack

SUPPORTED = [row["name"] for row in _native.isas() if row["supported"]]
UKERNELS = [
    row for row in _native.ukernels() if row["isa"] in SUPPORTED and row["body"] in ("taps", "planes", "scatter")
]
SCATTERS = [row for row in UKERNELS if row["body"] == "scatter"]
# in, out, h, w, kernel, stride, dilation, padding
CASES = {
    "rows shared, strips that begin inside a row": (64, 8, 40, 40, (5, 5), 1, 1, 2),
    "far dilation, a strip smaller than two rows": (300, 8, 65, 65, (3, 3), 1, 36, 36),
    "dilation, rows that taps skip": (16, 8, 33, 33, (3, 3), 1, 12, 12),
    "dilation that divides the stride": (8, 8, 21, 23, (3, 3), 4, 2, 2),
    "a tall kernel": (40, 8, 40, 50, (31, 1), 1, 1, (15, 0)),
    "a wide kernel": (8, 8, 9, 40, (1, 31), 1, 1, (0, 15)),
    "wide rows": (24, 8, 3, 3001, (3, 3), 2, 1, 1),
    "1x1, a ragged end": (40, 8, 7, 7, (1, 1), 1, 1, 0),
    "1x1, more filters than are read in place": (16, 168, 7, 9, (1, 1), 1, 1, 0),
    "a map of 7x7, one output behind whole vectors": (24, 8, 14, 14, (3, 3), 2, 1, 1),
    "one output behind several tiles, the last of 49": (8, 8, 1, 161, (1, 3), 1, 1, (0, 1)),
    "one output behind one vector": (8, 8, 1, 17, (1, 3), 1, 1, (0, 1)),
    "one output behind two vectors": (8, 8, 1, 33, (1, 3), 1, 1, (0, 1)),
    "one output behind four vectors": (8, 8, 1, 65, (1, 3), 1, 1, (0, 1)),
    "five taps, kernels in parts, one output behind": (8, 8, 14, 14, (1, 5), 2, 1, (0, 2)),
    "two tap columns shifted": (8, 8, 21, 30, (5, 5), 2, 1, 2),
    "a tap column shifted, another before the padding": (8, 8, 13, 20, (3, 5), 2, 1, (1, 3)),
    "shifted, dilation that divides the stride": (8, 8, 21, 23, (3, 3), 2, 2, 2),
    "shifted, stride 3": (8, 8, 20, 34, (4, 4), 3, 1, 2),
    "shifted, stride 1": (8, 8, 9, 11, (3, 3), 1, 1, 1),
    "shifted, rows of one output": (8, 8, 40, 1, (3, 3), 1, 1, 1),
    "shifted, strips that begin inside a row": (200, 8, 90, 90, (3, 3), 2, 1, 1),
    "strides that differ": (8, 8, 30, 31, (5, 3), (1, 2), 1, (2, 1)),
}


def conv_of(case) -> tuple[torch.Tensor, torch.nn.Conv2d]:
    """Integer inputs and weights, so that every order of sums gives the same; no zeros: blocks take all kernels."""
    ic, oc, h, w, kernel, stride, dilation, padding = case
    draw = torch.Generator().manual_seed(0)
    conv = torch.nn.Conv2d(ic, oc, kernel, stride, padding, dilation)
    with torch.no_grad():
        signs = 2 * torch.randint(0, 2, conv.weight.shape, generator=draw) - 1
        conv.weight.copy_(signs * torch.randint(1, 4, conv.weight.shape, generator=draw))
        conv.bias.copy_(torch.randint(-3, 4, conv.bias.shape, generator=draw))
    return torch.randint(-3, 4, (1, ic, h, w), generator=draw).float(), conv


def packed_of(conv):
    return pack(conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def result_of(conv, x, shape, ukernel, **options) -> np.ndarray:
    """The packed layer's outputs, written where NaN stood."""
    packed = packed_of(conv)
    got = np.full(shape, np.nan, np.float32)
    n, _, h, w = x.shape
    chosen = {"isa": ukernel["isa"], "ukernel": ukernel["name"]}
    packed.run(x.data_ptr(), got.ctypes.data, n, h, w, False, **chosen, **options)
    return got


@pytest.mark.parametrize("ukernel", UKERNELS, ids=lambda row: row["name"])
@pytest.mark.parametrize("name", CASES)
def test_ukernel_gives_what_torch_gives(name, ukernel):
    x, conv = conv_of(CASES[name])
    with torch.no_grad():
        want = conv(x).numpy()
    assert np.array_equal(result_of(conv, x, want.shape, ukernel), want)


@pytest.mark.parametrize("ukernel", SCATTERS, ids=lambda row: row["name"])
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 6])
def test_scatter_of_few_taps_with_one_output_behind_whole_vectors(taps, ukernel):
    """Clamped, with a residual; the last output of 49 has sums of its own on AVX-512."""
    x, conv = conv_of((12, 20, 14, 14, (3, 3), 2, 1, 1))
    residual = torch.randint(-3, 4, (1, 20, 7, 7), generator=torch.Generator().manual_seed(1)).float()
    with torch.no_grad():
        conv.weight.view(20, 12, 9)[:, :, taps:] = 0
        want = (conv(x) + residual).clamp(-5, 20).numpy()
    options = {"residual": residual.data_ptr(), "clamp_min": -5, "clamp_max": 20}
    assert np.array_equal(result_of(conv, x, want.shape, ukernel, **options), want)


def scatter_and_torch(conv, packed, size, ukernel) -> tuple[np.ndarray, np.ndarray]:
    draw = torch.Generator().manual_seed(2)
    x = torch.randint(-3, 4, (1, conv.in_channels, *size), generator=draw).float()
    with torch.no_grad():
        want = conv(x).numpy()
    got = np.full(want.shape, np.nan, np.float32)
    packed.run(x.data_ptr(), got.ctypes.data, 1, *size, False, isa=ukernel["isa"], ukernel=ukernel["name"])
    return got, want


@pytest.mark.parametrize("ukernel", SCATTERS, ids=lambda row: row["name"])
def test_one_layer_on_maps_with_and_without_shifted_planes(ukernel):
    """A wide row has planes for each tile, where no tap is shifted: the layer keeps a form of its weights for each."""
    _, conv = conv_of((24, 8, 3, 3, (3, 3), 2, 1, 1))
    packed = packed_of(conv)
    for size in [(14, 14), (3, 3001), (15, 13), (3, 2999)]:
        got, want = scatter_and_torch(conv, packed, size, ukernel)
        assert np.array_equal(got, want), size


@pytest.mark.parametrize("ukernel", SCATTERS, ids=lambda row: row["name"])
def test_a_shifted_column_keeps_other_rows_than_the_one_whose_plane_it_reads(ukernel):
    _, conv = conv_of((6, 8, 3, 3, (5, 3), 1, 1, (0, 1)))
    with torch.no_grad():
        conv.weight[:, :, 1:, 0] = 0
        conv.weight[:, :, :4, 1] = 0
        conv.weight[:, :, 1:, 2] = 0
    got, want = scatter_and_torch(conv, packed_of(conv), (44, 40), ukernel)
    assert np.array_equal(got, want)


def test_scratch_stays_within_reason():
    """A tall kernel on a low map: planes that share rows would hold 32 rows more for each of its columns."""
    weight = np.ones((1, 4096, 32, 32), np.float32)
    packed = pack(weight)
    for isa in SUPPORTED:
        assert packed.plan_info(1, 32, 95, isa=isa)["scratch_bytes_per_thread"] <= 256 << 20


def case_of(x, weight, stride, padding, dilation, groups) -> np.ndarray:
    """By torch; padding = (top, left, bottom, right)."""
    top, left, bottom, right = padding
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    return torch.nn.functional.conv2d(padded, weight, None, stride, 0, dilation, groups).numpy()


@pytest.mark.parametrize("ukernel", SCATTERS, ids=lambda row: row["name"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "n_threads"),
    [
        ((3, 3), (2, 2), (0, 1, 1, 0), (1, 1), 2, 1),
        ((3, 4), (1, 3), (1, 2, 0, 3), (1, 1), 1, 3),
        ((2, 3), (4, 2), (1, 2, 1, 1), (1, 2), 3, 2),
        ((3, 3), (2, 2), (1, 2, 1, 2), (1, 1), 1, 1),
    ],
)
def test_shifted_planes_of_uneven_layers(kernel, stride, padding, dilation, groups, n_threads, ukernel):
    draw = torch.Generator().manual_seed(3)
    x = torch.randint(-3, 4, (2, 4 * groups, 24, 37), generator=draw).float()
    weight = torch.randint(-3, 4, (6 * groups, 4, *kernel), generator=draw).float()
    want = case_of(x, weight, stride, padding, dilation, groups)
    packed = _native.pack_weights(
        weight.numpy(), None, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    got = np.full(want.shape, np.nan, np.float32)
    chosen = {"isa": ukernel["isa"], "ukernel": ukernel["name"], "n_threads": n_threads}
    packed.run(x.data_ptr(), got.ctypes.data, 2, 24, 37, False, **chosen)
    assert np.array_equal(got, want)


def test_scratch_holds_no_rows_that_no_tap_reads():
    """A dilated kernel reads three rows of 2 * 36 + 1."""
    _, conv = conv_of((256, 8, 65, 65, (3, 3), 1, 36, 36))
    packed = packed_of(conv)
    for ukernel in UKERNELS:
        if ukernel["body"] in ("planes", "scatter"):
            info = packed.plan_info(1, 65, 65, isa=ukernel["isa"], ukernel=ukernel["name"])
            assert info["scratch_bytes_per_thread"] < 8 << 20, ukernel["name"]
