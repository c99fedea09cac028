"""What convert() fuses and what it must not: every case is compared with the original."""

import copy

import pytest
import torch
from networks import (
    BOTH_LAYOUTS,
    Residual,
    X,
    converted,
    deviation,
    fused,
    net,
    prune,
    random,
)
from torch import nn
from torch.nn import functional as F

from pconv_ops import PatternConv2d, convert
from pconv_ops.modules import ResidualConv2d


@BOTH_LAYOUTS
def test_residual_networks_fuse_everything(layout):
    model = prune(Residual()).eval()
    fast = converted(model, random(2, 3, 24, 20).contiguous(memory_format=layout))
    assert fused(fast) == {
        "stem.0": ("stem.1", "stem.2"),
        "layers.0.conv1": ("layers.0.bn1", "layers.0.relu"),
        "layers.0.conv2": ("layers.0.bn2", "add", "layers.0.relu"),
        "layers.1.conv1": ("layers.1.bn1", "layers.1.relu"),
        "layers.1.conv2": ("layers.1.bn2",),
        "layers.1.downsample.0": ("layers.1.downsample.1", "add", "layers.1.relu"),
        "layers.2.conv.0.0": ("layers.2.conv.0.1", "layers.2.conv.0.2"),
        "layers.2.conv.1.0": ("layers.2.conv.1.1", "layers.2.conv.1.2"),
        "layers.2.conv.2": ("layers.2.conv.3", "add"),
    }
    kinds = [type(module) for module in fast.modules() if not list(module.children())]
    assert set(kinds) == {PatternConv2d, ResidualConv2d, nn.Linear}
    assert {row.layout for row in fast.report.layers} == {"nhwc" if layout is torch.channels_last else "nchw"}


ACTS = {
    "module": (lambda m, x: m.relu(m.a(x)), ("relu",)),
    "functional": (lambda m, x: F.relu(m.a(x)), ("relu",)),
    "functional inplace": (lambda m, x: F.relu(m.a(x), True), ("relu",)),
    "torch": (lambda m, x: torch.relu_(m.a(x)), ("relu",)),
    "method": (lambda m, x: m.a(x).relu_(), ("relu",)),
    "relu6": (lambda m, x: F.relu6(m.a(x), inplace=True), ("relu6",)),
    "hardtanh": (lambda m, x: F.hardtanh(m.a(x), min_val=-0.5), ("hardtanh",)),
    "clamp": (lambda m, x: torch.clamp(m.a(x), -0.5, 0.5), ("clamp",)),
    "one bound": (lambda m, x: m.a(x).clamp(max=0.5), ("clamp",)),
    "clamp_min": (lambda m, x: m.a(x).clamp_min_(-0.1), ("clamp_min",)),
    "clip": (lambda m, x: torch.clip(m.a(x), max=1, min=-1), ("clip",)),
    "crossed bounds": (lambda m, x: m.a(x).clamp(1, -1) + x, ()),
    "tensor bound": (lambda m, x: m.a(x).clamp(min=x), ()),
    "bound is itself": (lambda m, x: m.relu(x).clamp(min=m.a(x)), ()),
    "other activation": (lambda m, x: torch.sigmoid(m.a(x)), ()),
    "result dropped": (lambda m, x: [y := m.a(x), m.relu(y), y * 2][2], ()),
    "used before": (lambda m, x: [y := m.a(x), y * 2 + F.relu(y)][1], ()),
    "used through a view": (lambda m, x: [y := m.a(x), v := y[:, 1:], m.relu(y)[:, 1:] + v][2], ()),
}


@pytest.mark.parametrize("case", ACTS)
def test_activations(case):
    forward, expected = ACTS[case]
    assert fused(converted(net(forward), X))["a"] == expected


def late_overwrite(m, x):
    """The first convolution reads x before the ReLU overwrites it, and is added after."""
    x = x * 1.0
    y = m.a(x)
    x = m.relu(x)
    return y + x


def overwritten_residual_is_read_again(m, x):
    x = m.relu(x * 1.0)
    kept = x
    x += m.a(x)
    return kept * 2 + x.mean()


def overwrites_its_input(m, x):
    x += m.a(x)
    return x


def overwrites_a_branch(m, x):
    y = m.a(x)
    y += m.b(x)
    return m.relu(y)


ADDS = {
    "add": (lambda m, x: m.a(x) + x, {"a": ("add",)}),
    "add reversed": (lambda m, x: x + m.a(x), {"a": ("add",)}),
    "torch.add": (lambda m, x: torch.add(x, m.a(x)), {"a": ("add",)}),
    "alpha 1": (lambda m, x: torch.add(x, m.a(x), alpha=1), {"a": ("add",)}),
    "alpha 2": (lambda m, x: torch.add(x, m.a(x), alpha=2), {"a": ()}),
    "method": (lambda m, x: m.a(x).add_(x), {"a": ("add",)}),
    "later takes it": (lambda m, x: m.relu(m.a(x) + m.norm(m.b(x))), {"a": (), "b": ("norm", "add", "relu")}),
    "later takes it, written first": (lambda m, x: m.norm(m.b(x)) + m.a(x), {"b": ("norm",), "a": ("add",)}),
    "doubled": (lambda m, x: [y := m.a(x), y + y][1], {"a": ()}),
    "number": (lambda m, x: m.a(x) + 1.0, {"a": ()}),
    "broadcast": (lambda m, x: m.a(x) + x.mean((2, 3), keepdim=True), {"a": ()}),
    "broadcast up": (lambda m, x: m.a(x[:1]) + x, {"a": ()}),
    "after an activation": (lambda m, x: F.relu(m.a(x)) + x, {"a": ("relu",)}),
    "late overwrite": (late_overwrite, {"a": ()}),
    "residual read again": (overwritten_residual_is_read_again, {"a": ()}),
    "input overwritten": (overwrites_its_input, {"a": ()}),
    "later takes it, in place": (overwrites_a_branch, {"a": (), "b": ("add", "relu")}),
    "two adds": (lambda m, x: m.a(x) + x + m.b(x), {"a": ("add",), "b": ("add",)}),
    "chain": (lambda m, x: m.b(m.relu(m.a(x) + x)) + x, {"a": ("add", "relu"), "b": ("add",)}),
    "add between": (lambda m, x: m.norm(m.a(x) + x), {"a": ("add",)}),
}


@pytest.mark.parametrize("case", ADDS)
def test_additions(case):
    forward, expected = ADDS[case]
    assert fused(converted(net(forward), X)) == expected


def test_overwriting_keeps_its_meaning_for_the_caller():
    model = net(overwrites_its_input)
    fast = convert(model, X, fallback="never")
    mine, theirs = X.clone(), X.clone()
    with torch.no_grad():
        fast(mine), model(theirs)
    assert deviation(mine, theirs) < 1e-4 and not torch.equal(theirs, X)


NORMS = {
    "affine": (nn.BatchNorm2d(8), ("norm", "relu")),
    "plain": (nn.BatchNorm2d(8, affine=False), ("norm", "relu")),
    "batch statistics": (nn.BatchNorm2d(8, track_running_stats=False), ()),
    "instance norm": (nn.InstanceNorm2d(8), ()),
}


@pytest.mark.parametrize("case", NORMS)
def test_norms(case):
    norm, expected = NORMS[case]
    model = net(lambda m, x: m.relu(m.norm(m.a(x))), norm=copy.deepcopy(norm))
    assert fused(converted(model, X))["a"] == expected


def test_norm_with_a_hook_stays():
    model = net(lambda m, x: m.relu(m.norm(m.a(x))))
    seen = []
    model.norm.register_forward_hook(lambda module, args, y: seen.append(1))
    assert fused(converted(model, X))["a"] == ()
    assert seen


def test_norm_that_overflows_does_not_fold():
    model = net(lambda m, x: m.norm(m.a(x)))
    with torch.no_grad():
        model.norm.running_var.fill_(0)
        model.norm.eps = 0.0
        model.norm.weight.fill_(0)
    fast = convert(model, X, fallback="never")  # 0 / 0: nothing to compare, but nothing breaks either
    assert fast.report.layers[0].fused == ()


def test_residuals_of_other_shapes_at_other_inputs():
    """At this example the pooled map has the size of the other operand; at others it broadcasts."""
    model = net(lambda m, x: m.relu(m.a(x) + F.adaptive_avg_pool2d(x, 1)))
    fast = convert(model, random(2, 8, 1, 1), fallback="never")
    assert fused(fast)["a"] == ("add", "relu")
    for shape in ((2, 8, 1, 1), (3, 8, 9, 5), (1, 8, 4, 4)):
        x = random(*shape)
        with torch.no_grad():
            assert deviation(fast(x), model(x)) < 1e-4


def test_residual_layer_still_refuses_what_cannot_be_added():
    layer = ResidualConv2d.from_dense(nn.Conv2d(8, 8, 3, padding=1), "relu")
    with pytest.raises(RuntimeError, match="must match"):
        layer(X, random(2, 8, 5, 5))
    with pytest.raises(ValueError, match="channels"):
        layer(random(1, 3, 5, 5), X)
