"""A convolution with what its packed form computes in the epilogue: folded BatchNorm, residual, clamp.

Shared by the two ways to find such groups, fusion.py in a traced graph and walking.py in a tree of modules. Knows how
to make the packed layer of a group and how the original computes the same; finds, times and replaces nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .folding import norm_scale_shift, scaled
from .modules import PatternConv2d, ResidualConv2d
from .packing import pack

Bounds = tuple[float, float]
Step = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]

UNUSED = "not called on example_inputs"  # why a convolution is in no group


@dataclass(eq=False)
class Group:
    """A convolution at one place of the model and the operations behind it that can move into its epilogue.

    `steps` are the original's own operations, in order: called with (result so far, residual).
    """

    name: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    bounds: Bounds | None
    adds: bool
    fused: tuple[str, ...]
    steps: list[Step]

    def dense(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """What the original computes of these inputs; they stay as they are."""
        for step in self.steps:
            x = step(x, residual)
        return x

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for groups that can share a packed layer."""
        return (id(self.conv), id(self.norm) if self.norm else None, self.bounds, self.adds)


@dataclass(frozen=True)
class Case:
    """One call of a group as the original made it: its inputs and what came out, float32 [N, C, H, W] or [C, H, W]."""

    x: torch.Tensor
    residual: torch.Tensor | None
    y: torch.Tensor


def calling(module: nn.Module) -> Step:
    """The original's own call of a module, as a step of a group."""
    return lambda y, residual: module(y)


def module_bounds(module: nn.Module) -> Bounds | None:
    """(min, max) of a module that clamps and does nothing else; None: another module."""
    if type(module) is nn.ReLU:
        return (0.0, math.inf)
    if type(module) in (nn.ReLU6, nn.Hardtanh):
        return checked_bounds(module.min_val, module.max_val)
    return None


def checked_bounds(low: Any, high: Any) -> Bounds | None:
    """Bounds of a clamp as floats, None standing for no bound; None: not two numbers, or another clamp."""
    low = -math.inf if low is None else low
    high = math.inf if high is None else high
    if not all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in (low, high)):
        return None
    if not low <= high or low == math.inf or high == -math.inf or (low, high) == (-math.inf, math.inf):
        return None
    return (float(low), float(high))


def folded(conv: nn.Conv2d, norm: nn.Module | None) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Weight [O, I/groups, kh, kw] and bias [O] of `conv` followed by BatchNorm `norm` with its running statistics, in
    float32; None where the two do not fold. Zeros stay zeros.

    The scale gamma / sqrt(var + eps) is computed in float64, so that only one rounding is added to each weight.
    """
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if norm is None:
        return weight, bias
    if type(norm) is not nn.BatchNorm2d or norm.training or norm.running_mean is None or norm.running_var is None:
        return None
    if norm.num_features != conv.out_channels:
        return None
    held = [norm.running_mean, norm.running_var, *norm.parameters()]
    if any(tensor.dtype is not torch.float32 or tensor.device.type != "cpu" for tensor in held):
        return None
    statistics = norm.running_mean.numpy(), norm.running_var.numpy()
    scale, shift = norm_scale_shift(*statistics, norm.eps, _numpy(norm.weight), _numpy(norm.bias))
    arrays = scaled(weight.numpy(), _numpy(bias), scale, shift)
    return None if arrays is None else (torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1]))


def _numpy(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().numpy()


def packed_layer(group: Group) -> PatternConv2d:
    """The packed form of a group, in evaluation mode. ValueError: a size that does not pack."""
    conv, parameters = group.conv, folded(group.conv, group.norm)
    assert parameters is not None  # whoever made the group asked before
    packed = pack(*parameters, conv.stride, conv.padding, conv.dilation, conv.groups)
    layer = (ResidualConv2d if group.adds else PatternConv2d)(packed, group.bounds)
    return layer.eval()


def magnitude(group: Group, case: Case) -> float:
    """Largest sum of |terms| behind an output: what rounding errors are measured by where terms cancel."""
    parameters = folded(group.conv, group.norm)
    assert parameters is not None
    weight, bias = parameters
    # _conv_forward pads as the module does, 'same' included.
    total = group.conv._conv_forward(case.x.abs(), weight.abs(), None if bias is None else bias.abs())
    return float((total if case.residual is None else total + case.residual.abs()).max())
