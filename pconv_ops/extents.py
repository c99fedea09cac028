"""Where tensors lie in memory, real ones and fake ones; torch_op.py checks `out` with it."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor


def overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the memory between first and last element of a meets that of b."""
    if not a.numel() or not b.numel():
        return False
    if isinstance(a, FakeTensor) and a.untyped_storage()._cdata != b.untyped_storage()._cdata:
        return False
    (a_start, a_end), (b_start, b_end) = (_extent(a), _extent(b))
    return a_start < b_end and b_start < a_end


def _extent(x: torch.Tensor) -> tuple[int, int]:
    """First address and the one after the last of a tensor that is not empty."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return start(x), start(x) + (last + 1) * x.element_size()


def start(x: torch.Tensor) -> int:
    """Address of the first element; of a fake tensor, which has none, its offset in its storage."""
    return x.storage_offset() * x.element_size() if isinstance(x, FakeTensor) else x.data_ptr()
