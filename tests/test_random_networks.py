"""Random small networks compute the same when they are converted."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from networks import Block, InvertedResidual, X, deviation, networks, prune, random
from torch import nn

from pconv_ops import convert

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("block", [Block(8, 8), InvertedResidual(8)])
def test_random_layers_of_a_network_matter(block):
    """The comparisons above would notice a wrong layer."""
    model = prune(
        nn.Sequential(block, block.__class__(8)) if isinstance(block, InvertedResidual) else nn.Sequential(block)
    ).eval()
    expected = model(X.clone())
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d):
            before = module.weight.detach().clone()
            with torch.no_grad():
                kept = module.weight.view(-1).nonzero().view(-1)
                module.weight.view(-1)[kept[:: max(2, len(kept) // 2)]] = 0
                assert deviation(model(X.clone()), expected) > 1e-3
                module.weight.copy_(before)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=networks(), last=st.booleans(), other_size=st.sampled_from(((1, 13, 13), (3, 8, 17))))
def test_random_networks_compute_the_same(model, last, other_size):
    check_random_network(model, last, other_size)


@pytest.mark.soak
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=networks(), last=st.booleans(), other_size=st.sampled_from(((1, 13, 13), (3, 8, 17))))
def test_random_networks_compute_the_same_long(model, last, other_size):
    check_random_network(model, last, other_size)


def check_random_network(model, last, other_size):
    layout = torch.channels_last if last else torch.contiguous_format

    def run(net, x):
        with torch.no_grad():
            return net(x.clone(memory_format=torch.preserve_format))

    x = random(2, 3, 12, 10).contiguous(memory_format=layout)
    assume(all(bool(y.isfinite().all()) and y.abs().max() > 0 for y in run(model, x)))
    differ = [deviation(a, b) for a, b in zip(run(model, random(2, 3, 12, 10, seed=7)), run(model, x), strict=True)]
    assume(max(differ) > 0.05)  # outputs that depend on nothing prove nothing
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = convert(model, x, fallback="never")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) >= 1 and fast.report.n_accelerated >= 1
    n, h, w = other_size
    for z in (x, random(n, 3, h, w).contiguous(memory_format=layout)):
        for got, want in zip(run(fast, z), run(model, z), strict=True):
            assert got.shape == want.shape and deviation(got, want) < 1e-4, fast.report
