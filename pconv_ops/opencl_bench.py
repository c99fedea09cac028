"""Timing on an OpenCL device: layers and networks, pruned against dense through the same kernels; the FMA peak.

Times are the device's own (events): kernels with the packing of padded planes, without transfers. Rounds of what is
compared take turns, medians count. pconv bench --backend opencl prints these rows; bench/ uses the parts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from .cases import BenchOptions, LayerSpec, net_cases, seeded_net, single_case, single_conv
from .checking import TOLERANCE, ConversionError, output_deviation
from .compiling import compile as compile_model
from .opencl import OpenCLModel
from .opencl_device import Device
from .opencl_session import Session
from .report import format_table
from .zoo import NETS

_ITEMS, _GROUP, _SUMS, _FMAS = 64 * 64, 64, 12, 4000
Row = dict[str, Any]


def measure_peak(device: Device, rounds: int = 7) -> float:
    """GFLOP/s of fp32 multiply-adds in registers, the best of several rounds."""
    lanes = 8 if device.info.kind == "cpu" else 4
    kernel = device.kernel("peak.cl", "peak", {"LANES": lanes, "SUMS": _SUMS})
    items = _ITEMS * max(device.info.units // 2, 1)
    out = device.cl.Buffer(device.context, device.cl.mem_flags.READ_WRITE, 4 * items)
    kernel.set_args(out, np.float32(0.999), np.float32(0.1), np.int32(_FMAS))
    best = 0.0
    for _ in range(rounds):
        event = device.cl.enqueue_nd_range_kernel(device.queue, kernel, (items,), (_GROUP,))
        event.wait()
        best = max(best, 2 * items * _FMAS * _SUMS * lanes / (event.profile.end - event.profile.start))
    return best


def on_device(model: nn.Module, x: torch.Tensor, device: str | None) -> tuple[OpenCLModel, Session]:
    """The model on the device, run once on x and compared with the compiled form on the CPU. ConversionError: they
    differ."""
    compiled = compile_model(model, x, check=False)
    network = OpenCLModel(compiled.native, device)
    off = output_deviation([network(x)], [compiled(x)])
    if not off <= TOLERANCE:
        raise ConversionError(f"opencl: outputs deviate by {off:.1e} from the CPU's, allowed is {TOLERANCE:.0e}")
    return network, network.session((tuple(x.shape),))


def turns(sessions: Sequence[Session], rounds: int) -> list[Mapping[int, float]]:
    """Of each session the median milliseconds of its nodes."""
    found: list[dict[int, list[float]]] = [{} for _ in sessions]
    for _ in range(rounds):
        for session, times in zip(sessions, found, strict=True):
            for node, ms in session.times(1).items():
                times.setdefault(node, []).append(ms)
    return [{node: median(times) for node, times in one.items()} for one in found]


def bench_net(net: str, options: BenchOptions, device: str | None) -> list[Row]:
    """A row for each convolution of a zoo net, pruned by the options, and one for the whole net."""
    model, x, _ = net_cases(net, options)
    return _compared(model, NETS[net].benchmarked(seeded_net(net)), x, device, options.rounds)


def bench_layer(spec: LayerSpec, options: BenchOptions, device: str | None) -> list[Row]:
    """The same for a convolution of its own."""
    case = single_case(spec, options)
    return _compared(nn.Sequential(case.conv), nn.Sequential(single_conv(spec)), case.x, device, options.rounds)


def _compared(pruned: nn.Module, dense: nn.Module, x: torch.Tensor, device: str | None, rounds: int) -> list[Row]:
    """pruned and dense: modules of the same structure."""
    (network, ours), (_, rival) = (on_device(module.eval(), x, device) for module in (pruned, dense))
    times, dense_times = turns((ours, rival), rounds)
    info, peak = network.device.info, measure_peak(network.device)
    known = {"device": info.title, "version": info.version, "peak_gflops": peak}
    nodes = [i for i, node in enumerate(ours.nodes) if node["op"] == "conv"]
    rows = [_layer_row(ours, i, times[i], dense_times[i], peak) | known for i in nodes]
    calls = []
    for _ in range(rounds):
        begun = time.perf_counter()
        network(x)
        calls.append(1e3 * (time.perf_counter() - begun))
    ms, dense_ms = sum(times.values()), sum(dense_times.values())
    whole = {"scope": "whole_net", "ms": ms, "dense_ms": dense_ms, "speedup": dense_ms / ms, "call_ms": median(calls)}
    return [*rows, whole | known]


def _layer_row(session: Session, node: int, ms: float, dense_ms: float, peak: float) -> Row:
    info = session.nodes[node]
    layer = next(row for row in info["data"] if row["name"] == "layer")
    shape = session.shapes[info["output"]]
    conv = layer["conv"]
    dense = conv["out_channels"] * (conv["in_channels"] // conv["groups"]) * conv["kernel_h"] * conv["kernel_w"]
    pixels = shape[0] * math.prod(shape[2:])
    gflops, dense_gflops = 2e-6 * layer["n_weights"] * pixels / ms, 2e-6 * dense * pixels / dense_ms
    return {
        "scope": "layer",
        "layer": info["name"],
        "out": list(shape),
        "kernel": [conv["kernel_h"], conv["kernel_w"]],
        "stride": [conv["stride_h"], conv["stride_w"]],
        "density": layer["n_weights"] / dense,
        "ms": ms,
        "dense_ms": dense_ms,
        "speedup": dense_ms / ms,
        "useful_gflops": gflops,
        "peak_fraction": gflops / peak,
        "dense_peak_fraction": dense_gflops / peak,
    }


def rows_text(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    layers = [row for row in rows if row["scope"] == "layer"]
    headers = ["layer", "output", "density", "ms", "GFLOP/s", "of peak", "dense ms", "of peak", "faster"]
    cells = [
        (
            *(row["layer"], "x".join(map(str, row["out"])), f"{row['density']:.2f}", f"{row['ms']:.3f}"),
            *(f"{row['useful_gflops']:.1f}", f"{row['peak_fraction']:.2f}", f"{row['dense_ms']:.3f}"),
            *(f"{row['dense_peak_fraction']:.2f}", f"{row['speedup']:.2f}x"),
        )
        for row in layers
    ]
    whole = next(row for row in rows if row["scope"] == "whole_net")
    return "\n".join(
        [
            format_table(headers, cells),
            f"all kernels: {whole['ms']:.3f} ms, dense {whole['dense_ms']:.3f} ms: {whole['speedup']:.2f} times faster",
            f"a call, transfers included: {whole['call_ms']:.3f} ms",
            f"{whole['device']}, {whole['version']}, FMA peak {whole['peak_gflops']:.0f} GFLOP/s",
        ]
    )
