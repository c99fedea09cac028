"""The plan for modules that no graph shows: convolutions are found in the tree of modules and replaced in place.

Called by convert.py for models that cannot be traced and for modules that a trace takes as a whole. Inside an
nn.Sequential a BatchNorm and an activation right behind a convolution are fused too, once a run on the example has
shown that nothing but the nn.Sequential calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from .candidates import has_hooks, is_pool, obstacle
from .checking import snapshot
from .choosing import Judge
from .epilogue import UNUSED, Bounds, Case, Group, calling, folded, module_bounds
from .pooling import NativeMaxPool2d

_MAX_CASES = 4  # different inputs of one module that are kept and timed

Slot = tuple[nn.Module, str]


class WalkedPlan:
    """Convolutions below `roots`, modules of `model`; `names`: of every convolution of the model. Those of `elsewhere`
    are somebody else's. `groups` are known after watch(), `reasons` say why the other convolutions stay; `pools`: max
    poolings that may be replaced, by name."""

    def __init__(
        self, model: nn.Module, roots: Iterable[nn.Module], names: dict[nn.Module, str], elsewhere: set[nn.Module]
    ) -> None:
        self.model = model
        self.scope = list(dict.fromkeys(module for root in roots for module in root.modules()))
        self.slots: dict[nn.Module, list[Slot]] = {}
        for parent in model.modules():
            for key, child in parent._modules.items():
                if child is not None:
                    self.slots.setdefault(child, []).append((parent, key))
        self.names = {module: names[module] for module in self.scope if isinstance(module, _ConvNd)}
        known = {module: name for name, module in model.named_modules()}
        self.pools = {module: known[module] for module in self.scope if is_pool(module) and module in self.slots}
        self.reasons: dict[str, str] = {}
        self.groups: list[Group] = []
        self._fused: dict[Group, list[Slot]] = {}
        self._open: list[nn.Conv2d] = []
        for module, name in self.names.items():
            reason = "also used outside of a module that cannot be traced" if module in elsewhere else obstacle(module)
            if reason:
                self.reasons[name] = reason
            else:
                self._open.append(module)  # type: ignore[arg-type]
        self._unhooked = {module for module in self.scope if not has_hooks(module) and "forward" not in vars(module)}

    def watch(self, run: Callable[[], Any]) -> None:
        """Runs the model to see who calls what, and forms the groups."""
        callers: dict[nn.Module, list[nn.Module | None]] = {}
        stack: list[nn.Module] = []
        read: set[nn.Module] = set()

        def enter(module: nn.Module, args: Any) -> None:
            callers.setdefault(module, []).append(stack[-1] if stack else None)
            stack.append(module)

        def leave(module: nn.Module, args: Any, y: Any) -> None:
            stack.pop()

        with ExitStack() as hooks:
            for module in self.scope:
                if not isinstance(module, torch.jit.ScriptModule):
                    hooks.callback(module.register_forward_pre_hook(enter).remove)
                    hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
            for conv in self._open:
                hooks.enter_context(_telling_reads(conv, stack, read))
            run()
        for conv in self._open:
            if conv in read:
                self.reasons[self.names[conv]] = "the model reads its weight or bias itself"
            elif conv in callers:
                self.groups.append(self._group(conv, callers))
            else:
                self.reasons[self.names[conv]] = UNUSED

    def _group(self, conv: nn.Conv2d, callers: dict[nn.Module, list[nn.Module | None]]) -> Group:
        parent = self._caller(conv, callers)
        members: list[tuple[str, nn.Module]] = []
        if parent is not None:
            children = list(parent._modules.items())
            start = next(i for i, (_, child) in enumerate(children) if child is conv)
            members = [(key, child) for key, child in children[start + 1 : start + 3] if child is not None]
        norm: nn.Module | None = None
        bounds: Bounds | None = None
        slots: list[Slot] = []
        if members and self._caller(members[0][1], callers) is parent and isinstance(members[0][1], nn.BatchNorm2d):
            if members[0][1] in self._unhooked and folded(conv, members[0][1]) is not None:
                key, norm = members.pop(0)
                slots.append((parent, key))  # type: ignore[arg-type]
        if members and members[0][1] in self._unhooked and (bounds := module_bounds(members[0][1])) is not None:
            slots.append((parent, members[0][0]))  # type: ignore[arg-type]
        modules = [owner._modules[key] for owner, key in slots]
        steps = [calling(module) for module in (conv, *modules)]  # type: ignore[arg-type]
        prefix = self.names[conv].rpartition(".")[0]
        labels = tuple(f"{prefix}.{key}".lstrip(".") for _, key in slots)
        group = Group(self.names[conv], conv, norm, bounds, False, labels, steps)  # type: ignore[arg-type]
        self._fused[group] = slots
        return group

    def _caller(self, module: nn.Module, callers: dict[nn.Module, list[nn.Module | None]]) -> nn.Sequential | None:
        """The nn.Sequential that holds the module, when it stands nowhere else and only that called it."""
        slots = self.slots.get(module, [])
        if len(slots) != 1 or type(slots[0][0]) is not nn.Sequential or "forward" in vars(slots[0][0]):
            return None
        return slots[0][0] if set(callers.get(module, [])) == {slots[0][0]} else None

    def survey(self, run: Callable[[], Any], judge: Judge) -> None:
        """Runs the model once more, keeps what the groups get and give, and shows it to the judge."""
        cases: dict[Group, list[Case]] = {group: [] for group in self.groups}
        inputs: dict[Group, torch.Tensor] = {}
        with ExitStack() as hooks:
            for group in self.groups:
                slots = self._fused[group]
                last = slots[-1][0]._modules[slots[-1][1]] if slots else group.conv
                assert last is not None
                hooks.callback(
                    group.conv.register_forward_pre_hook(_keeping_input(group, inputs), with_kwargs=True).remove
                )
                hooks.callback(last.register_forward_hook(_keeping_case(group, inputs, cases[group])).remove)
            for pool, name in self.pools.items():
                if judge.wants_pool(name):
                    hooks.callback(pool.register_forward_hook(_showing_pool(name, judge), with_kwargs=True).remove)
            run()
        for group in self.groups:
            judge.look(group, cases.pop(group))

    def apply(self, judge: Judge) -> nn.Module:
        """Replaces in place what the judge decided, wherever it stands; returns the model, or what replaces it."""
        for group in self.groups:
            layer = judge.layers.get(group)
            if layer is None:
                continue
            for parent, key in self._fused[group]:
                parent._modules[key] = nn.Identity().eval()
            self.replace(group.conv, layer)
        for pool, name in self.pools.items():
            if name in judge.pools:
                self.replace(pool, NativeMaxPool2d.of(pool))
        root = next((group for group in self.groups if group.conv is self.model and group in judge.layers), None)
        return self.model if root is None else judge.layers[root]

    def replace(self, old: nn.Module, new: nn.Module) -> None:
        """Puts a module wherever another stands as a child."""
        for parent, key in self.slots.get(old, []):
            parent._modules[key] = new


@contextmanager
def _telling_reads(conv: nn.Conv2d, stack: list[nn.Module], read: set[nn.Module]) -> Iterator[None]:
    """Adds the convolution to `read` when its weight or bias is read while it is not the running module, the last of
    `stack`."""

    class Conv2d(nn.Conv2d):
        def __getattr__(self, name: str) -> Any:
            if name in ("weight", "bias") and not (stack and stack[-1] is self):
                read.add(self)
            return super().__getattr__(name)

    conv.__class__ = Conv2d
    try:
        yield
    finally:
        conv.__class__ = nn.Conv2d


def _showing_pool(name: str, judge: Judge) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: torch.Tensor) -> None:
        judge.look_at_pool(name, NativeMaxPool2d.of(module)(*args, **kwargs), y)

    return hook


def _keeping_input(group: Group, inputs: dict[Group, torch.Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs[group] = snapshot(args[0] if args else kwargs["input"])

    return hook


def _keeping_case(group: Group, inputs: dict[Group, torch.Tensor], cases: list[Case]) -> Callable[..., None]:
    """Hook of the group's last module, which may be others' last module too: the input says whose turn it is."""

    def hook(module: nn.Module, args: Any, y: torch.Tensor) -> None:
        x = inputs.pop(group, None)
        known = [(case.x.shape, case.x.stride()) for case in cases]
        if x is not None and (x.shape, x.stride()) not in known and len(cases) < _MAX_CASES:
            cases.append(Case(x, None, snapshot(y)))

    return hook
