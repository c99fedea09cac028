"""Who reads the channels that a convolution writes: what must go with a filter that is pruned as a whole.

For baselines.py. A torch.fx trace is followed from each convolution through what keeps channels apart to the
convolutions and linear layers that read them; where anything else reads them, filters cannot go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_APART_MODULES = (
    nn.ReLU, nn.ReLU6, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.Flatten,
)  # fmt: skip
_APART_CALLS = (
    F.relu, torch.relu, F.relu6, F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, torch.flatten,
    torch.mean, "relu", "relu_", "flatten", "mean",
)  # fmt: skip


@dataclass
class Readers:
    """Names of what stands behind a convolution: batch normalisations of its channels, convolutions that read them."""

    norms: list[str]
    convs: list[str]


def channel_readers(model: nn.Module) -> dict[str, Readers]:
    """The convolutions (groups 1) whose filters may go, with their readers. ValueError: the model cannot be traced."""
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:  # whatever the model's code does with a proxy
        raise ValueError(f"model: filters are pruned along a torch.fx trace, which failed: {error}") from error
    modules = dict(model.named_modules())
    calls: dict[Any, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    found = {}
    for node in graph.nodes:
        if node.op == "call_module" and _plain_conv(modules[node.target]) and calls[node.target] == 1:
            readers = Readers([], [])
            if _follow(node.users, modules, calls, readers):
                found[str(node.target)] = readers
    return found


def _follow(users: Iterable[fx.Node], modules: dict[str, nn.Module], calls: dict[Any, int], readers: Readers) -> bool:
    """Adds all that reads the channels; False: something mixes them with others, or shows them to the user."""
    for node in users:
        if node.op == "call_module":
            module, name = modules[str(node.target)], str(node.target)
            if isinstance(module, nn.BatchNorm2d) and module.affine and calls[name] == 1:
                readers.norms.append(name)
            elif _plain_conv(module) and calls[name] == 1:
                readers.convs.append(name)
                continue
            elif isinstance(module, nn.Linear):
                continue
            elif not isinstance(module, _APART_MODULES):
                return False
        elif node.op not in ("call_function", "call_method") or node.target not in _APART_CALLS:
            return False
        if not _follow(node.users, modules, calls, readers):
            return False
    return True


def _plain_conv(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == 1
