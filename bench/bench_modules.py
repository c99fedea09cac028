"""PatternConv2d beside nn.Conv2d with the same pruned weights, for each VGG-16 layer shape; max poolings; one thread.

NCHW, unless a name says channels_last. The last group times the call itself: conv2d() and PatternConv2d on a
[1, 64, 8, 8] input beside the binding's run on the same buffers and on no image at all (the cost of its call). `pconv
bench` interleaves its rounds and is the fairer comparison; these benches are for watching one side change.
"""

from __future__ import annotations

import pytest
import torch
from shape_list import read_shapes, shape_id

from pconv_ops import PatternConv2d, conv2d, set_num_threads
from pconv_ops.benchmark import check_result
from pconv_ops.cases import BenchOptions, LayerSpec, pack_conv, random_input, single_case
from pconv_ops.pooling import max_pool2d

SHAPES = list(read_shapes("vgg16").values())
SMALL = LayerSpec(64, 64, 8, 8)
SIDES = pytest.mark.parametrize("side", ["pconv", "torch_nchw", "torch_channels_last"])
# Channels, rows and columns, kernel, stride, padding: ResNet's one; VGG-16's first and last.
POOLS = {
    "3x3s2-64x112x112": (64, 112, 3, 2, 1),
    "2x2s2-64x224x224": (64, 224, 2, 2, 0),
    "2x2s2-512x14x14": (512, 14, 2, 2, 0),
}


@pytest.fixture(autouse=True)
def one_thread():
    set_num_threads(1)
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


@SIDES
@pytest.mark.parametrize("spec", SHAPES, ids=shape_id)
def bench_module(benchmark, spec, side):
    case = single_case(spec, BenchOptions())
    want = case.conv(case.x)
    layer, x = (PatternConv2d.from_dense(case.conv) if side == "pconv" else case.conv), case.x
    if side == "torch_channels_last":
        layer, x = layer.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    benchmark.group = shape_id(spec)
    check_result(side, benchmark(layer, x), want)


@SIDES
@pytest.mark.parametrize("pool", POOLS)
def bench_max_pool(benchmark, pool, side):
    channels, size, *window = POOLS[pool]
    x = random_input(1, channels, size, size)
    want = torch.nn.functional.max_pool2d(x, *window)
    if side == "torch_channels_last":
        x = x.to(memory_format=torch.channels_last)
    benchmark.group = f"max pooling {pool}"
    run = max_pool2d if side == "pconv" else torch.nn.functional.max_pool2d
    assert torch.equal(benchmark(run, x, *window), want)


@pytest.mark.benchmark(group="call on 1x64x8x8")
@pytest.mark.parametrize("call", ["conv2d", "PatternConv2d", "core", "core_no_image"])
def bench_call(benchmark, call):
    case = single_case(SMALL, BenchOptions())
    x, packed, layer = case.x, pack_conv(case.conv), PatternConv2d.from_dense(case.conv)
    y = torch.empty_like(x)
    at = (x.data_ptr(), y.data_ptr())
    calls = {
        "conv2d": lambda: conv2d(x, packed),
        "PatternConv2d": lambda: layer(x),
        "core": lambda: packed.run(*at, 1, 8, 8, False, n_threads=1),
        "core_no_image": lambda: packed.run(*at, 0, 8, 8, False, n_threads=1),
    }
    benchmark(calls[call])
