"""Small networks for the tests of convert(): fixed ones, and random ones drawn by hypothesis.

He-normal weights rescaled so that activations keep variance near 1, random biases and BatchNorm statistics: with
torch's default initialisation outputs hardly depend on inputs, and wrong layers would pass.
"""

from random import Random

import pytest
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pconv_ops import convert
from pconv_ops.patterns import SCP4


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = random(2, 8, 9, 11)  # an input of net()
BOTH_LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])


def prune(model, keep=0.4, seed=0):
    """Puts SCP patterns into each 3x3 kernel and drops kernels of all but depthwise layers; He-normal weights, random
    biases, random BatchNorm."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor):
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                weight = module.weight
                weight.copy_(draw(weight))
                if isinstance(module, nn.Conv2d):
                    if module.kernel_size == (3, 3):
                        pick = torch.randint(4, weight.shape[:2], generator=generator)
                        weight *= torch.from_numpy(SCP4.masks.copy())[pick]
                    if weight.shape[1] > 1:
                        weight[torch.rand(weight.shape[:2], generator=generator) > keep] = 0
                kept = (weight != 0).flatten(1).sum(1).clamp(min=1).float()
                weight *= (2 / kept).sqrt().reshape(-1, *[1] * (weight.dim() - 1))
                if module.bias is not None:
                    module.bias.copy_(0.1 * draw(module.bias))
            elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.copy_(0.2 * draw(module.running_mean))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
                if module.weight is not None:
                    module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
                    module.bias.copy_(0.2 * draw(module.bias))
    return model


def deviation(got, want):
    return float((got - want).abs().max() / want.abs().max())


def converted(model, *inputs):
    """The converted model with every layer packed, compared with the original on the example and on another input."""
    fast = convert(model, inputs, fallback="never")
    assert all(row.deviation <= 1e-4 for row in fast.report.layers if row.chosen == "pconv")
    with torch.no_grad():
        for given_inputs in (inputs, tuple(random(*x.shape, seed=9) for x in inputs)):
            expected = model(*[x.clone() for x in given_inputs])
            got = fast(*[x.clone() for x in given_inputs])
            assert deviation(got, expected) < 1e-4
    return fast


def fused(fast):
    return {row.name: row.fused for row in fast.report.layers if row.chosen == "pconv"}


class Net(nn.Module):
    """Two convolutions, a BatchNorm and a ReLU around a forward that a test brings."""

    def __init__(self, forward, **more):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        for name, module in more.items():
            setattr(self, name, module)
        self.body = forward

    def forward(self, x):
        return self.body(self, x)


def net(forward, **more):
    return prune(Net(forward, **more)).eval()


class Block(nn.Module):
    """ResNet's basic block, as torchvision writes it."""

    def __init__(self, channels, out_channels, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class InvertedResidual(nn.Module):
    """MobileNet-v2's block."""

    def __init__(self, channels, factor=2):
        super().__init__()
        hidden = channels * factor
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)),
            nn.Sequential(
                nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
                nn.BatchNorm2d(hidden),
                nn.ReLU6(inplace=True),
            ),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x):
        return x + self.conv(x)


class Residual(nn.Module):
    """Stem, two basic blocks, an inverted residual and a linear head, for [N, 3, H, W]."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.layers = nn.Sequential(Block(8, 8), Block(8, 16, 2), InvertedResidual(16))
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.layers(self.stem(x)), 1), 1))


# ---- random networks: a list of operations on a list of tensors ------------------------------------------------------

CHANNELS = 8
ACTIVATIONS = (
    "relu_module", "relu_module_inplace", "relu6_module", "hardtanh_module", "relu_function", "relu_inplace_function",
    "relu_method", "relu_inplace_method", "relu6_function", "clamp_method", "clamp_low", "clamp_high_function",
    "clamp_inplace", "hardtanh_function", "sigmoid", "none",
)  # fmt: skip
CONVOLUTIONS = {
    "3x3": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
    "3x3 bias-less": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
    "5x5": lambda: nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2),
    "1x7": lambda: nn.Conv2d(CHANNELS, CHANNELS, (1, 7), padding=(0, 3)),
    "1x1": lambda: nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
    "same": lambda: nn.Conv2d(CHANNELS, CHANNELS, 4, padding="same"),
    "dilation": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2),
    "groups": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=2, bias=False),
    "depthwise": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
    "circular": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="circular"),
    "transposed": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, padding=1),
    "stride 2": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, 2, padding=1, bias=False),
    "stride 3": lambda: nn.Conv2d(CHANNELS, CHANNELS, 5, 3, padding=2),
}
NORMS = {
    "none": lambda: nn.Identity(),
    "affine": lambda: nn.BatchNorm2d(CHANNELS),
    "plain": lambda: nn.BatchNorm2d(CHANNELS, affine=False),
    "batch statistics": lambda: nn.BatchNorm2d(CHANNELS, track_running_stats=False),
}


def act(kind, x, module):
    """Applies one of ACTIVATIONS."""
    return {
        "relu_function": lambda: F.relu(x),
        "relu_inplace_function": lambda: F.relu(x, inplace=True),
        "relu_method": lambda: x.relu(),
        "relu_inplace_method": lambda: x.relu_(),
        "relu6_function": lambda: F.relu6(x),
        "clamp_method": lambda: x.clamp(-0.5, 1.5),
        "clamp_low": lambda: torch.clamp(x, min=-0.25),
        "clamp_high_function": lambda: torch.clamp_max(x, 0.75),
        "clamp_inplace": lambda: x.clamp_(min=-1, max=2),
        "hardtanh_function": lambda: F.hardtanh(x, -2.0, 1.0),
        "sigmoid": lambda: torch.sigmoid(x),
        "none": lambda: x,
    }.get(kind, lambda: module(x))()


ACTIVATION_MODULES = {
    "relu_module": lambda: nn.ReLU(),
    "relu_module_inplace": lambda: nn.ReLU(inplace=True),
    "relu6_module": lambda: nn.ReLU6(),
    "hardtanh_module": lambda: nn.Hardtanh(-0.5, 0.5),
}

JOINS = (
    *("plain", "plain", "add before", "iadd", "iadd reversed", "add after", "add twice", "broadcast"),
    *("sibling", "sibling iadd", "sibling activated", "overwritten input"),
)
KINDS = ("conv",) * 6 + ("again", "cat", "shuffle", "overwrite")


def step_of(seed):
    """One operation, drawn evenly: hypothesis by itself stays near the first choices."""
    numbers = Random(seed)

    def place():  # which earlier tensor, counted around
        return numbers.randrange(6)

    kind = numbers.choice(KINDS)
    if kind == "conv":
        parts = (sorted(CONVOLUTIONS), sorted(NORMS), ACTIVATIONS, JOINS)
        return (kind, *(numbers.choice(part) for part in parts), place(), place())
    if kind == "again":
        return (kind, place(), numbers.choice(ACTIVATIONS), place())
    if kind == "cat":
        return (kind, place(), place())
    if kind == "shuffle":
        return (kind, place())
    return (kind, numbers.choice(("relu_", "add_", "module")), place())


@st.composite
def networks(draw):
    """A random network for [N, 3, H, W] with pruned weights, in evaluation mode."""
    seed = draw(st.integers(0, 2**32))
    program = [step_of(seed + i) for i in range(draw(st.integers(2, 7)))]
    model = RandomNet(program, untraceable=seed % 5 == 0)
    return prune(model, keep=(0.2, 0.5, 1.0)[seed % 3], seed=seed).eval()


class RandomNet(nn.Module):
    """Runs a program of `steps` on a growing list of tensors and sums what it made into a linear head.

    Which tensors have equal sizes is known from the program alone (`sizes`), so that a trace sees no question about it.
    """

    def __init__(self, program, untraceable=False):
        super().__init__()
        self.program, self.untraceable = program, untraceable
        self.stem = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True))
        self.layers = nn.ModuleList()
        for step in program:
            parts = nn.ModuleDict()
            if step[0] == "conv":
                parts["conv"], parts["norm"] = CONVOLUTIONS[step[1]](), NORMS[step[2]]()
                if step[4].startswith("sibling"):
                    parts["sibling"] = CONVOLUTIONS[step[1]]()
            if step[0] == "cat":
                parts["mix"] = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)
            kind = step[3] if step[0] == "conv" else step[2] if step[0] == "again" else None
            if kind in ACTIVATION_MODULES:
                parts["act"] = ACTIVATION_MODULES[kind]()
            if step[0] == "overwrite":
                parts["act"] = nn.ReLU(inplace=True)
            self.layers.append(parts)
        self.head = nn.Linear(CHANNELS, 7)

    def forward(self, x):
        values, sizes = [self.stem(x)], [""]
        if self.untraceable and x.abs().sum() < 0:
            values[0] = -values[0]
        for step, parts in zip(self.program, self.layers, strict=True):
            value, size = getattr(self, step[0])(step, parts, values, sizes)
            values.append(value)
            sizes.append(size)
        pooled = [value.mean((2, 3)) for value in values]
        return self.head(torch.flatten(sum(pooled[1:], pooled[0]), 1)), values[-1]

    def conv(self, step, parts, values, sizes):
        _, name, norm, kind, join, place, other = step
        x, size = values[place % len(values)], sizes[place % len(values)]
        size = f"{size}, {name}" if "stride" in name else size
        y = parts["conv"](x)
        if norm != "none":
            y = parts["norm"](y)
        fitting = [value for value, its in zip(values, sizes, strict=True) if its == size]
        residual = fitting[other % len(fitting)] if fitting else None
        return self.joined(join, kind, parts, x, y, residual), size

    def joined(self, join, kind, parts, x, y, residual):
        module = parts["act"] if "act" in parts else None
        if join == "sibling":
            y = parts["sibling"](x) + y
        elif join == "sibling iadd":
            y += parts["sibling"](x)
        elif join == "sibling activated":
            y = y + F.relu_(parts["sibling"](x))
        elif join == "overwritten input":
            x.add_(0.1)
            y = y + residual if residual is not None else y
        elif join == "add twice":
            y = y + y
        elif join == "broadcast":
            y = y + y.mean((2, 3), keepdim=True)
        elif join == "add before" and residual is not None:
            y = residual + y
        elif join == "iadd" and residual is not None:
            y += residual
        elif join == "iadd reversed" and residual is not None:
            residual = residual * 1.0
            residual += y
            y = residual
        elif join == "add after" and residual is not None:
            return act(kind, y, module) + residual
        return act(kind, y, module)

    def again(self, step, parts, values, sizes):
        """An earlier convolution once more, with another epilogue."""
        _, which, kind, place = step
        earlier = [layer["conv"] for layer in self.layers if "conv" in layer]
        names = [step[1] for step in self.program if step[0] == "conv"]
        x, size = values[place % len(values)], sizes[place % len(values)]
        y = x * 1.0
        if earlier:
            y, name = earlier[which % len(earlier)](x), names[which % len(earlier)]
            size = f"{size}, {name}" if "stride" in name else size
        return act(kind, y, parts["act"] if "act" in parts else None), size

    def cat(self, step, parts, values, sizes):
        one, other = (F.adaptive_avg_pool2d(values[place % len(values)], 4) for place in step[1:])
        return parts["mix"](torch.cat([one, other], 1)), "pooled"

    def shuffle(self, step, parts, values, sizes):
        x, size = values[step[1] % len(values)], sizes[step[1] % len(values)]
        n, c, h, w = x.size()
        return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w), size

    def overwrite(self, step, parts, values, sizes):
        """Overwrites a tensor while others hold it; the result is dropped."""
        x, size = values[step[2] % len(values)], sizes[step[2] % len(values)]
        if step[1] == "add_":
            x.add_(0.5)
        elif step[1] == "relu_":
            x.relu_()
        else:
            parts["act"](x)
        return x * 0.5, size
