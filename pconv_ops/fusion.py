"""Finds groups in a traced graph, convolution - BatchNorm - addition - activation, and writes the graph that runs them.

Called by tracing.py. A group is only taken where moving its operations into the convolution's call changes nothing that
anyone can see: what lies between them has no other reader, and nothing is overwritten in between (torch.fx keeps the
order of in-place operations; moving a convolution across one could change what it reads).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from .candidates import has_hooks
from .epilogue import Bounds, Group, Step, calling, checked_bounds, folded, module_bounds
from .modules import PatternConv2d
from .pooling import NativeMaxPool2d

INPLACE_OPERATORS: dict[Any, Callable[..., Any]] = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift")
} | {operator.iand: operator.and_, operator.ior: operator.or_, operator.ixor: operator.xor}
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_RELU = (torch.relu, torch.relu_, F.relu, F.relu_)
_HARDTANH = (F.hardtanh, F.hardtanh_)
_CLAMP = (torch.clamp, torch.clamp_, torch.clip, torch.clip_)
_CLAMP_MIN = (torch.clamp_min, torch.clamp_min_)
_CLAMP_MAX = (torch.clamp_max, torch.clamp_max_)
# Their results are new memory, whatever the input.
_FRESH_MODULES = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, NativeMaxPool2d)
_FRESH_FUNCTIONS = (operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul, torch.cat)
_PURE_SOURCES = ("torch", "torch.nn.functional", "torch._C._nn", "_operator", "operator", "builtins", "math")


@dataclass(frozen=True)
class Seen:
    """What a tensor of the graph looked like on the example."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str


@dataclass(eq=False)
class GraphGroup(Group):
    """A group and its nodes: convolution, addition or None, last; `source` is the convolution's input."""

    node: fx.Node
    addition: fx.Node | None
    last: fx.Node
    chain: list[fx.Node]
    source: fx.Node
    residual: fx.Node | None

    @property
    def place(self) -> fx.Node:
        """Where the packed layer runs: at the convolution, or where the residual is known."""
        return self.addition or self.node


class Finder:
    """Groups of one graph. `modules` by target; `seen`: the tensors of an example run, by node."""

    def __init__(self, graph: fx.Graph, modules: Mapping[str, nn.Module], seen: Mapping[fx.Node, Seen]) -> None:
        self.modules, self.seen = modules, seen
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.nodes = list(graph.nodes)
        self.claimed: set[fx.Node] = set()

    def find(self, calls: Mapping[fx.Node, str]) -> list[GraphGroup]:
        """One group for each of the `calls` of replaceable convolutions (node -> name of its layer), in their order.

        The later of two convolutions that meet in an addition takes it: the other one's result is known by then.
        """
        groups = [self._group(node, calls[node]) for node in sorted(calls, key=self.order.__getitem__, reverse=True)]
        return groups[::-1]

    def _group(self, node: fx.Node, name: str) -> GraphGroup:
        conv = self.modules[str(node.target)]
        assert type(conv) is nn.Conv2d
        chain, labels, steps = [node], [], [calling(conv)]
        norm, addition, residual, bounds = None, None, None, None
        after = _only_reader(chain[-1])
        if after is not None and self._is_norm(after, conv):
            norm = self.modules[str(after.target)]
            chain, labels, steps = [*chain, after], [str(after.target)], [*steps, calling(norm)]
            after = _only_reader(after)
        if after is not None and (residual := self._residual(after, chain[-1], node)) is not None:
            addition = after
            self.claimed.add(after)
            chain, labels, steps = [*chain, after], [*labels, "add"], [*steps, _adding(after)]
            after = _only_reader(after)
        if after is not None and (bounds := self._bounds(after, chain[-1])) is not None:
            module = self.modules.get(str(after.target)) if after.op == "call_module" else None
            chain, steps = [*chain, after], [*steps, _clamping(after, module)]
            labels = [*labels, str(after.target) if module is not None else _label(after)]
        return GraphGroup(
            name, conv, norm, bounds, residual is not None, tuple(labels), steps,  # type: ignore[arg-type]
            node, addition, chain[-1], chain, input_of(node), residual,
        )  # fmt: skip

    def _is_norm(self, node: fx.Node, conv: nn.Conv2d) -> bool:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if module is None or len(node.args) != 1 or node.kwargs or has_hooks(module) or "forward" in vars(module):
            return False
        return isinstance(module, nn.BatchNorm2d) and folded(conv, module) is not None

    def _bounds(self, node: fx.Node, value: fx.Node) -> Bounds | None:
        """Bounds when `node` clamps `value`."""
        if not node.args or node.args[0] is not value:
            return None
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            clean = len(node.args) == 1 and not node.kwargs and not has_hooks(module) and "forward" not in vars(module)
            return module_bounds(module) if clean else None
        return call_bounds(node)

    def _residual(self, node: fx.Node, value: fx.Node, conv: fx.Node) -> fx.Node | None:
        """The other operand when `node` adds to `value` and may move into the convolution."""
        if node in self.claimed or not _is_addition(node):
            return None
        left, right = node.args
        other = right if left is value else left
        if not isinstance(other, fx.Node) or other is value:
            return None
        mine, theirs = self.seen.get(value), self.seen.get(other)
        if mine is None or mine != theirs or len(mine.shape) not in (3, 4):
            return None
        if _overwrites(node) and left is not value and not self._is_fresh(left):
            return None  # a tensor is changed that others may look at
        between = self.nodes[self.order[conv] + 1 : self.order[node]]
        return None if any(self._may_overwrite(step) for step in between) else other

    def _is_fresh(self, node: Any) -> bool:
        """Whether a result is memory of its own that nobody but one reader can see."""
        if not isinstance(node, fx.Node) or len(node.users) != 1:
            return False
        if node.op == "call_function":
            if node.target is operator.iadd or call_bounds(node) is not None:
                return self._is_fresh(node.args[0])
            return node.target in _FRESH_FUNCTIONS and "out" not in node.kwargs
        if node.op == "call_method":
            return call_bounds(node) is not None and self._is_fresh(node.args[0])
        if node.op != "call_module":
            return False
        module = self.modules[str(node.target)]
        if has_hooks(module) or "forward" in vars(module):
            return False
        if module_bounds(module) is not None:
            return bool(node.args) and self._is_fresh(node.args[0])
        return type(module) in _FRESH_MODULES or isinstance(module, PatternConv2d)

    def _may_overwrite(self, node: fx.Node) -> bool:
        """Whether running the node may change a tensor that something else reads. Unknown code may."""
        if node.op in ("placeholder", "get_attr", "output"):
            return False
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            if isinstance(module, (PatternConv2d, NativeMaxPool2d)):
                return False
            if has_hooks(module) or "forward" in vars(module) or not type(module).__module__.startswith("torch.nn."):
                return True
            writes = bool(getattr(module, "inplace", False)) or any(True for _ in module.children())
        else:
            writes = _overwrites(node)
        return writes and not (bool(node.args) and self._is_fresh(node.args[0]))


def input_of(node: fx.Node) -> Any:
    """The input of a call of an nn.Conv2d."""
    return node.args[0] if node.args else node.kwargs.get("input")


def call_bounds(node: fx.Node) -> Bounds | None:
    """Bounds of a function or method that clamps its first argument; None: it does something else, or `node` is another
    kind of call."""
    if node.op not in ("call_function", "call_method") or not node.args or "out" in node.kwargs:
        return None
    rest, named = node.args[1:], {key: value for key, value in node.kwargs.items() if key != "inplace"}
    name = node.target if node.op == "call_method" else None

    def among(functions: tuple[Any, ...]) -> bool:
        return name in {f.__name__ for f in functions} if name is not None else node.target in functions

    if among(_RELU):
        return checked_bounds(0, None)
    if node.target is F.relu6:
        return checked_bounds(0, 6)
    if name is None and node.target in _HARDTANH:
        given = dict(zip(("min_val", "max_val"), rest, strict=False)) | named
        return checked_bounds(given.get("min_val", -1.0), given.get("max_val", 1.0))
    for functions, keys in ((_CLAMP, ("min", "max")), (_CLAMP_MIN, ("min",)), (_CLAMP_MAX, ("max",))):
        if among(functions):
            given = dict(zip(keys, rest, strict=False)) | named
            return checked_bounds(given.get("min"), given.get("max"))
    return None


def _label(node: fx.Node) -> str:
    """What a call is named in the report."""
    name = node.target if isinstance(node.target, str) else node.target.__name__  # type: ignore[union-attr]
    return name.rstrip("_")


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_addition(node: fx.Node) -> bool:
    """Whether it is a plain a + b of two values."""
    if node.op == "call_method":
        known = node.target in ("add", "add_")
    else:
        known = node.op == "call_function" and node.target in _ADDITIONS
    return known and len(node.args) == 2 and all(key == "alpha" and n == 1 for key, n in node.kwargs.items())


def _overwrites(node: fx.Node) -> bool:
    """Whether a function or method may write to its arguments, by its name and flags."""
    if "out" in node.kwargs or node.kwargs.get("inplace") or any(arg is True for arg in node.args):
        return True
    if node.op == "call_method":
        name = str(node.target)
        return name.endswith("_") and not name.endswith("__") or name in ("__setitem__", "copy_")
    if node.target in INPLACE_OPERATORS or node.target is operator.setitem or node.target is operator.delitem:
        return True
    if getattr(node.target, "__module__", None) is None:  # functions of torch's C part
        source = "torch" if getattr(torch, _name(node.target), None) is node.target else ""
    else:
        source = node.target.__module__  # type: ignore[union-attr]
    return _name(node.target).endswith("_") or source not in _PURE_SOURCES


def _name(function: Any) -> str:
    return getattr(function, "__name__", "_")


# ---- the original's own operations, for comparing and timing


def _adding(node: fx.Node) -> Step:
    """The addition, in place where the model's is, but never into the residual: it is used again."""
    if _overwrites(node):
        return lambda y, residual: y.add_(residual)
    return lambda y, residual: torch.add(y, residual)


def _clamping(node: fx.Node, module: nn.Module | None) -> Step:
    rest, named, target = node.args[1:], node.kwargs, node.target
    if module is not None:
        return calling(module)
    if isinstance(target, str):
        return lambda y, residual: getattr(y, target)(*rest, **named)
    return lambda y, residual: target(y, *rest, **named)


# ---- the new graph


def rewritten(graph: fx.Graph, groups: Mapping[GraphGroup, str], renamed: Mapping[fx.Node, Any]) -> fx.Graph:
    """A copy of `graph` in which each of `groups` is one call of the module of that name, and the calls of `renamed` go
    to other names or functions."""
    new = fx.Graph(tracer_cls=graph._tracer_cls)
    new._codegen = graph._codegen
    places = {group.place: group for group in groups}
    gone = {node for group in groups for node in group.chain}
    values: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in places:
            group = places[node]
            inputs = [group.source] if group.residual is None else [group.source, group.residual]
            values[group.last] = new.call_module(groups[group], tuple(values[value] for value in inputs))
        elif node not in gone:
            values[node] = new.node_copy(node, values.__getitem__)
            if node in renamed:
                values[node].target = renamed[node]
    return new
