"""State dicts on disk: read without running code from them, pruned by prune_'s rules, written atomically.

Serves the prune and inspect commands. A state dict holds no layer descriptions, so what a weight belongs to is read
from its shape: every 4-D float32 tensor is taken as a convolution, [C, 1, kh, kw] with C > 1 as a depthwise one.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


def load_checkpoint(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """(file content, the state dict in it): the content itself or, in a training checkpoint, its 'state_dict' entry.

    Only tensors and plain containers are read (weights_only). ValueError for anything else, OSError as open() does.
    """
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols; the error below says what matters
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever its unpickler or zip reader raises
            raise ValueError(f"{path}: {_reason(str(error))}") from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected a state dict (names to tensors) or a dict with one under 'state_dict'")
    return content, state


def _reason(text: str) -> str:
    """Why torch.load refused a file, in our words: torch's own are pages of advice about loading it without care."""
    found = re.search(r"Unsupported global: GLOBAL (\S+)", text)
    if found is not None:
        return f"holds a {found[1]}; only tensors and plain containers are read: save model.state_dict()"
    if "TorchScript" in text:
        return "holds a TorchScript program; only tensors and plain containers are read: save model.state_dict()"
    return "not a file that torch.save wrote, or a damaged one"


def conv_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Layer name -> weight for every 4-D float32 tensor of a state dict. The names lose a trailing '.weight'."""
    return {
        "" if key == "weight" else key.removesuffix(".weight"): value
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.ndim == 4 and value.numel()
    }


def conv_groups(weight: torch.Tensor) -> int:
    """Groups as far as an OIHW shape tells: [C, 1, kh, kw] is taken as depthwise."""
    return weight.shape[0] if weight.shape[1] == 1 else 1


def conv_tree(state: Mapping[str, Any]) -> nn.Module:
    """Modules named as in the state dict, an nn.Conv2d (sharing its memory) for each convolution weight and nothing
    else: what prune_ takes."""
    weights = conv_weights(state)
    root: nn.Module = _conv(weights.pop("")) if "" in weights else nn.Module()
    for name, weight in weights.items():
        *path, leaf = name.split(".")
        parent = root
        for part in path:
            parent = parent._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
        conv = _conv(weight)
        if leaf in parent._modules:  # a layer below this name came first
            conv._modules.update(parent._modules[leaf]._modules)  # type: ignore[union-attr]
        parent._modules[leaf] = conv
    return root


def _conv(weight: torch.Tensor) -> nn.Conv2d:
    groups = conv_groups(weight)
    oc, group_ic, *size = weight.shape
    conv = nn.Conv2d(group_ic * groups, oc, tuple(size), groups=groups, bias=False, device="meta")
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return conv


def save_atomically(content: Any, path: str | Path) -> None:
    """torch.save to a temporary file beside `path`, flushed to disk, then renamed: `path` is the old file or the whole
    new one, never a part."""
    target = Path(path).resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "xb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)
