"""Networks that are compiled in several tests, pruned, and how far outputs are apart."""

import torch
from graph_networks import NETWORKS
from networks import random

from pconv_ops import prune_
from pconv_ops.checking import output_deviation
from pconv_ops.zoo import NETS, rescale_

SMALL = [name for name in NETS if name.endswith("_cifar")]
LARGE = [name for name in NETS if name not in SMALL]


def zoo_net(name):
    torch.manual_seed(0)
    net, size = NETS[name].factory().eval(), NETS[name].size
    prune_(net, connectivity=8.8 if name.startswith("vgg") else 3.1, connectivity_1x1=3.1, block=1)
    rescale_(net, random(4, 3, size, size, seed=0))
    return net, random(1, 3, size, size)


def small_net(name):
    """A network of NETWORKS, pruned, whose activations keep their variance."""
    torch.manual_seed(0)
    factory, shape, _ = NETWORKS[name]
    net = factory().eval()
    prune_(net, connectivity=2.0)
    rescale_(net, random(8, *shape[1:], seed=0))
    return net, random(*shape)


def leaves(outputs):
    return outputs if isinstance(outputs, (list, tuple)) else torch.utils._pytree.tree_leaves(outputs)


def distance(got, want):
    return output_deviation(list(leaves(got)), list(leaves(want)))
