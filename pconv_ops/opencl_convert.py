"""convert(..., backend="opencl"): every convolution of a model on an OpenCL device, each by itself.

For those who want layers alone: each call sends its input to the device and fetches its output; the report counts both.
compile(backend="opencl") keeps activations there. Needs torch and pyopencl.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ._native import ModelBuilder
from .candidates import dense_row, obstacle
from .checking import LOUD, TOLERANCE, ConversionError, output_deviation, seeded_output
from .conversion_report import ConvertReport, LayerConversion
from .modules import PatternConv2d
from .opencl import OpenCLModel
from .walking import WalkedPlan

_ANY_IMAGES = 0b1101  # free dims of the layer's input: all but channels


class OpenCLConv2d(nn.Module):
    """A convolution on an OpenCL device: float32 CPU tensors [N, C, H, W] or [C, H, W] in, such out, without gradients.
    `network`: the OpenCLModel that runs it."""

    def __init__(self, conv: nn.Conv2d, device: str | None = None) -> None:
        """TypeError, ValueError: as PatternConv2d.from_dense. BackendUnavailable: no such device."""
        super().__init__()
        packed = PatternConv2d.from_dense(conv).packed_conv
        top, left, bottom, right = packed.padding
        reach = [d * (k - 1) + 1 for d, k in zip(packed.dilation, packed.kernel_size, strict=True)]
        sizes = (max(1, reach[0] - top - bottom), max(1, reach[1] - left - right))
        builder = ModelBuilder()
        x = builder.add_input("x", (1, packed.in_channels, *sizes), _ANY_IMAGES)
        builder.add_output("y", builder.add_node("conv", "conv", [x], [0], [0.0, 0.0], {"layer": packed}))
        self.network = OpenCLModel(builder.finish(True), device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.network(x[None] if x.dim() == 3 else x)
        return y[0] if x.dim() == 3 else y

    def extra_repr(self) -> str:
        return repr(self.network)


def convert_layers(
    original: nn.Module, arguments: tuple[tuple[Any, ...], dict[str, Any]] | None, device: str | None
) -> nn.Module:
    """`original`, with every nn.Conv2d that can run packed replaced in place by one on the device, and a `report`.
    ConversionError: a layer, or the model, computes something else on the example."""
    names = {module: name for name, module in original.named_modules() if isinstance(module, _ConvNd)}
    plan = WalkedPlan(original, [original], names, set())
    expected = None if arguments is None else seeded_output(original, arguments)
    rows, layers = [], {}
    for conv, name in names.items():
        row = dense_row(name, conv, obstacle(conv))
        if not row.reason and isinstance(conv, nn.Conv2d):
            layers[conv] = OpenCLConv2d(conv, device)
            row = replace(row, chosen="pconv", reason="on the device")
        rows.append(row)
    report = ConvertReport(rows, notes=["each layer sends its input to the device and fetches its output"])
    if arguments is not None:
        report.layers = _seen(original, arguments, names, layers, rows)
    for conv, layer in layers.items():
        plan.replace(conv, layer)
    result = layers.get(original, original)  # type: ignore[call-overload]
    if arguments is not None:
        report.deviation = output_deviation(seeded_output(result, arguments), expected)
        if not report.deviation <= LOUD:
            raise ConversionError(f"model: outputs with layers on the device deviate by {report.deviation:.1e}")
    result.report = report
    return result  # type: ignore[no-any-return]


def _seen(
    model: nn.Module,
    arguments: tuple[tuple[Any, ...], dict[str, Any]],
    names: dict[nn.Module, str],
    layers: dict[nn.Conv2d, OpenCLConv2d],
    rows: list[LayerConversion],
) -> list[LayerConversion]:
    """The rows with what a run on the example shows: inputs, bytes that move, deviations."""
    found = {row.name: row for row in rows}

    def hook(conv: nn.Module, args: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        x, name = args[0], names[conv]
        off = output_deviation([layers[conv](x)], [y])  # type: ignore[index]
        if not off <= TOLERANCE:
            raise ConversionError(f"'{name}': the layer on the device deviates by {off:.1e}")
        bytes_moved = f"{4 * math.prod(x.shape)} bytes up, {4 * math.prod(y.shape)} down a call"
        found[name] = replace(found[name], reason=bytes_moved, input_shape=tuple(x.shape), deviation=off)

    hooks = [conv.register_forward_hook(hook) for conv in layers]
    try:
        seeded_output(model, arguments)
    finally:
        for handle in hooks:
            handle.remove()
    return [found[row.name] for row in rows]
