"""convert(): a pruned model -> a copy in which its pruned convolutions are PatternConv2d, and a report of it.

Walks the modules; does not trace, fold or prune. Needs torch.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from ._native import BackendUnavailable
from .modules import PatternConv2d, geometry_obstacle
from .report import ConvertReport, LayerConversion, layer_kind

# From this density on too little was pruned for the packed form to win, whole kernels or single weights alike.
_MAX_DENSITY = 0.6
_STEM_CHANNELS = 4
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def convert(model: nn.Module, example_inputs: Any = None, backend: str = "cpu", fallback: str = "auto") -> nn.Module:
    """A deep copy of `model` with each pruned 3x3 convolution replaced; `model` itself stays as it is.

    Replaced is every nn.Conv2d (that very class) with a 3x3 kernel, stride 1, dilation 1, zero padding and float32
    weights on the CPU, of which more than 40 % are zero. A module used in several places is replaced once and stays
    shared. Stems, depthwise layers, other geometries, layers with hooks or parametrizations and
    layers that nothing was pruned from stay as they are. `report` of the returned model, a ConvertReport, gives the
    choice and the reason for each convolution.

    example_inputs: a tensor or a tuple of arguments, or None; given, the copy runs once on them, in evaluation mode and
    without gradients, so that a fault shows here and the plans are ready. backend: 'cpu'. fallback: 'auto', the only
    choice today: what cannot be replaced stays dense. The copy is for inference: no gradient passes a replaced layer.

    TypeError: wrong kind. ValueError: another fallback. BackendUnavailable: another backend.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    if not isinstance(backend, str):
        raise TypeError(f"backend: expected a name, got {type(backend).__name__}")
    if backend != "cpu":
        raise BackendUnavailable(f"backend: '{backend}' is not in this build; there is 'cpu'")
    if fallback != "auto":
        raise ValueError(f"fallback: expected 'auto', got {fallback!r}")
    arguments = _arguments(example_inputs)

    result = _deep_copy(model)
    report = ConvertReport()
    swaps: dict[nn.Module, PatternConv2d] = {}
    for name, module in result.named_modules():
        if isinstance(module, _ConvNd):
            reason = _obstacle(module)
            if not reason:
                swaps[module] = PatternConv2d.from_dense(module).train(module.training)
            report.layers.append(_row(name, module, reason))
    result = _swap(result, swaps)
    result.report = report
    if arguments is not None:
        _run_once(result, arguments)
    return result


def _arguments(example_inputs: Any) -> tuple[Any, ...] | None:
    if example_inputs is None:
        return None
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs)
    raise TypeError(f"example_inputs: expected a tensor or a tuple, got {type(example_inputs).__name__}")


def _deep_copy(model: nn.Module) -> nn.Module:
    """copy.deepcopy, also of modules that hold a computed weight, as torch.nn.utils.prune and weight_norm leave it:
    torch refuses to copy those, and their hooks compute it again."""
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in held if not value.is_leaf})


def _obstacle(conv: _ConvNd) -> str:
    """Why a convolution stays dense; '' when it is to be replaced."""
    if type(conv) is not nn.Conv2d:
        if parametrize.is_parametrized(conv):
            return "parametrized: remove the parametrizations first"
        return f"{type(conv).__name__} is not nn.Conv2d itself"
    if any(getattr(conv, hooks, None) for hooks in _HOOKS):
        return "has hooks, which would be lost (of torch.nn.utils.prune: prune.remove them first)"
    if "forward" in vars(conv):
        return "its forward was replaced"
    if conv.weight.dtype is not torch.float32 or conv.weight.device.type != "cpu":
        return f"{conv.weight.dtype} on {conv.weight.device}: only float32 on the CPU runs"
    if conv.groups > 1 and conv.in_channels == conv.groups:
        return "depthwise"
    if conv.groups == 1 and conv.in_channels <= _STEM_CHANNELS:
        return f"stem: {conv.in_channels} input channels"
    obstacle = geometry_obstacle(conv) or _slow_geometry(conv)
    if obstacle:
        return obstacle
    return _density_obstacle(conv.weight)


def _slow_geometry(conv: nn.Conv2d) -> str:
    """Why a convolution that runs is not taken: general kernels may be slower than torch, and nothing measures here."""
    if tuple(conv.kernel_size) != (3, 3):
        return f"kernel {conv.kernel_size[0]}x{conv.kernel_size[1]}: only 3x3 is replaced"
    if tuple(conv.stride) != (1, 1):
        return f"stride {tuple(conv.stride)}: only 1 is replaced"
    if tuple(conv.dilation) != (1, 1):
        return f"dilation {tuple(conv.dilation)}: only 1 is replaced"
    return ""


def _density_obstacle(weight: torch.Tensor) -> str:
    density = _density(weight)
    if density < _MAX_DENSITY:
        return ""
    if density == 1.0:
        return "dense: nothing was pruned"
    return f"dense: {density:.0%} of the weights are left, replaced are layers below {_MAX_DENSITY:.0%}"


def _density(weight: torch.Tensor) -> float:
    """Share of weights that are not zero; 1 where they cannot be read or there are none."""
    if isinstance(weight, UninitializedParameter) or weight.device.type == "meta" or not weight.numel():
        return 1.0
    return int(torch.count_nonzero(weight)) / weight.numel()


def _row(name: str, conv: _ConvNd, reason: str) -> LayerConversion:
    lazy = isinstance(conv.weight, UninitializedParameter)
    shape = () if lazy else tuple(int(n) for n in conv.weight.shape)
    kind = layer_kind(shape, conv.groups) if len(shape) == 4 else type(conv).__name__
    density = _density(conv.weight)
    if reason:
        return LayerConversion(name, kind, shape, density, "dense", reason)
    return LayerConversion(name, kind, shape, density, "pconv", f"pruned: {density:.0%} of the weights are left")


def _swap(model: nn.Module, swaps: dict[nn.Module, PatternConv2d]) -> nn.Module:
    """Replaces modules wherever they are a child of another."""
    if model in swaps:
        return swaps[model]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in swaps:
                parent._modules[name] = swaps[child]
    return model


def _run_once(model: nn.Module, arguments: tuple[Any, ...]) -> None:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            model(*arguments)
    finally:
        for module, training in modes:
            module.training = training
