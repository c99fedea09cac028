"""pconv demo: a photograph through pruned VGG-16, dense and converted; outputs compared, layers timed, a picture drawn.

The weights are random (He-normal, seed 0, rescaled after pruning so that activations keep variance near 1): the demo
is about equal outputs and about time, not about what the photograph shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .benchmark import (
    Row,
    Track,
    bench_case,
    check_result,
    finish_rows,
    peak_of,
    rows_text,
    runtime,
    time_against_dense,
)
from .cases import BenchOptions, conv_cases, convs, prune_by, seeded_net
from .checking import TOLERANCE
from .conversion_report import ConvertReport
from .convert import convert
from .plots import LayerSpeed, save_speed_picture
from .report import PruneReport
from .zoo import NETS, rescale_

NET = "vgg16"
# ImageNet's channel means and standard deviations, as torchvision's models expect them.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEAST_DIFFERENCE = 0.1  # two images must differ by more, relative, or equal outputs would prove nothing


@dataclass(frozen=True)
class DemoResult:
    """Everything the demo found out; deviations are relative to the largest dense value of the same tensor."""

    image: str
    pruned: PruneReport
    converted: ConvertReport
    rows: list[Row]
    deviations: dict[str, float]
    images_differ: float
    net_ms: tuple[float, float]
    picture: Path

    def text(self) -> str:
        """What `pconv demo` prints."""
        fewer = self.pruned.total / self.pruned.nnz
        n_fast, n_all = (sum(r.chosen == "pconv" for r in self.converted.layers), len(self.converted.layers))
        lines = [
            f"VGG-16 with random weights, 4 SCPs, {BenchOptions().connectivity}x connectivity:"
            f" {fewer:.2f}x fewer convolution weights; {n_fast} of {n_all} convolutions converted,"
            " the first one with all its weights",
            f"image: {self.image}",
            "",
            rows_text(self.rows, self.deviations),
            "",
            f"outputs equal: deviations are relative to the largest value of a tensor; that of the logits is"
            f" {self.deviations['logits']:.1e}, allowed {TOLERANCE:g}",
            f"the logits tell images apart: turning the image around changes them by {self.images_differ:.2f}",
            _sum_line("pruned convolutions, as in the picture", pruned_rows(self.rows)),
            _sum_line("convolutions, the dense one included (torch's time on both sides)", self.rows),
            _speed_line("whole net with its dense classifier", *self.net_ms),
            f"picture: {self.picture}",
        ]
        return "\n".join(lines)


def pruned_rows(rows: list[Row]) -> list[Row]:
    """Without the layers that pruning left dense, which torch runs on both sides."""
    return [row for row in rows if row["kind"] != "dense"]


def _sum_line(what: str, rows: list[Row]) -> str:
    return _speed_line(f"{len(rows)} {what}", *(sum(row[key] for row in rows) for key in ("ms", "dense_ms")))


def _speed_line(what: str, ms: float, dense_ms: float) -> str:
    return f"{what}: {ms:.1f} ms, torch {dense_ms:.1f} ms: {dense_ms / ms:.2f}x faster"


def bundled_photograph() -> Path:
    """The photograph that matplotlib installs beside its examples."""
    from matplotlib import get_data_path

    return Path(get_data_path()) / "sample_data" / "grace_hopper.jpg"


def load_image(path: Path, size: int) -> torch.Tensor:
    """fp32 [1, 3, size, size]: the shorter side resized to size * 8/7, the centre cropped, ImageNet's normalisation.

    OSError or ValueError for what is no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: {error}") from error
    scale = size * 8 / 7 / min(image.size)
    image = image.resize((max(size, round(image.width * scale)), max(size, round(image.height * scale))))
    left, top = (image.width - size) // 2, (image.height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    normal = (pixels - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)[None]))


def outputs(model: nn.Module, names: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The outputs of the named layers and, as "logits", of the model itself."""
    found: dict[str, torch.Tensor] = {}
    modules = dict(model.named_modules())
    hooks = [
        # A copy: the ReLU behind a layer works in place.
        modules[name].register_forward_hook(lambda _m, _x, y, name=name: found.update({name: y.clone()}))
        for name in names
    ]
    try:
        found["logits"] = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: found[name] for name in [*names, "logits"]}


def compare(dense: Mapping[str, torch.Tensor], fast: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Relative deviation of each output; WrongResult above the tolerance."""
    return {name: check_result(name, fast[name], want) for name, want in dense.items()}


def image_difference(model: nn.Module, x: torch.Tensor, logits: torch.Tensor) -> float:
    """Relative change of the logits when the photograph stands on its head; ValueError unless it is large enough."""
    other = model(x.flip(-1, -2).contiguous())
    difference = float((other - logits).abs().max() / logits.abs().max())
    if not difference > LEAST_DIFFERENCE:
        raise ValueError(f"image: turned around it changes the logits by {difference:.3g} only; choose another one")
    return difference


def run(image: str | None, threads: int | None, out: Path, track: Track) -> DemoResult:
    """The whole demo. image: path, None = the bundled photograph; threads: None = get_num_threads(); out: folder of
    demo.png, made if it is not there. WrongResult if an output is not equal, OSError and ValueError for a bad image."""
    path = Path(image) if image is not None else bundled_photograph()
    x = load_image(path, NETS[NET].size)
    out.mkdir(parents=True, exist_ok=True)
    options = BenchOptions(threads=threads)
    model = seeded_net(NET)
    pruned = prune_by(model, options)
    rescale_(model, x)
    with runtime(options) as (isa, n_threads):
        fast = convert(model, x)
        names = [name for name, _ in convs(model)]
        dense_outputs = outputs(model, names, x)
        for name in names:  # a packed layer with the ReLU behind it in its epilogue
            if getattr(fast.get_submodule(name), "activation", "") == "relu":
                dense_outputs[name] = dense_outputs[name].relu()
        deviations = compare(dense_outputs, outputs(fast, names, x))
        images_differ = image_difference(model, x, dense_outputs["logits"])
        rows = [bench_case(case, options, isa, n_threads) for case in track(conv_cases(model, x), "timing layers")]
        times, dense_ms, _ = time_against_dense({"whole net": lambda: fast(x)}, model, x, options.rounds)
    finish_rows(rows, NET, options, isa, n_threads)
    picture = out / "demo.png"
    draw(picture, rows, pruned, peak_of(rows), n_threads, isa)
    return DemoResult(
        str(path), pruned, fast.report, rows, deviations, images_differ, (times["whole net"], dense_ms), picture
    )


def draw(path: Path, rows: list[Row], pruned: PruneReport, peak: float, threads: int, isa: str) -> None:
    """The picture of the pruned layers' speeds and of all their patterns."""
    rows = pruned_rows(rows)
    speeds = [LayerSpeed(r["layer"], r["useful_gflops"], r["useful_gflops"] / r["speedup"]) for r in rows]
    names = {row["layer"] for row in rows}
    patterns: dict[int, int] = {}
    for layer in pruned.layers:
        if layer.name in names:
            for mask, count in layer.patterns.items():
                patterns[mask] = patterns.get(mask, 0) + count
    ms, dense_ms = sum(row["ms"] for row in rows), sum(row["dense_ms"] for row in rows)
    title = (
        f"VGG-16, 4 SCPs, {BenchOptions().connectivity}x connectivity, {threads} thread(s), {isa}:"
        f" {len(rows)} pruned convolutions in {ms:.1f} ms, torch {dense_ms:.1f} ms"
    )
    save_speed_picture(path, title, speeds, patterns, peak)
