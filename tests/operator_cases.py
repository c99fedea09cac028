"""Modules and functions of an input for every operator that networks may have, and what they become in a graph:
OPERATORS, by name. A function takes (networks.Net, x)."""

import copy

import torch
from networks import net, prune
from torch import nn
from torch.nn import functional as F


def operator_model(case):
    body, _ = OPERATORS[case]
    return prune(copy.deepcopy(body)).eval() if isinstance(body, nn.Module) else net(body)


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
