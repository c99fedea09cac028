"""Whole-map ukernels (src/kernels/map3x3.inl, tiny3x3.inl) with runs of every length: they take kernels two or four at
a time, and what is left one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pconv_ops import _native
from pconv_ops.packing import pack

MAPS = {"tiny3x3": [(2, 2), (1, 4), (4, 1), (1, 3), (1, 1)], "map3x3": [(4, 4), (2, 2), (1, 15), (8, 2), (3, 5)]}
SUPPORTED = [row["name"] for row in _native.isas() if row["supported"]]
UKERNELS = [row for row in _native.ukernels() if row["isa"] in SUPPORTED and row["body"] in MAPS]
TAPS = {"scp": (1, 3, 4, 5), "up": (1,), "cross": (1, 3, 4, 5, 7), "corners": (0, 2, 6, 8), "all": tuple(range(9))}


def mask_of(taps: str) -> int:
    return sum(1 << tap for tap in TAPS[taps])


PAIRS = [(ukernel, taps) for ukernel in UKERNELS for taps in TAPS if not mask_of(taps) & ~ukernel["taps"]]


@pytest.mark.parametrize("ukernel,taps", PAIRS, ids=[f"{ukernel['name']}-{taps}" for ukernel, taps in PAIRS])
def test_runs_of_every_length(ukernel, taps):
    """Filter f keeps f kernels under one mask; integers, so that every order of sums gives the same."""
    draw = torch.Generator().manual_seed(0)
    conv = torch.nn.Conv2d(12, 13, 3, padding=1)
    with torch.no_grad():
        conv.weight.zero_()
        for f in range(13):
            signs = 2 * torch.randint(0, 2, (f, len(TAPS[taps])), generator=draw) - 1
            kept = signs * torch.randint(1, 4, signs.shape, generator=draw)
            conv.weight.view(13, 12, 9)[f, 12 - f :, list(TAPS[taps])] = kept.float()
        conv.bias.copy_(torch.randint(-3, 4, (13,), generator=draw))
    packed = pack(conv.weight, conv.bias, padding=1)
    for h, w in MAPS[ukernel["body"]]:
        x = torch.randint(-3, 4, (1, 12, h, w), generator=draw).float()
        got = np.full((1, 13, h, w), np.nan, np.float32)
        chosen = {"isa": ukernel["isa"], "ukernel": ukernel["name"]}
        packed.run(x.data_ptr(), got.ctypes.data, 1, h, w, False, **chosen)
        with torch.no_grad():
            assert np.array_equal(got, conv(x).numpy()), (h, w)
