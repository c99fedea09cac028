"""Passes that fold and fuse, each by itself: what it finds, what it leaves alone, and that outputs stay the same."""

import math

import numpy as np
import pytest
import torch
from graph_reference import applied, check_same, ops
from networks import X, net, random
from torch import nn
from torch.nn import functional as F

from pconv_ops import passes, tidying
from pconv_ops.export import export
from pconv_ops.graph import Activation, Graph
from pconv_ops.passes import optimize

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- folding

FOLDED = {
    "norm": (lambda m, x: m.norm(m.a(x)), 1, "conv"),
    "norm without bias": (lambda m, x: m.norm(m.b(x)), 1, "conv"),
    "norm twice": (lambda m, x: m.norm(m.norm(m.a(x))), 2, "conv"),
    "numbers": (lambda m, x: (m.a(x) * 2 - 1) / 3, 3, "conv"),
    "number first": (lambda m, x: 1 - m.a(x), 1, "conv"),
    "channels": (lambda m, x: m.a(x) * m.norm.weight[:, None, None] + m.norm.bias.view(1, 8, 1, 1), 2, "conv"),
    "linear": (lambda m, x: F.linear(x, torch.ones(5, 11)) * torch.arange(5.0) + 1, 2, "linear"),
    "columns": (lambda m, x: m.a(x) * torch.arange(11.0), 0, "conv constant mul"),
    "map": (lambda m, x: m.a(x) + torch.ones(9, 11), 0, "conv constant add"),
    "activation between": (lambda m, x: m.norm(F.relu(m.a(x))), 0, "conv activate affine"),
    "read twice": (lambda m, x: [y := m.a(x), m.norm(y) + y][1], 0, "conv affine add"),
    "output": (lambda m, x: [y := m.a(x), m.norm(y)], 0, "conv affine"),
    "wider": (lambda m, x: m.a(x).mean((2, 3), True) * torch.arange(11.0), 0, "conv mean constant mul"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_fold_affine(case):
    forward, expected, left = FOLDED[case]
    counts, graph = applied(forward, passes.fold_affine, tidying.remove_dead)
    assert (counts[0], ops(graph)) == (expected, left)


EIGHT = torch.arange(8.0)
MOVED = {
    "norm": (lambda m, x: F.prelu(m.norm(F.pixel_shuffle(m.up(x), 2)), EIGHT), "conv pixel_shuffle"),
    "two": (lambda m, x: (F.pixel_shuffle(F.pixel_shuffle(m.up(x), 2), 2) * 2).relu(), "conv" + " pixel_shuffle" * 2),
    "transposed": (lambda m, x: F.silu(m.norm(m.turned(x))), "conv pixel_shuffle slice slice"),
    "channels": (lambda m, x: F.relu(m.up(x)[:, :8] * EIGHT[:, None, None]), "conv slice constant mul"),
    "read twice": (
        lambda m, x: [y := F.pixel_shuffle(m.up(x), 2), F.relu(y) + y][1],
        "conv pixel_shuffle activate add",
    ),
    "output": (lambda m, x: [y := m.up(x), F.relu(F.pixel_shuffle(y, 2))], "conv pixel_shuffle activate"),
    "linear": (lambda m, x: F.linear(x, torch.ones(9, 11))[..., 1:] * EIGHT, "linear slice constant mul"),
}


@pytest.mark.parametrize("case", MOVED)
def test_folding_and_fusing_through_moved_pixels(case):
    forward, left = MOVED[case]
    more = {"up": nn.Conv2d(8, 32, 3), "turned": nn.ConvTranspose2d(8, 8, 4, 2, 1)}
    model = net(forward, **more)
    graph = export(model, X)
    passes.merge_affines(graph)
    counts = [step(graph) for step in (passes.fold_affine, passes.fuse_activations, tidying.remove_dead)]
    check_same(model, graph, X)
    check_same(model, graph, random(3, 8, 9, 11, seed=8))
    assert ops(graph) == left, counts


def test_folding_keeps_zeros_and_rounds_once():
    model = net(lambda m, x: m.norm(m.a(x)))
    graph = export(model, X)
    kept = graph.nodes[0].data["weight"].copy()
    passes.fold_affine(graph)
    weight = graph.nodes[0].data["weight"]
    assert ((weight == 0) == (kept == 0)).all() and (weight == 0).any()
    norm = model.norm
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    exact = model.a.weight.detach().double() * scale.reshape(-1, 1, 1, 1)
    assert np.array_equal(weight, exact.float().numpy())


def test_a_norm_that_overflows_does_not_fold():
    model = net(lambda m, x: m.norm(m.a(x)))
    with torch.no_grad():
        model.norm.weight.fill_(1e38)
        model.norm.running_var.fill_(1e-20)
    graph = export(model, X)
    assert passes.fold_affine(graph) == 0


def test_merge_affines():
    steps = passes.merge_affines, tidying.remove_dead
    counts, graph = applied(lambda m, x: m.norm((x * 2 + torch.arange(8.0)[:, None, None]) / 3), *steps)
    assert (counts[0], ops(graph)) == (3, "affine")
    counts, graph = applied(lambda m, x: (x * torch.arange(9.0)[:, None]) * torch.arange(8.0)[:, None, None], *steps)
    assert counts[0] == 0
    assert applied(lambda m, x: [y := x * 2, y + 1 + y][1], *steps)[0][0] == 0


LOWERED = {
    "norm": (lambda m, x: m.norm(x), "constant mul constant add"),
    "scale": (lambda m, x: x * 2 * 3, "constant mul"),
    "shift": (lambda m, x: x + 2 + torch.arange(8.0)[:, None, None], "constant add"),
    "nothing": (lambda m, x: x * 2 * 0.5, ""),
}


@pytest.mark.parametrize("case", LOWERED)
def test_lower_affine(case):
    forward, left = LOWERED[case]
    _, graph = applied(forward, passes.merge_affines, passes.lower_affine, tidying.remove_dead)
    assert ops(graph) == left


PADDED = {
    "zeros": (lambda m, x: m.a(F.pad(x, (1, 2, 3, 0))), 1, "conv"),
    "twice": (lambda m, x: m.b(F.pad(F.pad(x, (1, 0)), (0, 0, 2, 0))), 2, "conv"),
    "two readers": (lambda m, x: [y := F.pad(x, (1, 1)), m.a(y) + m.b(y)][1], 2, "conv conv add"),
    "another reader": (lambda m, x: [y := F.pad(x, (1, 1)), m.b(y) + y][1], 1, "pad conv add"),
    "ones": (lambda m, x: m.a(F.pad(x, (1, 1), value=1.0)), 0, "pad conv"),
    "channels": (lambda m, x: m.a(F.pad(x[:, 1:], (0, 0, 0, 0, 1, 0))), 0, "slice pad conv"),
    "crop": (lambda m, x: m.a(F.pad(x, (-1, 1))), 0, "pad conv"),
}


@pytest.mark.parametrize("case", PADDED)
def test_fold_padding(case):
    forward, expected, left = PADDED[case]
    counts, graph = applied(forward, *[passes.fold_padding] * 2, tidying.remove_dead)
    assert (counts[0] + counts[1], ops(graph)) == (expected, left)


def test_padding_stays_within_what_layers_take():
    graph = Graph()
    x = graph.add_input("x", (1, 1, 1, 1))
    padded = graph.add("pad", "pad", [x], (1, 1, 1, 70001), {"dims": (0, 0, 0, 0, 0, 0, 70000, 0), "value": 0.0})
    given = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    weight = np.ones((1, 1, 1, 1), np.float32)
    graph.outputs = [graph.add("conv", "conv", [padded], padded.shape, given, {"weight": weight})]
    assert passes.fold_padding(graph) == 0


# ---- fusing

ACTIVATED = {
    "conv": (lambda m, x: F.silu(m.a(x)), 1, "conv"),
    "prelu": (lambda m, x: F.prelu(m.a(x), torch.arange(8.0)), 1, "conv"),
    "linear": (lambda m, x: F.gelu(F.linear(x, torch.ones(3, 11))), 1, "linear"),
    "add": (lambda m, x: F.relu(x + m.a(x)), 1, "conv add"),
    "sub": (lambda m, x: torch.tanh(x - m.a(x)), 1, "conv sub"),
    "mul": (lambda m, x: F.elu(x * m.a(x), 0.5), 1, "conv mul"),
    "two": (lambda m, x: F.relu(F.silu(m.a(x))), 1, "conv activate"),
    "pool": (lambda m, x: F.relu(F.max_pool2d(x, 2)), 0, "max_pool activate"),
    "input": (lambda m, x: F.relu(x), 0, "activate"),
    "read twice": (lambda m, x: [y := m.a(x), F.relu(y) + y][1], 0, "conv activate add"),
    "output": (lambda m, x: [y := m.a(x), F.relu(y)], 0, "conv activate"),
}


@pytest.mark.parametrize("case", ACTIVATED)
def test_fuse_activations(case):
    forward, expected, left = ACTIVATED[case]
    count, graph = applied(forward, passes.fuse_activations)
    assert (count, ops(graph)) == (expected, left)


RESIDUALS = {
    "add": (lambda m, x: m.a(x) + x, ["a"]),
    "reversed": (lambda m, x: x + m.a(x), ["a"]),
    "later takes it": (lambda m, x: m.a(x) + m.b(x), ["b"]),
    "later takes it, written first": (lambda m, x: m.b(x) + m.a(x), ["a"]),
    "activation after": (lambda m, x: F.relu(m.a(x) + x), ["a"]),
    "known later": (lambda m, x: [y := m.a(x), z := F.max_pool2d(x, 3, 1, 1), y + z][2], ["a"]),
    "earlier, as the later is activated": (lambda m, x: m.a(x) + F.relu(m.b(x)), ["a"]),
    "chain": (lambda m, x: m.b(F.relu(m.a(x) + x)) + x, ["a", "b"]),
    "two adds": (lambda m, x: m.a(x) + x + m.b(x), ["a", "b"]),
    "doubled": (lambda m, x: [y := m.a(x), y + y][1], []),
    "number": (lambda m, x: m.a(x) + 1, []),
    "constant": (lambda m, x: m.a(x) + torch.ones(1, 8, 9, 11), []),
    "broadcast": (lambda m, x: m.a(x) + x.mean((2, 3), keepdim=True), []),
    "broadcast up": (lambda m, x: m.a(x[:1]) + x, []),
    "activated": (lambda m, x: F.relu(m.a(x)) + x, []),
    "read twice": (lambda m, x: [y := m.a(x), y * 2 + (y + x)][1], []),
    "output": (lambda m, x: [y := m.a(x), y + x], []),
    "subtraction": (lambda m, x: m.a(x) - x, []),
}


@pytest.mark.parametrize("case", RESIDUALS)
def test_fuse_residuals(case):
    forward, expected = RESIDUALS[case]
    counts, graph = applied(forward, passes.fuse_activations, passes.fuse_residuals)
    assert [node.name for node in graph.nodes if node.op == "conv" and len(node.inputs) == 2] == expected
    assert counts[1] == len(expected)


def test_a_constant_of_the_example_s_shape_is_no_residual():
    """With one image it looks like one; with two it broadcasts."""
    count, graph = applied(lambda m, x: m.a(x) + torch.ones(1, 8, 9, 11), passes.fuse_residuals, x=X[:1])
    assert count == 0


def test_the_activation_behind_an_addition_moves_too():
    steps = passes.fuse_activations, passes.fuse_residuals
    _, graph = applied(lambda m, x: F.prelu(m.a(x) + x, torch.arange(8.0)), *steps)
    (conv,) = graph.nodes
    assert conv.activation is Activation.PRELU and conv.data["slope"].tolist() == list(range(8))
    _, graph = applied(lambda m, x: (m.a(x) + x).clamp_min(-1), *steps)
    assert (graph.nodes[0].real("alpha"), graph.nodes[0].real("beta")) == (-1.0, math.inf)


# ---- all of them

OPTIMIZED = {
    "block": (lambda m, x: F.relu(m.norm(m.a(m.relu(m.norm(m.b(x))))) + x), "conv conv"),
    "norm first": (lambda m, x: m.a(F.relu(m.norm(x))), "constant mul constant add conv"),
    "swish behind a norm": (lambda m, x: [y := m.norm(m.a(x)), y * F.relu6(y + 3) / 6][1], "conv"),
    "silu behind numbers": (lambda m, x: [y := m.a(x) * 2 + 1, y * torch.sigmoid(y)][1], "conv"),
    "numbers behind an activation": (lambda m, x: F.relu(m.a(x)) * 2 * 3, "conv constant mul"),
    "squeeze": (lambda m, x: x * torch.sigmoid(m.b(F.relu(m.a(F.adaptive_avg_pool2d(x, 1))))), "mean conv conv mul"),
    "head": (lambda m, x: F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), torch.ones(3, 8)) + 1, "mean linear"),
    "padded": (lambda m, x: F.relu6(m.norm(m.a(F.pad(x, (1, 1, 0, 0))))), "conv"),
    "unused branch": (lambda m, x: [m.b(x), m.a(x)][1], "conv"),
    "input as output": (lambda m, x: (x + 0, m.a(x)), "conv"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIMIZED)
def test_optimize(case):
    forward, left = OPTIMIZED[case]
    model = net(forward)
    graph = optimize(export(model, X))
    assert ops(graph) == left
    for x in (X, random(3, 8, 9, 11, seed=3)):
        check_same(model, graph, x, optimized=True)
    assert sum(step(graph) for step in (*tidying.TIDYING, *tidying.PATTERNS, *passes.FOLDING, *passes.FUSING)) == 0
