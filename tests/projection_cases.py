"""Weights, networks and pattern sets for the tests of the projections and of what uses them."""

from collections import OrderedDict

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from pconv_ops.patterns import SCP4, PatternSet

FIXED = settings(derandomize=True, deadline=None)  # a shared machine may stall
SETS = [SCP4, PatternSet.random(12), PatternSet([0x1FF, 0x0BA, 0x001])]


def random_weight(seed, *shape, values="normal"):
    rng = np.random.default_rng(seed)
    if values == "few":  # few distinct values and many zeros: ties everywhere
        return rng.integers(-2, 3, shape).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


weights_3x3 = st.builds(
    random_weight,
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(1, 6),
    st.just(3),
    st.just(3),
    values=st.sampled_from(["normal", "few"]),
)


def kernels_kept(weight):
    return int(torch.count_nonzero(weight.detach().flatten(2).abs().sum(2)))


def mixed_net():
    torch.manual_seed(0)
    layers = OrderedDict(
        stem=nn.Conv2d(3, 16, 3),
        body=nn.Conv2d(16, 24, 3),
        grouped=nn.Conv2d(24, 24, 3, groups=2),
        depthwise=nn.Conv2d(24, 24, 3, groups=24),
        pointwise=nn.Conv2d(24, 32, 1),
        wide=nn.Conv2d(32, 16, 5),
        up=nn.ConvTranspose2d(16, 16, 3),
        norm=nn.BatchNorm2d(16),
        linear=nn.Linear(16, 10),
    )
    return nn.Sequential(layers)
