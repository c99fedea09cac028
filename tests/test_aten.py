"""Operators of torch, one by one: what they become, that it computes the same, and which are missing."""

import copy
import math

import pytest
import torch
from graph_reference import check_same, checked
from networks import X, net, prune, random
from torch import nn
from torch.nn import functional as F

from pconv_ops.export import UnsupportedOperatorError, export
from pconv_ops.graph import Activation
from pconv_ops.passes import optimize

pytestmark = pytest.mark.usefixtures("one_thread")

# ---- operators: what they become

LAYERS = {
    "conv": (lambda m, x: m.a(x), "conv"),
    "conv without bias": (lambda m, x: m.b(x), "conv"),
    "conv function": (lambda m, x: F.conv2d(x, m.b.weight, stride=(2, 1), padding=(1, 0)), "conv"),
    "conv same": (nn.Conv2d(8, 8, 4, padding="same"), "conv"),
    "conv valid": (nn.Conv2d(8, 8, 4, padding="valid"), "conv"),
    "conv dilation groups": (nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4), "conv"),
    "conv depthwise": (nn.Conv2d(8, 16, (1, 3), stride=(1, 2), groups=8), "conv"),
    "conv circular": (
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
        "slice slice concat slice slice concat conv",
    ),
    "transposed": (nn.ConvTranspose2d(8, 6, (3, 2), padding=(1, 0), groups=2), "conv"),
    "transposed dilation": (nn.ConvTranspose2d(8, 6, 3, padding=1, dilation=2), "conv"),
    "linear": (
        lambda m, x: F.linear(x, m.a.weight[0, :, :, 0].t() @ m.a.weight[0, :, :, 1][:, :1].repeat(1, 11)),
        "linear",
    ),
    "matmul": (lambda m, x: x @ torch.ones(11, 4), "linear"),
    "batch norm": (lambda m, x: m.norm(x), "affine"),
    "batch norm plain": (nn.BatchNorm2d(8, affine=False), "affine"),
}
ACTIVATIONS = {
    "relu": (lambda m, x: m.relu(x * 1.0), "constant mul activate"),
    "relu6": (nn.ReLU6(), "activate"),
    "hardtanh": (nn.Hardtanh(-0.5, 0.25), "activate"),
    "clamp": (lambda m, x: x.clamp(-0.5, 0.5), "activate"),
    "clamp crossed": (lambda m, x: x.clamp(0.5, -0.5) + x, "activate add"),
    "clamp_min": (lambda m, x: x.clamp_min(0.1), "activate"),
    "clamp max": (lambda m, x: torch.clamp(x, max=0.1), "activate"),
    "leaky relu": (nn.LeakyReLU(0.2), "activate"),
    "prelu": (nn.PReLU(8), "activate"),
    "prelu of one": (nn.PReLU(), "activate"),
    "sigmoid": (nn.Sigmoid(), "activate"),
    "silu": (nn.SiLU(), "activate"),
    "hardsigmoid": (nn.Hardsigmoid(), "activate"),
    "hardswish": (nn.Hardswish(), "activate"),
    "tanh": (nn.Tanh(), "activate"),
    "gelu": (nn.GELU(), "activate"),
    "gelu tanh": (nn.GELU(approximate="tanh"), "activate"),
    "elu": (nn.ELU(0.7), "activate"),
    "selu": (nn.SELU(), "activate constant mul"),
}  # fmt: skip
ELEMENTWISE = {
    "add": (lambda m, x: x + x[:, :, :1], "slice add"),
    "add alpha": (lambda m, x: torch.add(x, m.a(x), alpha=2), "conv constant mul add"),
    "add number": (lambda m, x: x + 2, "constant add"),
    "number minus": (lambda m, x: 2 - x, "constant sub"),
    "minus number": (lambda m, x: x - 2, "constant add"),
    "sub": (lambda m, x: x - m.a(x), "conv sub"),
    "mul": (lambda m, x: x * m.a(x), "conv mul"),
    "mul buffer": (lambda m, x: x * m.norm.running_var[:, None, None], "constant mul"),
    "constant first": (lambda m, x: m.norm.running_var[:, None, None] * x, "constant mul"),
    "integers": (lambda m, x: x * torch.arange(8)[:, None, None], "constant mul"),
    "div": (lambda m, x: x / 3, "constant mul"),
    "div tensor": (lambda m, x: x / m.norm.running_var[:, None, None], "constant mul"),
    "neg": (lambda m, x: -x, "constant mul"),
    "square": (lambda m, x: x**2 + torch.square(x), "mul mul add"),
    "expand": (lambda m, x: x * x.mean((2, 3), keepdim=True).expand_as(x), "mean mul"),
}
POOLS = {
    "max pool": (nn.MaxPool2d(3, 2, 1), "max_pool"),
    "max pool ceil dilation": (nn.MaxPool2d(2, (2, 3), dilation=(1, 2), ceil_mode=True), "max_pool"),
    "max pool with indices": (lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool"),
    "adaptive max pool": (lambda m, x: F.adaptive_max_pool2d(x, (3, 1)), "max_pool"),
    "avg pool": (nn.AvgPool2d(3, 2, 1), "avg_pool"),
    "avg pool ceil": (nn.AvgPool2d((2, 3), ceil_mode=True, count_include_pad=False), "avg_pool"),
    "avg pool divisor": (nn.AvgPool2d(2, divisor_override=3), "avg_pool"),
    "adaptive avg pool": (nn.AdaptiveAvgPool2d((3, None)), "adaptive_avg_pool"),
    "global avg pool": (nn.AdaptiveAvgPool2d(1), "adaptive_avg_pool"),
    "mean": (lambda m, x: x.mean((2, 3)), "mean"),
    "mean keepdim": (lambda m, x: x.mean((-2, -1), keepdim=True), "mean"),
    "mean of all": (lambda m, x: x * x.mean(), "mean mul"),
    "mean of columns": (lambda m, x: x.mean(-1), "mean"),
    "mean of channels": (
        lambda m, x: x.mean(1, keepdim=True) + x.mean((0, 2))[:, None],
        "permute mean permute permute mean reshape add",
    ),
}
PARTS = {
    "cat": (lambda m, x: torch.cat([x, m.a(x), x], 1), "conv concat"),
    "cat last": (lambda m, x: torch.cat([x, x], -1), "concat"),
    "stack": (lambda m, x: torch.stack([x, x], 2), "reshape reshape concat"),
    "split": (lambda m, x: torch.cat(torch.split(x, 3, 1)[::-1], 1), "slice slice slice concat"),
    "split sizes": (lambda m, x: torch.cat(x.split([1, 2, 5], 1)[::-1], 1), "slice slice slice concat"),
    "chunk": (lambda m, x: torch.add(*x.chunk(2, 1)), "slice slice add"),
    "unbind": (lambda m, x: sum(x.unbind(3)), " ".join(["slice flatten"] * 11) + " constant" + " add" * 11),
    "select": (lambda m, x: x[:, -2] + x[:, -1], "slice flatten slice flatten add"),
    "slices": (lambda m, x: x[:, 1:-1, ..., ::3], "slice slice"),
    "slice of all": (lambda m, x: x[:, 0:8], ""),
    "narrow": (lambda m, x: x.narrow(1, 2, 3), "slice"),
}
SHAPING = {
    "view": (lambda m, x: x.view(x.shape[0], -1), "flatten"),
    "view without -1": (lambda m, x: x.reshape(x.shape[0] * 2, 4, 9, 11), "reshape"),
    "batch folded": (lambda m, x: m.a(x.view(-1, 8, 11, 9)).view(x.shape[0], 8, 99), "reshape conv flatten"),
    "flatten": (lambda m, x: torch.flatten(x, 1), "flatten"),
    "flatten two": (lambda m, x: x.flatten(-2), "flatten"),
    "unflatten": (lambda m, x: x.unflatten(1, (2, 4)), "reshape"),
    "unsqueeze": (lambda m, x: x.unsqueeze(2), "reshape"),
    "squeeze": (lambda m, x: x.mean((2, 3), True).squeeze(-1).squeeze(-1), "mean flatten flatten"),
    "permute": (lambda m, x: x.permute(0, 2, 3, 1).contiguous(), "permute"),
    "transpose": (lambda m, x: x.transpose(1, -1), "permute"),
    "identity": (lambda m, x: nn.Identity()(x).clone().detach().contiguous().float(), ""),
    "dropout": (lambda m, x: F.dropout2d(nn.Dropout().eval()(x), training=False), ""),
    "pixel shuffle": (nn.PixelShuffle(2), "pixel_shuffle"),
    "channel shuffle": (nn.ChannelShuffle(4), "reshape permute flatten"),
}
REST = {
    "nearest": (lambda m, x: F.interpolate(x, scale_factor=2), "upsample"),
    "nearest size": (lambda m, x: F.interpolate(x, (7, 20)), "upsample"),
    "bilinear": (lambda m, x: F.interpolate(x, scale_factor=(1.7, 2), mode="bilinear"), "upsample"),
    "bilinear corners": (nn.Upsample((5, 20), mode="bilinear", align_corners=True), "upsample"),
    "bilinear recomputed": (
        lambda m, x: F.interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True), "upsample",
    ),
    "softmax": (nn.Softmax(1), "softmax"),
    "log softmax": (lambda m, x: F.log_softmax(x, -1), "softmax"),
    "pad": (lambda m, x: F.pad(x, (1, 2, 3, 0)), "pad"),
    "pad channels": (lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 1), value=0.5), "pad"),
    "pad and crop": (nn.ZeroPad2d((1, -2, 0, -1)), "pad"),
    "pad reflected": (nn.ReflectionPad2d((2, 1, 0, 1)), "slice slice slice concat slice concat"),
    "pad replicated": (lambda m, x: F.pad(x, (0, 2, 1, 0), mode="replicate"), "slice slice concat slice concat"),
    "pad of a conv": (nn.Conv2d(8, 8, 3, padding=(0, 1), padding_mode="reflect"), "slice slice concat conv"),
    "pad nothing": (lambda m, x: F.pad(x, (0, 0)), ""),
}  # fmt: skip
OPERATORS = LAYERS | ACTIVATIONS | ELEMENTWISE | POOLS | PARTS | SHAPING | REST


@pytest.mark.parametrize("case", OPERATORS)
def test_operators(case):
    body, expected = OPERATORS[case]
    model = prune(copy.deepcopy(body)).eval() if isinstance(body, nn.Module) else net(body)
    assert " ".join(checked(model, X)) == expected


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
