"""Operators of torch, one by one: what they become, that it computes the same, and which are missing."""

import math

import pytest
import torch
from graph_reference import check_same, checked
from networks import X, net, prune, random
from operator_cases import OPERATORS, operator_model
from torch import nn
from torch.nn import functional as F

from pconv_ops.export import UnsupportedOperatorError, export
from pconv_ops.graph import Activation
from pconv_ops.passes import optimize

pytestmark = pytest.mark.usefixtures("one_thread")

# ---- operators: what they become


@pytest.mark.parametrize("case", OPERATORS)
def test_operators(case):
    assert " ".join(checked(operator_model(case), X)) == OPERATORS[case][1]


TRANSPOSED = [
    # kernel, stride, padding, output padding, dilation, groups
    *((2, 2, 0, 0, 1, 1), (4, 2, 1, 0, 1, 1), (3, 2, 1, 1, 1, 2), (9, 4, 3, 1, 1, 1), (8, 4, 2, 0, 1, 1)),
    *(
        (3, 3, 0, 2, 1, 4),
        (2, 3, 1, 0, 1, 1),
        (5, 2, 3, 1, 1, 8),
        (3, 2, 2, 1, 2, 1),
        (1, 2, 0, 1, 1, 1),
        (4, 1, 2, 0, 1, 2),
    ),
]


@pytest.mark.parametrize("geometry", TRANSPOSED)
def test_transposed_convolutions(geometry):
    kernel, stride, padding, output_padding, dilation, groups = geometry
    model = prune(nn.ConvTranspose2d(8, 16, kernel, stride, padding, output_padding, groups, True, dilation)).eval()
    checked(model, random(2, 8, 6, 5))
    check_same(model, export(model, random(2, 8, 6, 5)), random(1, 8, 3, 9))


def test_transposed_convolutions_of_unets_need_one_shuffle():
    assert checked(nn.ConvTranspose2d(8, 6, 2, 2), X) == ["conv", "pixel_shuffle"]
    assert checked(nn.ConvTranspose2d(8, 6, 4, 2, 1), X) == ["conv", "pixel_shuffle", "slice", "slice"]


def test_operators_of_matrices():
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4), nn.Softmax(-1))
    assert checked(prune(model).eval(), random(2, 8)) == ["linear", "affine", "activate", "linear", "softmax"]
    assert checked(nn.Linear(8, 6), random(2, 5, 8)) == ["linear"]


def test_addmm():
    model = net(lambda m, x: torch.addmm(torch.ones(5), x, torch.ones(8, 5)))
    assert checked(model, random(2, 8)) == ["linear", "constant", "add"]


def test_pixel_unshuffle():
    assert checked(nn.PixelUnshuffle(2), random(2, 3, 8, 12)) == ["reshape", "permute", "flatten"]


def test_attributes_of_a_clamp():
    (node,) = export(net(lambda m, x: x.clamp(min=-1)), X).nodes
    assert (node.activation, node.real("alpha"), node.real("beta")) == (Activation.CLAMP, -1.0, math.inf)


def test_reshapes_leave_the_batch_open():
    graph = export(net(lambda m, x: x.view(x.shape[0], 2, 4, 99).transpose(1, 2).reshape(-1, 2, 9, 11)), X)
    dims = [node.numbers("dims") for node in graph.nodes if node.op == "reshape"]
    assert dims == [(0, 2, 4, 99), (-1, 2, 9, 11)]


def test_graphs_say_what_holds_for_other_sizes():
    def forward(m, x):
        y = F.interpolate(m.a(x)[:, :, 1:-1, :-2], scale_factor=1.5)
        y = F.pad(y * y.mean(1, True), (1, -2, 0, 1))
        return torch.cat([y[:, -1].flatten(1), y.view(y.shape[0], y.shape[1], -1).mean(1)], 1)

    model = net(forward)
    graph = export(model, X)
    check_same(model, graph, random(1, 8, 20, 13))
    check_same(model, optimize(graph), random(3, 8, 14, 15), optimized=True)


# ---- what is missing

LACKING = {
    "group norm": (nn.GroupNorm(2, 8), "group_norm"),
    "instance norm": (nn.InstanceNorm2d(8), "instance_norm"),
    "batch statistics": (nn.BatchNorm2d(8, track_running_stats=False), "statistics"),
    "transposed with two strides": (nn.ConvTranspose2d(8, 8, 3, (1, 2)), "same stride"),
    "transposed with much padding": (nn.ConvTranspose2d(8, 8, 3, padding=4), "more than the kernel reaches"),
    "3d": (lambda m, x: F.conv3d(x[:, None], torch.ones(1, 1, 1, 1, 1)), "conv3d"),
    "unbatched": (lambda m, x: m.a(x[0]), "takes .N, C, H, W. here"),
    "computed weight": (lambda m, x: F.conv2d(x, x[:, :, :3, :3]), "weight depends on the input"),
    "much reflection": (
        lambda m, x: F.pad(torch.cat([x, x, x], 3), (17, 0, 0, 0), mode="reflect"),
        "allowed is 0 to 16",
    ),
    "negative reflection": (nn.ReplicationPad2d((1, -1, 0, 0)), "pads by 1 and -1"),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), "bicubic"),
    "quotient": (lambda m, x: x / m.a(x), "constants only"),
    "by zero": (lambda m, x: x / 0, "zero"),
    "cube": (lambda m, x: x**3, "squares only"),
    "another dtype": (lambda m, x: x.double().mean((2, 3)), "float64"),
    "half": (lambda m, x: x.half().float(), "float16"),
    "integers": (lambda m, x: x.argmax(1).float(), "argmax"),
    "comparison": (lambda m, x: x * (x > 0), "gt"),
    "indices": (lambda m, x: F.max_pool2d(x, 2, return_indices=True)[1].float(), "indices"),
    "random": (lambda m, x: x + torch.rand(1), "random"),
    "dropout": (lambda m, x: F.dropout(x, training=True), "at random"),
    "seven dimensions": (lambda m, x: x[:, None, None, None], "7 dimensions"),
    "expanded both": (lambda m, x: x[:, :1].expand(-1, 4, -1, -1) + x[:, 1:2].expand(-1, 4, -1, -1), "expanded"),
    "divided by little": (lambda m, x: x / 1e-39, "beyond float32"),
    "expanded": (lambda m, x: torch.cat([x[:, :1].expand(-1, 4, -1, -1), x], 1), "expands"),
    "empty": (lambda m, x: x[:, 8:].sum((1, 2, 3)), "empty"),
    "product": (lambda m, x: x @ x.mT, "constant matrices"),
}


@pytest.mark.parametrize("case", LACKING)
def test_what_is_missing(case):
    body, reason = LACKING[case]
    with pytest.raises(UnsupportedOperatorError, match=reason):
        export(body if isinstance(body, nn.Module) else net(body), X)
