"""Which convolutions and max poolings of a model may be replaced, and why other convolutions may not.

Asked by convert.py and its plans before anything runs. Looks at one module at a time; times and changes nothing.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from .conversion_report import LayerConversion
from .modules import geometry_obstacle
from .report import layer_kind

# Where nothing is measured: from this density on too little was pruned for the packed form to win for sure.
_MAX_DENSITY = 0.6
_STEM_CHANNELS = 4
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its forward."""
    return any(getattr(module, hooks, None) for hooks in _HOOKS)


def is_pool(module: nn.Module) -> bool:
    """Whether a module is a max pooling that may be replaced."""
    plain = type(module) is nn.MaxPool2d and not has_hooks(module) and "forward" not in vars(module)
    return plain and not module.return_indices


def obstacle(conv: _ConvNd) -> str:
    """Why a convolution cannot be replaced; '' when it can."""
    if type(conv) is not nn.Conv2d:
        if parametrize.is_parametrized(conv):
            return "parametrized: remove the parametrizations first"
        return f"{type(conv).__name__} is not nn.Conv2d itself"
    if has_hooks(conv):
        return "has hooks, which would be lost (of torch.nn.utils.prune: prune.remove them first)"
    if "forward" in vars(conv):
        return "its forward was replaced"
    tensors = [conv.weight] if conv.bias is None else [conv.weight, conv.bias]
    for tensor in tensors:
        if tensor.dtype is not torch.float32 or tensor.device.type != "cpu":
            return f"{tensor.dtype} on {tensor.device}: only float32 on the CPU runs"
    return geometry_obstacle(conv)


def unmeasured_obstacle(conv: nn.Conv2d) -> str:
    """Why a convolution that could be replaced is not, where nothing can be measured: torch may be faster; '' when the
    packed form is known to win."""
    if conv.groups > 1 and conv.in_channels == conv.groups:
        return "depthwise"
    if conv.groups == 1 and conv.in_channels <= _STEM_CHANNELS:
        return f"stem: {conv.in_channels} input channels"
    if tuple(conv.kernel_size) != (3, 3):
        return f"kernel {conv.kernel_size[0]}x{conv.kernel_size[1]}: only 3x3 is replaced"
    if tuple(conv.stride) != (1, 1):
        return f"stride {tuple(conv.stride)}: only 1 is replaced"
    if tuple(conv.dilation) != (1, 1):
        return f"dilation {tuple(conv.dilation)}: only 1 is replaced"
    share = density(conv.weight)
    if share == 1.0:
        return "dense: nothing was pruned"
    if share >= _MAX_DENSITY:
        return f"dense: {share:.0%} of the weights are left, replaced are layers below {_MAX_DENSITY:.0%}"
    return ""


def density(weight: torch.Tensor) -> float:
    """Share of weights that are not zero; 1 where they cannot be read or there are none."""
    if isinstance(weight, UninitializedParameter) or weight.device.type == "meta" or not weight.numel():
        return 1.0
    return int(torch.count_nonzero(weight)) / weight.numel()


def dense_row(name: str, conv: _ConvNd, reason: str) -> LayerConversion:
    """The report's row of a convolution that stays as it is."""
    shape = () if isinstance(conv.weight, UninitializedParameter) else tuple(int(n) for n in conv.weight.shape)
    kind = layer_kind(shape, conv.groups) if len(shape) == 4 else type(conv).__name__
    return LayerConversion(name, kind, shape, density(conv.weight), "dense", reason)
