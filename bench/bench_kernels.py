"""Every row of the kernel table that this CPU can run, over VGG-16 shapes and small maps: the binding's run, one
thread, NCHW.

Rows that share a key are all timed, not only the one a plan would choose: this is where a ukernel earns its rank.
Weights carry the 4 SCPs at 3.1x connectivity; packing of the tiles and the epilogue are included.
"""

from __future__ import annotations

import numpy as np
import pytest
from shape_list import read_shapes, shape_id

from pconv_ops import _native
from pconv_ops.benchmark import gflops
from pconv_ops.cases import BenchOptions, pack_conv, single_case

SHAPES = [s for net in ("vgg16", "vgg16_cifar") for s in read_shapes(net).values() if s.ic == s.oc]
SUPPORTED = [row["name"] for row in _native.isas() if row["supported"]]
UKERNELS = [row for row in _native.ukernels() if row["isa"] in SUPPORTED]


def most_pixels(ukernel):
    """Of the maps that it takes."""
    lanes = {"map3x3": ukernel["vectors"] * ukernel["lanes"], "tiny3x3": ukernel["lanes"] // 4}
    return lanes.get(ukernel["body"], float("inf"))


@pytest.mark.parametrize("ukernel", UKERNELS, ids=lambda row: row["name"])
@pytest.mark.parametrize("spec", SHAPES, ids=shape_id)
def bench_ukernel(benchmark, spec, ukernel):
    if ukernel["stride"] != spec.stride:
        pytest.skip(f"{ukernel['name']} is for stride {ukernel['stride']}")
    packed = pack_conv(single_case(spec, BenchOptions()).conv)
    x = np.random.default_rng(0).standard_normal((1, spec.ic, spec.h, spec.w), dtype=np.float32)
    out_h, out_w = packed.output_shape(spec.h, spec.w)
    y = np.full((1, spec.oc, out_h, out_w), np.nan, np.float32)
    chosen = {"isa": ukernel["isa"], "ukernel": ukernel["name"]}
    if spec.h * spec.w > most_pixels(ukernel):
        pytest.skip(f"{ukernel['name']} takes smaller maps")
    assert packed.plan_info(1, spec.h, spec.w, **chosen)["ukernel"] == ukernel["name"]

    def run():
        packed.run(x.ctypes.data, y.ctypes.data, 1, spec.h, spec.w, False, n_threads=1, **chosen)

    benchmark(run)
    assert np.isfinite(y).all()
    if benchmark.stats is not None:
        ms = 1e3 * benchmark.stats.stats.median
        benchmark.extra_info["useful_gflops"] = gflops(packed.nnz * out_h * out_w, ms)
