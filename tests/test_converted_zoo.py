"""Every network of the zoo, pruned and rescaled: converted whole, layers and outputs as in the original.

That these networks tell inputs and small faults of any layer apart is tested in test_zoo.py.
"""

import pytest
import torch
from networks import BOTH_LAYOUTS, deviation, random
from torch import nn

from pconv_ops import convert, prune_
from pconv_ops.zoo import NETS, rescale_

SMALL = [name for name in NETS if name.endswith("_cifar")]
LARGE = [name for name in NETS if name not in SMALL]
pytestmark = pytest.mark.usefixtures("one_thread")


def check(name, layout):
    torch.manual_seed(0)
    net, size = NETS[name].factory().eval(), NETS[name].size
    prune_(net, connectivity=8.8 if name.startswith("vgg") else 3.1, connectivity_1x1=3.1)
    rescale_(net, random(4, 3, size, size, seed=0))
    x = random(1, 3, size, size)
    fast = convert(net, x.contiguous(memory_format=layout), fallback="never")
    n_convs = sum(isinstance(module, nn.Conv2d) for module in net.modules())
    assert fast.report.n_accelerated == len(fast.report.layers) == n_convs and not fast.report.notes
    assert max(row.deviation for row in fast.report.layers) < 1e-4
    # All of it is fused: nothing is left but layers, pooling and the head.
    left = {type(module) for module in fast.modules()}
    assert not left & {nn.Conv2d, nn.BatchNorm2d, nn.ReLU6}
    # Coarse instead of fine noise: large networks average the latter away.
    other = nn.functional.interpolate(random(2, 3, 5, 5, seed=3), (size, size)).contiguous(memory_format=layout)
    with torch.no_grad():
        expected, before = net(other), net(x)
        assert (expected[:1] - before).norm() > 0.1 * before.norm()  # or equal outputs would prove nothing
        assert deviation(fast(other), expected) < 1e-4
        assert deviation(fast(x), before) < 1e-4


@BOTH_LAYOUTS
@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name, layout):
    check(name, layout)


@pytest.mark.soak
@BOTH_LAYOUTS
@pytest.mark.parametrize("name", LARGE)
def test_large_networks(name, layout):
    check(name, layout)
