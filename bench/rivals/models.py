"""The pruned networks and layers that all rivals run: python bench/rivals/models.py FOLDER [NET ...].

Each gets FOLDER/NET with input.npy, want.npy (torch's outputs), kept.json, net.pt2 (torch.export) and net.pt
(TorchScript). Weights are those of `pconv bench`: He-normal, pruned, calibrated.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pconv_ops.cases import BenchOptions, LayerSpec, conv_cases, convs, net_cases, single_case, single_conv

# 6.98 times fewer weights in 3x3 layers (four of nine, of every 3.1th kernel); 1x1 layers 3.1 times, in blocks of four.
RATE, BLOCK = 3.1, 4
NETS = ("vgg16", "vgg16_cifar", "resnet18", "resnet50", "resnet50_cifar", "mobilenet_v2", "mobilenet_v2_cifar")
# The nine unique convolutions of VGG-16, as PCONV's Figure 8 has them; the first one stays dense.
LAYERS = (
    *("conv3x64x224", "conv64x64x224", "conv64x128x112", "conv128x128x112", "conv128x256x56"),
    *("conv256x256x56", "conv256x512x28", "conv512x512x28", "conv512x512x14"),
)
# The pruned convolutions of ResNet-18 and ResNet-50, for what is counted instead of timed.
RESNET_LAYERS = (
    *("conv64x64x56", "conv64x128x56s2", "conv128x128x28", "conv128x256x28s2", "conv256x256x14", "conv256x512x14s2"),
    *("conv512x512x7", "conv64x256x56k1", "conv256x64x56k1", "conv512x128x28k1", "conv128x512x28k1"),
    *("conv1024x256x14k1", "conv256x1024x14k1", "conv2048x512x7k1", "conv512x2048x7k1"),
)
_LAYER = re.compile(
    r"conv(?P<ic>\d+)x(?P<oc>\d+)x(?P<side>\d+)(?:k(?P<kernel>\d+))?(?:s(?P<stride>\d+))?(?:r(?P<rate>[\d.]+))?"
)


def options_of(net: str) -> BenchOptions:
    """VGG-16 has no 1x1 layers."""
    if net.startswith("vgg"):
        return BenchOptions(connectivity=RATE)
    return BenchOptions(connectivity=RATE, connectivity_1x1=RATE, block=BLOCK)


def model_of(name: str) -> tuple[nn.Module, torch.Tensor]:
    """(pruned model, input) of a network of NETS or a layer: conv<in>x<out>x<side>[k<kernel>][s<stride>][r<rate>], with
    a kernel of so many kept (RATE; 0: the layer stays dense)."""
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return net_cases(name, options_of(name))[:2]
    ic, oc, side = (int(layer[part]) for part in ("ic", "oc", "side"))
    kernel, stride = int(layer["kernel"] or 3), int(layer["stride"] or 1)
    rate = float(layer["rate"] or RATE)
    spec = LayerSpec(ic, oc, side, side, stride, kernel)
    case = single_case(spec, BenchOptions(connectivity=rate or RATE, block=BLOCK if kernel == 1 else 1))
    if rate == 0:
        return nn.Sequential(single_conv(spec)).eval(), case.x
    return nn.Sequential(case.conv).eval(), case.x


def kept_macs(conv: nn.Conv2d, x: torch.Tensor) -> int:
    """Multiply-adds of the weights that are left."""
    with torch.inference_mode():
        return int(torch.count_nonzero(conv.weight)) * conv(x).shape[-2:].numel()


def write(net: str, folder: Path) -> None:
    model, x = model_of(net)
    folder.mkdir(parents=True, exist_ok=True)
    model.requires_grad_(False)
    with torch.inference_mode():
        want = model(x)
    np.save(folder / "input.npy", x.numpy())
    np.save(folder / "want.npy", want.numpy())
    weights = [conv.weight for _, conv in convs(model)]
    counts = {
        "kept": sum(int(torch.count_nonzero(w)) for w in weights),
        "weights": sum(w.numel() for w in weights),
        "kept_macs": sum(kept_macs(case.conv, case.x) for case in conv_cases(model, x)),
    }
    (folder / "kept.json").write_text(json.dumps(counts))
    torch.export.save(torch.export.export(model, (x,)), folder / "net.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; it is what converters read
        torch.jit.trace(model, x).save(str(folder / "net.pt"))


def main() -> int:
    folder, nets = Path(sys.argv[1]), sys.argv[2:] or (*NETS, *LAYERS)
    for net in nets:
        write(net, folder / net)
        print(net, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
