"""Convolutions of all kinds for the tests of the OpenCL backend."""

import torch
from torch import nn

from pconv_ops import PatternSet, prune_

# in, out, kernel, stride, padding, dilation, groups, size, kernels kept (None: all), patterns
CONVS = {
    "pattern": (16, 24, 3, 1, 1, 1, 1, (13, 17), 2.5, None),
    "pattern, stride 2": (16, 24, 3, 2, 1, 1, 1, (13, 18), 2.5, None),
    "pattern, dilation 2": (12, 8, 3, 1, 2, 2, 1, (11, 9), 2, None),
    "12 patterns": (16, 24, 3, 1, 1, 1, 1, (9, 9), 2.5, PatternSet.random(12, seed=1)),
    "no padding": (16, 8, 3, 1, 0, 1, 1, (14, 15), 2.5, None),
    "no padding, whole texels": (16, 8, 3, 1, 0, 1, 1, (14, 16), 2.5, None),
    "1x1, whole texels": (24, 20, 1, 1, 0, 1, 1, (6, 10), None, None),
    "groups": (16, 24, 3, 1, 1, 1, 4, (7, 7), 2, None),
    "small map": (32, 40, 3, 1, 1, 1, 1, (2, 2), 3, None),
    "one pixel": (8, 8, 3, 1, 1, 1, 1, (1, 1), 2, None),
    "dense": (8, 20, 3, 1, 1, 1, 1, (10, 23), None, None),
    "dense, stride 2": (3, 16, 3, 2, 1, 1, 1, (15, 15), None, None),
    "stem": (3, 8, 7, 2, 3, 1, 1, (21, 22), None, None),
    "1x1": (24, 20, 1, 1, 0, 1, 1, (7, 9), None, None),
    "1x1, stride 2": (8, 20, 1, 2, 0, 1, 1, (7, 9), None, None),
    "1x1, padding": (8, 20, 1, 1, 1, 1, 1, (5, 5), None, None),
    "depthwise": (12, 12, 3, 1, 1, 1, 12, (9, 10), None, None),
    "depthwise, stride 2": (12, 24, 5, 2, 2, 1, 12, (9, 10), None, None),
    "asymmetric": (6, 9, (1, 5), (1, 3), (0, 2), (1, 2), 3, (6, 20), None, None),
}


def conv_case(name, whole):
    """(layer, input) with small integers or real numbers."""
    ic, oc, kernel, stride, padding, dilation, groups, size, kept, patterns = CONVS[name]
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(ic, oc, kernel, stride, padding, dilation, groups)
    net = nn.Sequential(conv)
    if kept is not None:
        prune_(net, connectivity=kept, **({} if patterns is None else {"patterns": patterns}))
    x = torch.randn(2, ic, *size, generator=generator)
    if whole:
        x = torch.randint(-4, 5, x.shape, generator=generator).float()
        for tensor in conv.parameters():
            signs = torch.randint(1, 4, tensor.shape, generator=generator).float() * tensor.sign()
            tensor.data = signs
    return net.eval(), x
