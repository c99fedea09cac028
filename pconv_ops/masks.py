"""Masks that hold: weights that stay zero whatever trains the model.

Used by the pruners when they are done. A mask belongs to a parameter of a module, by name, and lives as long as the
module does; the model's own state dict does not change. Gradients are zero under a mask after each backward, and
weights after each step of any torch optimizer, whatever its momentum, weight decay or state.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .layers import check_model


class Mask:
    """The entries of a parameter that are zero; follows the parameter to other devices, and to a parameter that has
    taken its place (load_state_dict(assign=True)): then from its first step on."""

    def __init__(self, keep: torch.Tensor) -> None:
        self._zero = ~keep
        self._hooked: nn.Parameter | None = None
        self._handle: Any = None

    @property
    def keep(self) -> torch.Tensor:
        """What stays; bool, a copy."""
        return ~self._zero

    def on(self, parameter: nn.Parameter) -> torch.Tensor:
        if self._zero.device != parameter.device:
            self._zero = self._zero.to(parameter.device)
        return self._zero

    def hook(self, parameter: nn.Parameter) -> None:
        """Masks the parameter's gradient after each backward: before anybody clips or adds up gradients."""
        if self._hooked is not parameter:
            self.unhook()
            self._hooked = parameter
        if self._handle is None and parameter.requires_grad:
            self._handle = parameter.register_post_accumulate_grad_hook(self.clear_gradient)

    def unhook(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._hooked = self._handle = None

    def clear_gradient(self, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(self.on(parameter), 0)  # type: ignore[arg-type]

    @torch.no_grad()
    def clear(self, parameter: nn.Parameter) -> None:
        parameter.masked_fill_(self.on(parameter), 0)


_frozen: WeakKeyDictionary[nn.Module, dict[str, Mask]] = WeakKeyDictionary()


def freeze(module: nn.Module, name: str, keep: torch.Tensor) -> Mask:
    """From now on the module's parameter is zero wherever `keep` (bool, its shape) is False, and where a former mask
    says so. Returns what thaw() lifts. ValueError: no such parameter, another shape or dtype."""
    parameter = module._parameters.get(name)
    if parameter is None:
        raise ValueError(f"name: the module has no parameter '{name}'")
    if keep.dtype != torch.bool or keep.shape != parameter.shape:
        raise ValueError(f"keep: expected bool {list(parameter.shape)}, got {keep.dtype} {list(keep.shape)}")
    former = kept(module, name)
    thaw(module, name)
    mask = Mask(keep.detach().clone() if former is None else keep & former.to(keep.device))
    _frozen.setdefault(module, {})[name] = mask
    mask.hook(parameter)
    mask.clear(parameter)
    return mask


def hold_zeros(model: nn.Module) -> None:
    """Keeps every weight of the model's nn.Conv2d layers that is zero now at zero, while the model trains on: after
    `prune_`, or any pruning that left zeros. Layers without zeros are left alone. `thaw(layer, "weight")` lifts it."""
    check_model(model)
    for module in model.modules():
        weight = module._parameters.get("weight")
        if isinstance(module, nn.Conv2d) and weight is not None and not bool(weight.all()):
            freeze(module, "weight", weight != 0)


def thaw(module: nn.Module, name: str, mask: Mask | None = None) -> None:
    """Lifts the mask of a parameter, if it has one (and it is this one); its weights are what they are."""
    found = _frozen.get(module, {}).get(name)
    if found is None or mask not in (None, found):
        return
    found.unhook()
    del _frozen[module][name]
    if not _frozen[module]:
        del _frozen[module]


def kept(module: nn.Module, name: str) -> torch.Tensor | None:
    """What the mask of a parameter keeps (bool, a copy), None: it has no mask."""
    mask = _frozen.get(module, {}).get(name)
    return None if mask is None else mask.keep


def clear_masked(modules: Container[nn.Module]) -> None:
    """Sets what is masked in these modules to zero."""
    for module, parameter, mask in _entries():
        if module in modules:
            mask.clear(parameter)


def _entries() -> Iterator[tuple[nn.Module, nn.Parameter, Mask]]:
    for module, masks in list(_frozen.items()):
        for name, mask in masks.items():
            parameter = module._parameters.get(name)
            if parameter is not None:
                mask.hook(parameter)
                yield module, parameter, mask


def _masked_by(optimizer: torch.optim.Optimizer) -> Iterator[tuple[nn.Parameter, Mask]]:
    if len(_frozen):
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for _, parameter, mask in _entries():
            if id(parameter) in owned:
                yield parameter, mask


def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    # Again: DistributedDataParallel writes gradients after the hooks of backward have run.
    for parameter, mask in _masked_by(optimizer):
        mask.clear_gradient(parameter)


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for parameter, mask in _masked_by(optimizer):
        mask.clear(parameter)


register_optimizer_step_pre_hook(_before_step)
register_optimizer_step_post_hook(_after_step)
