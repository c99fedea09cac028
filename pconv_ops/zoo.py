"""The networks of the benchmarks and tests, with torchvision's state-dict keys, so that its checkpoints load.

VGG-16, ResNet-18, ResNet-50 and MobileNet-v2, each for ImageNet and, as `*_cifar`, for 32x32 images and 10 classes.
Weights are He-normal from torch's global generator; `rescale_` makes a pruned network a fair test subject. Every
network can be traced by torch.fx.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

# ---- VGG

# Output channels of VGG-16's 13 convolutions (Simonyan and Zisserman, 2015, configuration D); 0: 2x2 max pooling.
_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


class VGG(nn.Module):
    """features [N, 3, H, W] -> [N, 512, H/32, W/32], pooled to `pooled` x `pooled`, then the classifier."""

    def __init__(self, classifier: nn.Module, pooled: int) -> None:
        super().__init__()
        self.features = _vgg16_features()
        self.avgpool = nn.AdaptiveAvgPool2d((pooled, pooled))
        self.classifier = classifier
        _init_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def vgg16(num_classes: int = 1000) -> VGG:
    """VGG-16 for [N, 3, 224, 224]; keys of torchvision.models.vgg16."""
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, num_classes),
    )
    return VGG(classifier, pooled=7)


def vgg16_cifar(num_classes: int = 10) -> VGG:
    """VGG-16's 13 convolutions for [N, 3, 32, 32] and one linear classifier, as networks for CIFAR-10 have it."""
    return VGG(nn.Linear(512, num_classes), pooled=1)


def _vgg16_features() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in _VGG16:
        if width == 0:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers)


def _init_he(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# ---- ResNet


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, channels, H, W] -> [N, width, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)

    def branch_norm(self) -> nn.Module | None:
        """What normalises the branch that is added to the shortcut."""
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: [N, channels, H, W] -> [N, 4 * width, H/stride, W/stride].

    The stride is in the 3x3 convolution, as in torchvision ("ResNet v1.5"), not in the first 1x1 as in the paper.
    """

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu(out)

    def branch_norm(self) -> nn.Module | None:
        """What normalises the branch that is added to the shortcut."""
        return self.bn3


class ResNet(nn.Module):
    """He et al., 2016. x [N, 3, H, W] -> [N, num_classes]; cifar: a 3x3 stem with stride 1 and no max pooling."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, ...], num_classes: int, cifar: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False) if cifar else nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, 64, 64, depths[0], 1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, depths[1], 2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, depths[2], 2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        _init_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], channels: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    out = width * block.expansion
    downsample = None
    if stride != 1 or channels != out:
        downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    first = block(channels, width, stride, downsample)
    return nn.Sequential(first, *(block(out, width, 1, None) for _ in range(depth - 1)))


def resnet18(num_classes: int = 1000) -> ResNet:
    """ResNet-18 for [N, 3, 224, 224]; keys of torchvision.models.resnet18."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, cifar=False)


def resnet18_cifar(num_classes: int = 10) -> ResNet:
    """ResNet-18 for [N, 3, 32, 32]."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, cifar=True)


def resnet50(num_classes: int = 1000) -> ResNet:
    """ResNet-50 (v1.5) for [N, 3, 224, 224]; keys of torchvision.models.resnet50."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, cifar=False)


def resnet50_cifar(num_classes: int = 10) -> ResNet:
    """ResNet-50 for [N, 3, 32, 32]."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, cifar=True)


# ---- MobileNet

# Expansion, output channels, blocks, stride of the first one (Sandler et al., 2018, table 2).
_MOBILENET_V2 = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


class InvertedResidual(nn.Module):
    """Expanding 1x1, depthwise 3x3 and projecting 1x1 convolution, with a shortcut where the shapes allow one."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        expand = [_conv_norm_relu6(channels, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.use_res_connect = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)

    def branch_norm(self) -> nn.Module | None:
        """What normalises the branch that is added to the shortcut; None without shortcut."""
        return self.conv[-1] if self.use_res_connect else None


class MobileNetV2(nn.Module):
    """Sandler et al., 2018. x [N, 3, H, W] -> [N, num_classes]; cifar: the first two strides of 2 are 1."""

    def __init__(self, num_classes: int, cifar: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_norm_relu6(3, 32, 3, 1 if cifar else 2)]
        channels = 32
        for stage, (expansion, out, blocks, stride) in enumerate(_MOBILENET_V2):
            for i in range(blocks):
                first = 1 if i or (cifar and stage == 1) else stride
                layers.append(InvertedResidual(channels, out, first, expansion))
                channels = out
        layers.append(_conv_norm_relu6(channels, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        _init_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


def _conv_norm_relu6(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6(inplace=True))


def mobilenet_v2(num_classes: int = 1000) -> MobileNetV2:
    """MobileNet-v2 for [N, 3, 224, 224]; keys of torchvision.models.mobilenet_v2."""
    return MobileNetV2(num_classes, cifar=False)


def mobilenet_v2_cifar(num_classes: int = 10) -> MobileNetV2:
    """MobileNet-v2 for [N, 3, 32, 32]."""
    return MobileNetV2(num_classes, cifar=True)


# ---- all of them


class Net(NamedTuple):
    """A network of the zoo: its factory, which takes num_classes, the size of its square 3-channel input, and the name
    of the part that benchmarks time: "" the whole network, else a child that takes the same input."""

    factory: Callable[..., nn.Module]
    size: int
    part: str = ""

    def benchmarked(self, model: nn.Module) -> nn.Module:
        """The part of a network made by the factory that benchmarks time."""
        return model.get_submodule(self.part)


# VGG-16's classifier is 89 % of its weights, dense, and nothing that these kernels could speed up.
NETS = {
    "vgg16": Net(vgg16, 224, "features"),
    "vgg16_cifar": Net(vgg16_cifar, 32, "features"),
    "resnet18": Net(resnet18, 224),
    "resnet18_cifar": Net(resnet18_cifar, 32),
    "resnet50": Net(resnet50, 224),
    "resnet50_cifar": Net(resnet50_cifar, 32),
    "mobilenet_v2": Net(mobilenet_v2, 224),
    "mobilenet_v2_cifar": Net(mobilenet_v2_cifar, 32),
}


# ---- weights that make a network a fair test subject

_BIAS_DEVIATION = 0.1
_SCALE_DEVIATION = 0.1
_BRANCH_SCALE = 0.5  # of a residual branch: shortcuts carry on what they add up, at most 2.5 in ResNet-50's 6 blocks
_LEAST_VARIANCE = 0.01  # a channel that hardly varies would have its rounding errors blown up
_LEAST_SAMPLES = 8  # with fewer values a channel, all channels are calibrated alike


@torch.no_grad()
def rescale_(model: nn.Module, example: torch.Tensor, seed: int = 0) -> nn.Module:
    """Rescales the weights of every Conv2d and Linear, in place, so that its output on `example` has variance near 1,
    and calibrates every BatchNorm there: running mean and variance are those of its input (a variance of at least
    0.01), its weight is normal around 1 (0.5 at the end of a residual branch, so that sums stay near variance 1; the
    zoo's blocks name it by `branch_norm()`), standard deviation 0.1 of that. Biases, where there are any, are normal
    with standard deviation 0.1. `seed` fixes the random numbers. Returns the model, which keeps its modes.

    After pruning, default weights let activations shrink layer by layer until any two images give the same logits, and
    a comparison of networks proves nothing. Zeros stay zeros. A module that runs several times is set at its first run.
    ValueError for a layer whose output on `example` is constant, not finite or empty; the layers before it are set.
    """
    generator = torch.Generator().manual_seed(seed)
    done: set[nn.Module] = set()
    names = {module: name for name, module in model.named_modules()}
    branch_ends = {
        module.branch_norm() for module in names if isinstance(module, (BasicBlock, Bottleneck, InvertedResidual))
    }

    def set_(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if module in done:
            return output
        done.add(module)
        if isinstance(module, _BatchNorm):
            return _calibrate(module, inputs[0], _BRANCH_SCALE if module in branch_ends else 1.0, generator)
        return _rescale(module, output, names[module], generator)

    layers = [module for module in names if isinstance(module, (nn.Conv2d, nn.Linear, _BatchNorm))]
    training = {module: module.training for module in names}
    hooks = [module.register_forward_hook(set_) for module in layers]
    try:
        model.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    return model


def _rescale(module: Any, output: torch.Tensor, name: str, generator: torch.Generator) -> torch.Tensor:
    """Sets a Conv2d or Linear that gave `output`; returns what it gives now."""
    # The bias adds one value to each channel: take it off, scale, and put the new one on.
    shape = (-1, 1, 1) if isinstance(module, nn.Conv2d) else (-1,)
    output = output if module.bias is None else output - module.bias.reshape(shape)
    deviation = output.std(correction=0)
    if not (deviation > 0 and torch.isfinite(deviation)):
        raise ValueError(f"model: the output of layer '{name}' has standard deviation {float(deviation)}")
    module.weight /= deviation
    output = output / deviation
    if module.bias is None:
        return output
    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * _BIAS_DEVIATION)
    return output + module.bias.reshape(shape)


def _calibrate(module: Any, x: torch.Tensor, scale: float, generator: torch.Generator) -> torch.Tensor:
    """Sets a BatchNorm whose input [N, C] or [N, C, ...] is x; returns its output."""
    if module.running_mean is not None:
        values = x.transpose(0, 1).flatten(1)
        values = values if values.shape[1] >= _LEAST_SAMPLES else values.flatten()[None]
        module.running_mean.copy_(values.mean(1).expand_as(module.running_mean))
        variance = values.var(1, correction=0).clamp_min(_LEAST_VARIANCE)
        module.running_var.copy_(variance.expand_as(module.running_var))
    if module.affine:
        draws = torch.randn((2, module.num_features), generator=generator)
        module.weight.copy_(scale * (1 + _SCALE_DEVIATION * draws[0]))
        module.bias.copy_(_BIAS_DEVIATION * draws[1])
    return module.forward(x)
