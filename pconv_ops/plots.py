"""Pictures of what was pruned and measured. Knows only plain data; matplotlib is imported when a picture is drawn.

The Agg canvas is used directly, so no window system is needed and the caller's pyplot state is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS, DENSE, FAINT = "#0b6e4f", "#b8b8b8", "#e6e6e6"


@dataclass(frozen=True)
class LayerSpeed:
    """One pair of bars: useful GFLOP/s (2 x kept weights x output positions / time) of ours and of the dense run."""

    name: str
    ours: float
    dense: float


@dataclass(frozen=True)
class LayerTimes:
    """One pair of bars: milliseconds of a layer, packed and dense (None: not measured), and whether it runs packed."""

    name: str
    ours: float | None
    dense: float | None
    accelerated: bool


def draw_taps(axes: Any, mask: int, x: float, y: float, cell_x: float, cell_y: float) -> None:
    """Draws a 3x3 mask (bit ky*3+kx) as nine cells centred at x, top edge at y, in the coordinates of `axes`."""
    from matplotlib.patches import Rectangle

    for tap in range(9):
        ky, kx = divmod(tap, 3)
        corner = (x + (kx - 1.5) * cell_x, y - (ky + 1) * cell_y)
        colour = OURS if mask >> tap & 1 else FAINT
        axes.add_patch(Rectangle(corner, cell_x * 0.9, cell_y * 0.9, color=colour, clip_on=False, linewidth=0))


def draw_speeds(axes: Any, layers: Sequence[LayerSpeed], peak: float | None) -> None:
    """Bars of useful GFLOP/s for each layer, ours beside dense; a dashed line marks the highest FMA peak."""
    width = 0.4
    places = range(len(layers))
    axes.bar([i - width / 2 for i in places], [s.ours for s in layers], width, color=OURS, label="pconv_ops")
    axes.bar([i + width / 2 for i in places], [s.dense for s in layers], width, color=DENSE, label="torch, dense")
    for i, speed in enumerate(layers):
        if speed.dense > 0:
            axes.annotate(
                f"{speed.ours / speed.dense:.1f}x",
                (i - width / 2, speed.ours),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    if peak is not None:
        axes.axhline(peak, color="#555555", linestyle="--", linewidth=1, label=f"highest FMA peak, {peak:.0f} GFLOP/s")
    axes.set_xticks(list(places), [s.name for s in layers], rotation=35, ha="right", rotation_mode="anchor")
    axes.set_ylabel("useful GFLOP/s")
    axes.set_title("Speed of each layer (kept weights only)", fontsize=11, loc="left")
    highest = max([peak or 0.0, *(s.ours for s in layers), *(s.dense for s in layers)], default=1.0)
    axes.set_ylim(0, highest * 1.28)
    axes.legend(frameon=False, ncols=3, loc="upper right", fontsize=9)


def draw_histogram(axes: Any, patterns: Mapping[int, int]) -> None:
    """Bars of how many kept kernels carry each 3x3 mask, most frequent first, the mask drawn below its bar."""
    ordered = sorted(patterns.items(), key=lambda item: (-item[1], item[0]))
    total = sum(patterns.values()) or 1
    highest = max((count for _, count in ordered), default=1)
    axes.bar(range(len(ordered)), [count for _, count in ordered], 0.6, color=OURS)
    for i, (mask, count) in enumerate(ordered):
        share = f"{100 * count / total:.1f} %" if len(ordered) <= 6 else f"{100 * count / total:.0f}%"
        axes.annotate(
            f"{count}\n{share}" if len(ordered) <= 6 else share,
            (i, count),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
        draw_taps(axes, mask, i, -0.04 * highest, 0.1, 0.06 * highest)
    axes.set_xlim(-0.7, max(len(ordered), 4) - 0.3)
    axes.set_ylim(0, highest * 1.3)
    axes.set_xticks([])
    axes.set_ylabel("kept kernels")
    axes.set_title("Patterns", fontsize=11, loc="left")


@dataclass(frozen=True)
class SweepLine:
    """Milliseconds of a layer at rising densities (0..1), ours and dense; break_even: density, None = never slower."""

    name: str
    densities: Sequence[float]
    ours: Sequence[float]
    dense: Sequence[float]
    break_even: float | None


def draw_sweep(axes: Any, line: SweepLine) -> None:
    """Time against density of ours and of the dense run; the break-even is a dashed line with its density."""
    percent = [100 * density for density in line.densities]
    axes.plot(percent, line.dense, color="#8a8a8a", marker="o", markersize=3, label="torch, dense")
    axes.plot(percent, line.ours, color=OURS, marker="o", markersize=3, label="pconv_ops")
    highest = max([*line.ours, *line.dense])
    if line.break_even is not None:
        at = 100 * line.break_even
        axes.axvline(at, color="#555555", linestyle="--", linewidth=1)
        left = at > 0.7 * max(percent)  # where the text would leave the diagram
        side: dict[str, Any] = {"xytext": (-4 if left else 4, 4), "ha": "right" if left else "left"}
        axes.annotate(f"break-even {at:.0f} %", (at, 0), textcoords="offset points", fontsize=8, **side)
    else:
        axes.annotate("never slower", (0, 0), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_ylim(0, highest * 1.1)
    axes.set_xlim(0, max(percent))
    axes.set_xlabel("kept weights, %")
    axes.set_ylabel("ms")
    axes.set_title(line.name, fontsize=11, loc="left")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def save_sweep_picture(path: str | Path, title: str, lines: Sequence[SweepLine]) -> None:
    """Writes a PNG: a diagram for each line, two or three in a row. ValueError for no lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not lines:
        raise ValueError("lines: expected at least one")
    columns = min(2 if len(lines) <= 8 else 3, len(lines))
    rows = -(-len(lines) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.5 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, line in zip(places, lines, strict=False):
        draw_sweep(axes, line)
    for axes in places[len(lines) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=12, ha="left", x=0.01)
    figure.savefig(path, dpi=110 if columns < 3 else 80, format="png")  # many stay below half a megabyte


def save_speed_picture(
    path: str | Path,
    title: str,
    layers: Sequence[LayerSpeed],
    patterns: Mapping[int, int],
    peak: float | None = None,
) -> None:
    """Writes a PNG: useful GFLOP/s of each layer beside dense, and the histogram of patterns (3x3 mask -> kernels)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    FigureCanvasAgg(figure)
    speeds, histogram = figure.subplots(1, 2, width_ratios=[3, 1])
    draw_speeds(speeds, layers, peak)
    draw_histogram(histogram, patterns)
    for axes in (speeds, histogram):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12, ha="left", x=0.01)
    # Artists below the axes (the drawn masks) take part in the layout, which leaves room for them.
    figure.savefig(path, dpi=110, format="png")


def draw_times(axes: Any, layers: Sequence[LayerTimes]) -> None:
    """Lying bars of milliseconds for each layer, the first on top: ours above dense, the one not chosen hatched; layers
    that were not measured say so."""
    from matplotlib.patches import Patch

    height = 0.4
    for place, layer in enumerate(layers):
        for offset, ms, colour, chosen in (
            (-height / 2, layer.ours, OURS, layer.accelerated),
            (height / 2, layer.dense, DENSE, not layer.accelerated),
        ):
            if ms is not None:
                style = {"color": colour} if chosen else {"facecolor": "none", "edgecolor": colour, "hatch": "////"}
                axes.barh(place + offset, ms, height, **style)
        if layer.ours is not None and layer.dense is not None:
            text, right = f"{layer.dense / layer.ours:.1f}x", max(layer.ours, layer.dense)
        else:
            text, right = "packed, not measured" if layer.accelerated else "dense, not measured", 0.0
        axes.annotate(
            text, (right, place), xytext=(3, 0), textcoords="offset points", ha="left", va="center", fontsize=8
        )
    axes.set_yticks(range(len(layers)), [layer.name for layer in layers], fontsize=8)
    axes.set_ylim(max(len(layers), 1) - 0.5, -0.5)
    highest = max([ms for layer in layers for ms in (layer.ours, layer.dense) if ms is not None], default=1.0)
    axes.set_xlim(0, highest * 1.15)
    axes.set_xlabel("ms on the example, fused operations included")
    handles = [Patch(color=OURS, label="pconv_ops"), Patch(color=DENSE, label="torch, dense")]
    handles.append(Patch(facecolor="none", edgecolor=DENSE, hatch="////", label="not chosen"))
    axes.legend(handles=handles, frameon=False, loc="lower right", fontsize=9)


def save_conversion_picture(path: str | Path, title: str, layers: Sequence[LayerTimes]) -> None:
    """Writes a PNG: the time of each layer of a converted model, packed beside dense."""
    _save_rows(path, title, len(layers), lambda axes: draw_times(axes, layers))


def draw_steps(axes: Any, steps: Sequence[tuple[str, str, float]]) -> None:
    """Lying bars of milliseconds for (name, operator, ms) of each step, the first on top; a colour an operator."""
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    ops = list(dict.fromkeys(op for _, op, _ in steps))
    colours = {op: colormaps["tab10"](i % 10) for i, op in enumerate(ops)}
    for place, (_, op, ms) in enumerate(steps):
        axes.barh(place, ms, 0.8, color=colours[op])
    axes.set_yticks(range(len(steps)), [name for name, _, _ in steps], fontsize=8)
    axes.set_ylim(max(len(steps), 1) - 0.5, -0.5)
    axes.set_xlabel("ms")
    axes.legend(handles=[Patch(color=colours[op], label=op) for op in ops], frameon=False, fontsize=9)


def save_profile_picture(path: str | Path, title: str, steps: Sequence[tuple[str, str, float]]) -> None:
    """Writes a PNG: the time of each step of a compiled network."""
    _save_rows(path, title, len(steps), lambda axes: draw_steps(axes, steps))


def _save_rows(path: str | Path, title: str, rows: int, draw: Callable[[Any], None]) -> None:
    """Writes a PNG of one picture with a row for each of `rows` things."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2 + 0.35 * max(rows, 4)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12, ha="left", x=0.01)
    figure.savefig(path, dpi=110, format="png")
