"""The 3x3 layers of VGG-16 on an OpenCL device: dense, pruned with four patterns and with twelve, through the same
kernels; python bench/opencl.py [--device NAME] [--rounds 9]. pconv_ops/opencl_bench.py says how times are taken.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from torch import nn

from pconv_ops.cases import BenchOptions, LayerSpec, single_case, single_conv
from pconv_ops.opencl_bench import measure_peak, on_device, turns
from pconv_ops.opencl_device import open_device
from pconv_ops.report import format_table

# in, out, side: every shape of VGG-16's 3x3 layers behind the stem.
SHAPES = (
    *((64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56)),
    *((256, 256, 56), (256, 512, 28), (512, 512, 28), (512, 512, 14)),
)


@dataclass(frozen=True)
class Row:
    """Milliseconds of a shape, 6.98 times fewer weights or all; GFLOP/s of the dense layer."""

    shape: tuple[int, int, int]
    dense: float
    four: float
    twelve: float
    gflops: float


def measure(device: str | None, rounds: int) -> list[Row]:
    rows = []
    for ic, oc, side in SHAPES:
        spec = LayerSpec(ic, oc, side, side)
        four, twelve = (single_case(spec, BenchOptions(patterns=patterns)) for patterns in ("scp4", "random12"))
        convs = (single_conv(spec), four.conv, twelve.conv)
        sessions = [on_device(nn.Sequential(conv).eval(), four.x, device)[1] for conv in convs]
        times = [sum(found.values()) for found in turns(sessions, rounds)]
        rows.append(Row((ic, oc, side), *times, gflops=2e-6 * 9 * ic * oc * side**2 / times[0]))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help='a part of "platform: device"')
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    device = open_device(args.device)
    peak, rows = measure_peak(device), measure(args.device, args.rounds)
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
