"""Who reads the channels that a convolution writes: what must go with a filter that is pruned as a whole.

For baselines.py. A torch.fx trace is followed from each convolution through what keeps channels apart to the
convolutions and linear layers that read them; where anything else reads them, filters cannot go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from .layers import identity

_APART_MODULES = (
    nn.ReLU, nn.ReLU6, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
_APART_CALLS = (
    F.relu, torch.relu, F.relu6, F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, "relu", "relu_",
)  # fmt: skip


@dataclass
class Readers:
    """Names of what stands behind a convolution: batch normalisations of its channels, convolutions that read them."""

    norms: list[str]
    convs: list[str]


def channel_readers(model: nn.Module, kept: Collection[str] = ()) -> dict[str, Readers]:
    """The convolutions (groups 1) whose filters may go, with their readers; not those that one of `kept` reads.
    ValueError: the model cannot be traced."""
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:  # whatever the model's code does with a proxy
        raise ValueError(f"model: filters are pruned along a torch.fx trace, which failed: {error}") from error
    walk = _Walk(model, graph, kept)
    found = {}
    for node in graph.nodes:
        if node.op == "call_module" and walk.plain_conv(str(node.target)):
            readers = Readers([], [])
            if walk.follow(node.users, readers):
                found[str(node.target)] = readers
    return found


class _Walk:
    """From a convolution to all that reads its channels."""

    def __init__(self, model: nn.Module, graph: fx.Graph, kept: Collection[str]) -> None:
        self._modules = dict(model.named_modules())
        self._kept = kept
        self._calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        owners = [p for module in self._modules.values() for p in module._parameters.values() if p is not None]
        self._owners = Counter(identity(parameter) for parameter in owners)

    def follow(self, users: Iterable[fx.Node], readers: Readers, flat: bool = False) -> bool:
        """Adds all that reads the channels; False: something mixes them with others, or shows them to the user.
        `flat`: behind flatten or a mean over pixels, where linear layers may read."""
        for node in users:
            step = self._step(node, readers, flat)
            if step is None:
                return False
            if step != "end" and not self.follow(node.users, readers, flat or step == "flat"):
                return False
        return True

    def _step(self, node: fx.Node, readers: Readers, flat: bool) -> str | None:
        """ "on", "flat" (channels lie in a row from here on) or "end"; None: the filters must stay."""
        if node.op == "call_module":
            name = str(node.target)
            module = self._modules[name]
            if isinstance(module, nn.BatchNorm2d) and module.affine and self._own(name):
                readers.norms.append(name)
                return "on"
            if self.plain_conv(name) and name not in self._kept and not flat:
                readers.convs.append(name)
                return "end"
            if isinstance(module, nn.Linear):
                return "end" if flat else None
            if isinstance(module, nn.Flatten):
                return "flat" if (module.start_dim, module.end_dim) == (1, -1) else None
            return "on" if isinstance(module, _APART_MODULES) else None
        if node.op not in ("call_function", "call_method"):
            return None
        if node.target in (torch.flatten, "flatten"):
            return "flat" if _arguments(node, "start_dim", "end_dim") in ([1], [1, -1], [1, 3]) else None
        if node.target in (torch.mean, "mean"):
            dims = (_arguments(node, "dim") or [None])[0]
            over_pixels = isinstance(dims, (list, tuple)) and set(dims) in ({2, 3}, {-2, -1}, {2, -1}, {-2, 3})
            return "flat" if over_pixels else None
        return "on" if node.target in _APART_CALLS else None

    def plain_conv(self, name: str) -> bool:
        """An nn.Conv2d of one group that is called once and whose weights nobody else has or computes."""
        module = self._modules[name]
        return isinstance(module, nn.Conv2d) and module.groups == 1 and self._own(name)

    def _own(self, name: str) -> bool:
        parameters = self._modules[name]._parameters
        if self._calls[name] != 1 or parameters.get("weight") is None:
            return False
        return all(self._owners[identity(parameter)] == 1 for parameter in parameters.values() if parameter is not None)


def _arguments(node: fx.Node, *names: str) -> list[Any]:
    """What a call is given besides its tensor, in the order of the names."""
    return [*node.args[1:], *(node.kwargs[name] for name in names if name in node.kwargs)]
