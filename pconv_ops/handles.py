"""Native handles of packed bytes that live in torch tensors.

A call must not validate the bytes again, and must not use a handle of bytes that have changed. So a handle is kept by
a weak reference to the tensor's storage (an address alone could be another tensor's by now) together with the
tensor's version counter, and dropped when either changes or the storage dies. Writes that torch does not count
(through .data or .numpy()) are not seen.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from ._eager import Handle, known, mark_of
from ._native import PackedConv

HANDLES: dict[int, Handle] = {}  # by the id of the storage; a handle goes before its id can be used again


def read_packed(tensor: torch.Tensor) -> PackedConv:
    """The handle of the packed bytes in a contiguous uint8 [n_bytes] CPU tensor, validated when they are new.

    TypeError: not uint8 or not on the CPU. ValueError: not contiguous. PConvFormatError: bad bytes.
    """
    packed = known(HANDLES, tensor)
    if packed is not None:
        return packed
    _check(tensor)
    mark = mark_of(tensor)  # before the bytes are read: a write in between makes the entry stale, not wrong
    packed = PackedConv.from_bytes(tensor.detach().numpy())
    _keep(tensor, mark, packed)
    return packed


def tensor_from(packed: PackedConv) -> torch.Tensor:
    """The packed bytes as a fresh uint8 [n_bytes] tensor whose handle is known already."""
    # A tensor made in inference mode has no version counter and refuses in-place changes later.
    with torch.inference_mode(False):
        tensor = torch.frombuffer(bytearray(packed.to_bytes()), dtype=torch.uint8)
        _keep(tensor, mark_of(tensor), packed)
    return tensor


def _check(tensor: torch.Tensor) -> None:
    if tensor.device.type != "cpu":
        raise TypeError(f"packed: expected a CPU tensor, got one on {tensor.device}")
    if tensor.dtype is not torch.uint8:
        raise TypeError(f"packed: expected uint8, got {tensor.dtype}")
    if tensor.dim() != 1 or not tensor.is_contiguous():
        raise ValueError(f"packed: expected contiguous bytes, got shape {list(tensor.shape)}, {tensor.stride()}")


def _keep(tensor: torch.Tensor, mark: Any, packed: PackedConv) -> None:
    storage = tensor.untyped_storage()
    key = id(storage)

    def forget(ref: weakref.ref[Any]) -> None:
        handle = HANDLES.get(key)
        if handle is not None and handle.storage is ref:
            del HANDLES[key]

    HANDLES[key] = Handle(weakref.ref(storage, forget), mark, tensor.data_ptr(), tensor.numel(), packed)
