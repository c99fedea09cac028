"""The very same weights after `convert`: do predictions stay, and how long does an image take?"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import pconv_ops
from pconv_ops.timing import interleave

from .data import Dataset, normalise

# Two largest logits this close, relative to the larger magnitude, may change places when sums are added in another
# order.
NEAR_TIE = 1e-4
BATCH = 500
ROUNDS = 15


@dataclass(frozen=True)
class Agreement:
    """Predictions of the test split before and after `convert` with every convolution packed."""

    images: int
    different: int  # predictions that changed though their logits are no near tie: must be 0
    near_ties: int
    near_ties_changed: int


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one image on one thread, medians of interleaved rounds: torch's faster memory format, and the
    network as `convert` chose it, in which `packed` of `convolutions` run packed."""

    torch_ms: float
    ours_ms: float
    packed: int
    convolutions: int


@torch.no_grad()
def agreement(model: nn.Module, dataset: Dataset) -> Agreement:
    batches = normalise(dataset.test.images, dataset.train).split(BATCH)
    fast = pconv_ops.convert(model, batches[0], fallback="never")
    before, after = (torch.cat([net(batch) for batch in batches]) for net in (model, fast))
    changed = before.argmax(1) != after.argmax(1)
    ties = near_ties(before)
    return Agreement(len(before), int((changed & ~ties).sum()), int(ties.sum()), int((changed & ties).sum()))


def near_ties(logits: torch.Tensor) -> torch.Tensor:
    """Which rows of logits [N, classes] have two largest values that differ by less than NEAR_TIE of their size."""
    largest = logits.topk(2, dim=1).values
    return largest[:, 0] - largest[:, 1] < NEAR_TIE * largest.abs().amax(1)


@torch.inference_mode()
def latency(model: nn.Module, dataset: Dataset) -> Latency:
    """Sets the process to one thread."""
    torch.set_num_threads(1)
    pconv_ops.set_num_threads(1)
    rows = normalise(dataset.test.images[:1], dataset.train)
    image = rows.contiguous()
    nhwc = copy.deepcopy(model).to(memory_format=torch.channels_last)
    nchw = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    fast = pconv_ops.convert(nchw, image)
    times = interleave({"ours": lambda: fast(image), "nchw": lambda: nchw(image), "nhwc": lambda: nhwc(rows)}, ROUNDS)
    report: Any = fast.report
    return Latency(min(times["nchw"], times["nhwc"]), times["ours"], report.n_accelerated, len(report.layers))
