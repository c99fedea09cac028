"""The 3x3 layers of VGG-16 on an OpenCL device: dense, pruned with four patterns and with twelve, through the same
kernels; python bench/opencl.py [--device NAME] [--rounds 9].

Times are the device's own (events), packing of padded planes included, transfers not. Rounds of the three take turns;
medians count. The peak is that of cl/peak.cl on the same device, the best of several rounds.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import nn

import pconv_ops
from pconv_ops import SCP4, PatternSet, prune_
from pconv_ops.opencl_device import Device, open_device
from pconv_ops.opencl_session import Session
from pconv_ops.report import format_table

# in, out, side: every shape of VGG-16's 3x3 layers behind the stem.
SHAPES = (
    *((64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56)),
    *((256, 256, 56), (256, 512, 28), (512, 512, 28), (512, 512, 14)),
)
CONNECTIVITY = 3.1  # times 9 / 4: 6.98 times fewer weights
_ITEMS, _GROUP, _SUMS, _FMAS = 64 * 64, 64, 12, 4000


@dataclass(frozen=True)
class Row:
    """Milliseconds of a shape; GFLOP/s of the dense layer."""

    shape: tuple[int, int, int]
    dense: float
    four: float
    twelve: float
    gflops: float


def measure_peak(device: Device, lanes: int, rounds: int = 7) -> float:
    """GFLOP/s of multiply-adds in registers."""
    kernel = device.kernel("peak.cl", "peak", {"LANES": lanes, "SUMS": _SUMS})
    out = device.cl.Buffer(device.context, device.cl.mem_flags.READ_WRITE, 4 * _ITEMS)
    kernel.set_args(out, np.float32(0.999), np.float32(0.1), np.int32(_FMAS))
    best = 0.0
    for _ in range(rounds):
        event = device.cl.enqueue_nd_range_kernel(device.queue, kernel, (_ITEMS,), (_GROUP,))
        event.wait()
        best = max(best, 2 * _ITEMS * _FMAS * _SUMS * lanes / (event.profile.end - event.profile.start))
    return best


def layer_session(shape: tuple[int, int, int], patterns: PatternSet | None, name: str | None) -> Session:
    """A layer of this shape, dense without patterns, planned on the device."""
    in_channels, out_channels, side = shape
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1))
    if patterns is not None:
        prune_(net, patterns=patterns, connectivity=CONNECTIVITY)
    x = torch.randn(1, in_channels, side, side)
    model = pconv_ops.OpenCLModel(pconv_ops.compile(net.eval(), x, check=False).native, name)
    model(x)
    return model.session(((1, in_channels, side, side),))


def measure(name: str | None, rounds: int, shapes: tuple[tuple[int, int, int], ...] = SHAPES) -> list[Row]:
    rows = []
    for shape in shapes:
        sets = (None, SCP4, PatternSet.random(12, seed=0))
        sessions = [layer_session(shape, patterns, name) for patterns in sets]
        times: list[list[float]] = [[] for _ in sessions]
        for _ in range(rounds):
            for session, found in zip(sessions, times, strict=True):
                found.append(sum(session.times(1).values()))
        dense, four, twelve = map(median, times)
        macs = 9 * shape[0] * shape[1] * shape[2] ** 2
        rows.append(Row(shape, dense, four, twelve, 2e-6 * macs / dense))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help='a part of "platform: device"')
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    device = open_device(args.device)
    peak = measure_peak(device, 8 if device.info.kind == "cpu" else 4)
    rows = measure(args.device, args.rounds)
    cells = [
        (
            "x".join(map(str, row.shape)),
            *(f"{row.dense:.3f}", f"{row.gflops / peak:.2f}", f"{row.four:.3f}"),
            *(f"{row.dense / row.four:.2f}x", f"{row.twelve / row.four:.3f}"),
        )
        for row in rows
    ]
    print(format_table(["layer", "dense ms", "of peak", "4 patterns ms", "faster", "12 against 4"], cells))
    print(f"{device.info.title}, {device.info.version}; FMA peak {peak:.0f} GFLOP/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
