"""Networks for the tests of graphs, of the kinds that people compile: NETWORKS, by name."""

import torch
from networks import InvertedResidual, Residual
from torch import nn
from torch.nn import functional as F


class SuperResolution(nn.Module):
    def __init__(self):
        super().__init__()
        body = [part for _ in range(3) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(8))]
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), *body)
        self.up = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x):
        return self.up(self.body(x)) + F.interpolate(x, scale_factor=2, mode="bilinear")


class Detector(nn.Module):
    """YOLO's parts: SiLU, a split and concatenated block, pooling pyramid, upsampling, several outputs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(inplace=True))
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.SiLU(inplace=True))
        self.merge, self.down = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.pool, self.fuse = nn.MaxPool2d(5, 1, 2), nn.Conv2d(16, 8, 1)
        self.up, self.heads = nn.Upsample(scale_factor=2), nn.ModuleList([nn.Conv2d(16, 6, 1), nn.Conv2d(8, 6, 1)])

    def forward(self, x):
        parts = list(self.stem(x).chunk(2, 1))
        parts.append(parts[-1] + self.inner(parts[-1]))
        fine = self.merge(torch.cat(parts, 1))
        coarse = self.fuse(torch.cat([y := self.down(fine), self.pool(y)], 1))
        joined = torch.cat([self.up(coarse), fine], 1)
        found = [head(y).flatten(2) for head, y in zip(self.heads, (joined, coarse), strict=True)]
        boxes, scores = torch.cat(found, 2).split((4, 2), 1)
        return {"boxes": boxes * 8 + 0.5, "scores": scores.sigmoid(), "maps": [fine, coarse]}


class Squeeze(nn.Module):
    """MobileNet-v3's gate."""

    def __init__(self, channels):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        return F.hardsigmoid(self.fc2(F.relu(self.fc1(self.pool(x))))) * x


class HandSwish(nn.Module):
    def forward(self, x):
        return x * F.relu6(x + 3, inplace=True) / 6


def mobile_net():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(inplace=True)),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), HandSwish(), Squeeze(8)),
        *(InvertedResidual(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8), HandSwish(), nn.Linear(8, 5)),
    )


class Shuffle(nn.Module):
    """ShuffleNet's unit."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4), nn.ReLU(inplace=True))

    def forward(self, x):
        one, other = x.chunk(2, dim=1)
        y = torch.cat((one, self.branch(other)), 1)
        n, c, h, w = y.size()
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


class Dense(nn.Module):
    """DenseNet's block: BatchNorm and ReLU come before the convolution, of everything so far."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, padding=1, bias=False) for i in range(3))

    def forward(self, x):
        features = [x]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)), inplace=True)))
        return torch.cat(features, 1)


class Pooled(nn.Module):
    """Maps so large that convolutions pool as they go; one pooling ends in a concat, another's input is read twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 16, 3, padding=1), nn.Conv2d(2, 16, 3, padding=1), nn.Conv2d(2, 16, 3)
        self.pool, self.last = nn.MaxPool2d(2), nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, x):
        joined = torch.cat([self.pool(self.a(x).relu()), self.pool(self.b(x))], 1)
        twice = self.c(F.pad(x, (1, 1, 1, 1))).clamp(-0.5, 0.5)
        return self.last(joined), self.pool(twice), twice.mean((2, 3))


NETWORKS = {
    "super-resolution": (SuperResolution, (2, 3, 6, 7), "conv upsample pixel_shuffle add"),
    "detector": (Detector, (2, 3, 16, 24), "conv max_pool upsample concat slice flatten mul add activate constant"),
    "residual": (Residual, (2, 3, 16, 12), "conv mean linear"),
    "mobile": (mobile_net, (2, 3, 16, 12), "conv mul mean linear"),
    "shuffle": (lambda: nn.Sequential(Shuffle(), Shuffle()), (2, 8, 6, 5), "conv slice concat reshape permute flatten"),
    "dense": (Dense, (2, 8, 6, 5), "conv mul add concat constant"),
    "pooled": (Pooled, (2, 2, 257, 258), "conv max_pool concat mean"),
}  # fmt: skip
