"""Two small networks, at most 8 million multiply-adds an image of Fashion-MNIST: one like VGG, one like ResNet.

Both begin with a 5x5 convolution of stride 2, which stays dense, so that most of the work is in 3x3 convolutions on
maps of 7x7 and less.
"""

from __future__ import annotations

import torch
from torch import nn


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def classifier(channels: int, n_classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_classes)]


def vgg(in_channels: int = 1, n_classes: int = 10) -> nn.Module:
    """Convolutions in a row with batch normalisation and max pooling (Simonyan and Zisserman, 2015)."""
    return nn.Sequential(
        *conv_bn_relu(in_channels, 24, kernel_size=5, stride=2),
        nn.MaxPool2d(2),
        *conv_bn_relu(24, 48),
        *conv_bn_relu(48, 64),
        nn.MaxPool2d(2),
        *conv_bn_relu(64, 128),
        *conv_bn_relu(128, 128),
        *classifier(128, n_classes),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet(in_channels: int = 1, n_classes: int = 10) -> nn.Module:
    """A stem with max pooling and two basic blocks, the second of which halves the map."""
    return nn.Sequential(
        *conv_bn_relu(in_channels, 24, kernel_size=5, stride=2),
        nn.MaxPool2d(2),
        BasicBlock(24, 48, stride=1),
        BasicBlock(48, 96, stride=2),
        *classifier(96, n_classes),
    )


NETS = {"vgg": vgg, "resnet": resnet}
