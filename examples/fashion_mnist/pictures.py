"""Pictures of a finished experiment, as PNG files: what pruning costs, and what it looks like inside a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pconv_ops.layers import is_stem
from pconv_ops.plots import FAINT, OURS, draw_histogram
from pconv_ops.report import mask_counts

from .data import Dataset, normalise
from .runs import Run, Setting, load_model
from .schemes import SCHEMES
from .table import Row, reference

FAMILIES = {
    "PCONV": ("pattern4", "pconv5", "pconv8", "pconv12"),
    "single weights": ("unstructured5", "unstructured8", "unstructured12"),
    "whole filters": ("filter5", "filter8", "filter12"),
    "PCONV in blocks of 4": ("block8",),
}
COLOURS = {
    "PCONV": OURS, "single weights": "#8a8a8a", "whole filters": "#b5532a", "PCONV in blocks of 4": "#7a4fa3",
}  # fmt: skip
SHOWN = "pconv8"  # whose weights are drawn


def draw_all(rows: Sequence[Row], setting: Setting) -> list[Path]:
    """Every picture whose runs are there: of the first seed, where one network is shown."""
    written = []
    dataset = setting.load()
    for net in dict.fromkeys(row.net for row in rows):
        of_net = [row for row in rows if row.net == net]
        schemes = {row.scheme for row in of_net}
        pictures: list[tuple[str, Callable[[Any], None]]] = [("accuracy", _bound(draw_accuracy, of_net))]
        models = {
            scheme: load_model(setting, Run(net, scheme, 0), dataset)
            for scheme in ("dense", "pattern4", "pattern8", SHOWN)
            if scheme in schemes
        }
        if SHOWN in models:
            pictures.append(("patterns", _bound(draw_patterns, models[SHOWN])))
            pictures.append(("connectivity", _bound(draw_connectivity, models[SHOWN])))
        if SHOWN in models and "dense" in models:
            pictures.append(("kernels", _bound(draw_kernels, models["dense"], models[SHOWN])))
        patterned = next((models[s] for s in ("pattern4", "pattern8") if s in models), None)
        if patterned is not None and "dense" in models:
            pictures.append(("saliency", _bound(draw_saliency, models["dense"], patterned, dataset)))
        for name, draw in pictures:
            path = setting.out / f"{net}-{name}.png"
            _save(path, draw)
            written.append(path)
    return written


def _bound(draw: Callable[..., None], *arguments: Any) -> Callable[[Any], None]:
    return lambda figure: draw(figure, *arguments)


def _save(path: Path, draw: Callable[[Any], None]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    figure.savefig(path, dpi=110, format="png")


# ---- accuracy


def draw_accuracy(figure: Any, rows: Sequence[Row]) -> None:
    """Accuracy against compression: a line for each family of schemes, bars for the deviation over seeds."""
    figure.set_size_inches(7.5, 4.5)
    axes = figure.subplots()
    found = {row.scheme: row for row in rows}
    dense = reference(rows)
    if dense is not None:
        axes.axhline(dense.mean, color="#555555", linestyle="--", linewidth=1, label=SCHEMES[dense.scheme].label)
    for family, schemes in FAMILIES.items():
        line = [found[scheme] for scheme in schemes if scheme in found]
        if line:
            axes.errorbar(
                [row.rate for row in line],
                [row.mean for row in line],
                [row.deviation for row in line],
                color=COLOURS[family],
                marker="o",
                markersize=4,
                capsize=3,
                label=family,
            )
    axes.set_xlim(1, 1.05 * max(2.0, *(row.rate for row in rows)))
    axes.set_xlabel("weights of the pruned convolutions / kept ones")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(f"Accuracy against compression, {rows[0].net}", fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


# ---- weights


def pruned_convs(model: nn.Module) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Names and weights of the 3x3 convolutions behind the stem."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and not is_stem(module):
            yield name, module.weight.detach().numpy()


def draw_patterns(figure: Any, model: nn.Module) -> None:
    """How often each pattern comes in each layer."""
    layers = list(pruned_convs(model))
    figure.set_size_inches(3.2 * len(layers), 3.6)
    for axes, (name, weight) in zip(np.ravel(figure.subplots(1, len(layers))), layers, strict=True):
        draw_histogram(axes, mask_counts(weight.reshape(-1, 9) != 0))
        axes.set_title(f"layer {name}", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)


def draw_connectivity(figure: Any, model: nn.Module) -> None:
    """Kept kernels of each layer: a row for each filter, a column for each input channel."""
    layers = list(pruned_convs(model))
    figure.set_size_inches(3.2 * len(layers), 3.8)
    for axes, (name, weight) in zip(np.ravel(figure.subplots(1, len(layers))), layers, strict=True):
        kept = weight.any(axis=(2, 3))
        axes.imshow(kept, cmap=_two_colours(), vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"layer {name}: {kept.mean():.0%} of the kernels", fontsize=10, loc="left")
        axes.set_xlabel("input channel")
        axes.set_ylabel("filter")


def draw_kernels(figure: Any, before: nn.Module, after: nn.Module, count: int = 10) -> None:
    """The first kernels of the first two filters, dense above, pruned below, of the layer that lost half its kernels,
    or comes nearest to that."""
    layers = dict(pruned_convs(after))
    name = min(layers, key=lambda name: abs(layers[name].any(axis=(2, 3)).mean() - 0.5))
    dense, pruned = dict(pruned_convs(before))[name], layers[name]
    figure.set_size_inches(1.0 * count, 4.6)
    for half, (title, weight) in zip(
        figure.subfigures(2, 1), (("dense", dense), ("pruned and retrained", pruned)), strict=True
    ):
        half.suptitle(f"layer {name}, {title}", fontsize=10, ha="left", x=0.01)
        limit = float(np.abs(weight[:2, :count]).max()) or 1.0
        for place, axes in enumerate(np.ravel(half.subplots(2, count))):
            kernel = weight[place // count, place % count]
            axes.imshow(kernel, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])


def _two_colours() -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap([FAINT, OURS])


# ---- saliency


def draw_saliency(figure: Any, dense: nn.Module, patterned: nn.Module, dataset: Dataset, count: int = 8) -> None:
    """Guided backpropagation of the true class: test images above, the dense network's below, the pruned one's last
    (PCONV, AAAI 2020, Figure 3)."""
    chosen = _one_of_each_class(dataset)[:count]
    images = normalise(dataset.test.images[chosen], dataset.train)
    labels = dataset.test.labels[chosen]
    rows = [images.mean(1), *(guided_backpropagation(model, images, labels) for model in (dense, patterned))]
    figure.set_size_inches(1.1 * len(chosen) + 0.6, 3.8)
    grid = figure.subplots(3, len(chosen), squeeze=False)
    for line, title, pictures in zip(grid, ("image", "dense", "patterns"), rows, strict=True):
        for axes, picture, label in zip(line, pictures, labels, strict=True):
            axes.imshow(picture.numpy(), cmap="gray", interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if title == "image":
                axes.set_title(dataset.classes[int(label)], fontsize=8)
        line[0].set_ylabel(title, fontsize=9)


def _one_of_each_class(dataset: Dataset) -> list[int]:
    labels = dataset.test.labels.tolist()
    return [labels.index(label) for label in range(len(dataset.classes)) if label in labels]


def guided_backpropagation(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """|d logit / d pixel| [N, H, W], the largest of the channels, where ReLUs let only positive gradients back
    (Springenberg et al., ICLR 2015 workshop)."""
    pixels = images.clone().requires_grad_()
    with _guided_relu():
        model(pixels).gather(1, labels[:, None]).sum().backward()
    assert pixels.grad is not None
    return pixels.grad.abs().amax(1)


class _GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (x,), (grad,) = ctx.saved_tensors, grads
        return grad.clamp(min=0) * (x > 0)


@contextmanager
def _guided_relu() -> Iterator[None]:
    """Meanwhile nn.ReLU, torch.relu and torch.nn.functional.relu are guided."""
    functions = {(torch, "relu"): torch.relu, (nn.functional, "relu"): nn.functional.relu}
    for owner, name in functions:
        setattr(owner, name, lambda x, inplace=False: _GuidedReLU.apply(x))
    try:
        yield
    finally:
        for (owner, name), function in functions.items():
            setattr(owner, name, function)
