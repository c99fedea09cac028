"""Convolutions that pool as they go: which do, and that nothing changes but where maps lie."""

import pytest
import torch
from compiled_cases import distance, small_net
from networks import random
from torch import nn

import pconv_ops

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def kinds(compiled):
    """(operator, pooled) of every step."""
    return [(step["op"], step["max_pool"]) for step in compiled.native.plan().steps()]


def test_convolutions_whose_outputs_are_only_pooled():
    net, x = small_net("pooled")
    compiled = pconv_ops.compile(net, x)
    steps = [step for step in compiled.native.plan().steps() if step["op"] in ("conv", "max_pool")]
    assert [(step["op"], step["max_pool"]) for step in steps] == [
        ("conv", 2), ("conv", 2), ("conv", 0), ("conv", 0), ("max_pool", 0),
    ]  # fmt: skip
    assert [step["output"][3] for step in steps[:2]] == 2 * [(2, 16, 128, 129)]
    assert all(step["macs"] > 0 and step["ukernel"] for step in steps[:2])
    assert distance(compiled(x), net(x)) < 1e-4
    profile = compiled.profile(x, runs=1)
    assert [row.op for row in profile.layers].count("conv+max_pool") == 2


def test_same_results_as_pooled_afterwards():
    """A second output keeps the map alive, so that nothing is pooled on the way."""
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.ReLU()).eval()

    class Apart(nn.Module):
        def forward(self, x):
            return (y := self.conv(x)), nn.functional.max_pool2d(y, 2)

    apart = Apart()
    apart.conv = conv
    x = random(2, 3, 225, 227)
    together = pconv_ops.compile(nn.Sequential(conv, nn.MaxPool2d(2)), x)
    assert kinds(together) == [("conv", 2)]
    whole, want = pconv_ops.compile(apart, x)(x)
    got = together(x)
    assert whole.shape == (2, 48, 225, 227)
    # The ukernels may differ, and with them the order of sums.
    assert got.shape == want.shape == (2, 48, 112, 113) and distance([got], [want]) < 1e-6
    before = pconv_ops.get_num_threads()
    try:
        for threads in (2, 5):
            pconv_ops.set_num_threads(threads)
            assert torch.equal(together(x), got)
    finally:
        pconv_ops.set_num_threads(before)


def test_wide_strips_do_not_pool():
    """They would not stay in L2."""
    net, x = nn.Sequential(nn.Conv2d(2, 64, 3, padding=1), nn.MaxPool2d(2)).eval(), random(1, 2, 40, 640)
    assert ("max_pool", 0) in kinds(pconv_ops.compile(net, x))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.MaxPool2d(3)),
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.MaxPool2d(2, 1)),
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.MaxPool2d(2, padding=1)),
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.MaxPool2d(2, ceil_mode=True)),
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(16, 16, 1), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.MaxPool2d(2)),
    ],
    ids=["3x3", "overlap", "padding", "ceil", "activation", "1x1", "depthwise"],
)
def test_others_do_not_pool(net):
    torch.manual_seed(0)
    x = random(1, 16, 257, 257)
    compiled = pconv_ops.compile(net.eval(), x)
    assert {pooled for _, pooled in kinds(compiled)} == {0}
    assert distance(compiled(x), net(x)) < 1e-4


def test_small_maps_do_not_pool():
    net, x = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.MaxPool2d(2)).eval(), random(1, 3, 64, 64)
    compiled = pconv_ops.compile(net, x)
    assert ("max_pool", 0) in kinds(compiled)
    large = random(1, 3, 512, 512)
    assert kinds_of_shape(compiled, large) == [("conv", 2)] and distance(compiled(large), net(large)) < 1e-4


def kinds_of_shape(compiled, x):
    return [(step["op"], step["max_pool"]) for step in compiled.native.plan([tuple(x.shape)]).steps()]


def test_choices_keep_the_pooling():
    """Tuned ones, and one that cannot pool."""
    net, x = small_net("pooled")
    compiled = pconv_ops.compile(net, x)
    before = kinds(compiled)
    compiled.tune(x, runs=1)
    assert kinds(compiled) == before and distance(compiled(x), net(x)) < 1e-4
    isa = pconv_ops._native.current_isa()
    odd = next(row["name"] for row in pconv_ops._native.ukernels() if row["isa"] == isa and row["body"] == "planes")
    session = compiled.native.plan(None, None, [(0, isa, odd, (2, 257, 258))])
    assert [(step["op"], step["max_pool"]) for step in session.steps()] == before
    assert session.steps()[0]["ukernel"] != odd
