"""The networks of the benchmarks and tests, with torchvision's state-dict keys, so that its checkpoints load.

A network has `features`: its convolutions with ReLU and pooling, without the classifier. Weights are He-normal from
torch's global generator; `rescale_` makes a pruned network a fair test subject.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

# Output channels of VGG-16's 13 convolutions (Simonyan and Zisserman, 2015, configuration D); 0: 2x2 max pooling.
_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
_BIAS_DEVIATION = 0.1


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


class Net(NamedTuple):
    """A network of the zoo: its factory, which takes num_classes, and the size of its square 3-channel input."""

    factory: Callable[..., VGG]
    size: int


NETS = {"vgg16": Net(vgg16, 224), "vgg16_cifar": Net(vgg16_cifar, 32)}


@torch.no_grad()
def rescale_(model: nn.Module, example: torch.Tensor, seed: int = 0) -> nn.Module:
    """Rescales the weights of every Conv2d and Linear, in place, so that its output on `example` has variance near 1,
    and gives it random biases (normal, standard deviation 0.1, from `seed`) where it has any. Returns the model.

    After pruning, default weights let activations shrink layer by layer until any two images give the same logits, and
    a comparison of networks proves nothing. Zeros stay zeros. A module that runs several times is set at its first run.
    ValueError for a layer whose output on `example` is constant, not finite or empty; the layers before it are set.
    """
    generator = torch.Generator().manual_seed(seed)
    done: set[nn.Module] = set()
    names = {module: name for name, module in model.named_modules()}

    def rescale(module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if module in done:
            return output
        done.add(module)
        # The bias adds one value to each channel: take it off, scale, and put the new one on.
        shape = (-1, 1, 1) if isinstance(module, nn.Conv2d) else (-1,)
        output = output if module.bias is None else output - module.bias.reshape(shape)
        deviation = output.std(correction=0)
        if not (deviation > 0 and torch.isfinite(deviation)):
            raise ValueError(f"model: the output of layer '{names[module]}' has standard deviation {float(deviation)}")
        module.weight /= deviation
        output = output / deviation
        if module.bias is None:
            return output
        bias = torch.randn(module.bias.shape, generator=generator) * _BIAS_DEVIATION
        module.bias.copy_(bias)
        return output + module.bias.reshape(shape)

    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    training = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_hook(rescale) for module in layers]
    try:
        model.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    return model
