"""The pruned networks that all rivals run, written for them: python bench/rivals/models.py FOLDER [NET ...].

Each gets FOLDER/NET with input.npy, want.npy (torch's outputs), kept.json, net.pt2 (torch.export) and net.pt
(TorchScript). Weights are those of `pconv bench`: He-normal, pruned, calibrated.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from pconv_ops.cases import BenchOptions, convs, net_cases

# 6.98 times fewer weights in 3x3 layers (four of nine, of every 3.1th kernel); 1x1 layers 3.1 times, in blocks of four.
RATE, BLOCK = 3.1, 4
NETS = ("vgg16", "vgg16_cifar", "resnet18", "resnet50", "mobilenet_v2")


def options_of(net: str) -> BenchOptions:
    """VGG-16 has no 1x1 layers."""
    if net.startswith("vgg"):
        return BenchOptions(connectivity=RATE)
    return BenchOptions(connectivity=RATE, connectivity_1x1=RATE, block=BLOCK)


def write(net: str, folder: Path) -> None:
    model, x, _ = net_cases(net, options_of(net))
    folder.mkdir(parents=True, exist_ok=True)
    model.requires_grad_(False)
    with torch.inference_mode():
        want = model(x)
    np.save(folder / "input.npy", x.numpy())
    np.save(folder / "want.npy", want.numpy())
    weights = [conv.weight for _, conv in convs(model)]
    kept = sum(int(torch.count_nonzero(w)) for w in weights)
    (folder / "kept.json").write_text(json.dumps({"kept": kept, "weights": sum(w.numel() for w in weights)}))
    torch.export.save(torch.export.export(model, (x,)), folder / "net.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; it is what converters read
        torch.jit.trace(model, x).save(str(folder / "net.pt"))


def main() -> int:
    folder, nets = Path(sys.argv[1]), sys.argv[2:] or NETS
    for net in nets:
        write(net, folder / net)
        print(net, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
