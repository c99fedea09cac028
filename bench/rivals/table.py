"""The report of run.py: JSON, a Markdown table, a picture. Knows only plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OURS = "pconv_ops compiled"
OWN = (OURS, "pconv_ops converted")
MARKED = ("OpenVINO default precision",)  # not fp32: shown, not compared


def fastest_rival(cells: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Of the cells of one network and number of threads: the fastest in fp32 that is not ours."""
    rivals = [cell for cell in cells if cell["ms"] and cell["framework"] not in (*OWN, *MARKED)]
    return min(rivals, key=lambda cell: cell["ms"], default=None)


def grouped(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], list[Mapping[str, Any]]]:
    """By network and threads."""
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for cell in cells:
        found.setdefault((cell["net"], cell["threads"]), []).append(cell)
    return found


def markdown(facts: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str:
    """Milliseconds: a row a framework, a column a network and number of threads; the fastest rival in bold."""
    columns = grouped(cells)
    frameworks = list(dict.fromkeys(cell["framework"] for cell in cells))
    versions = {cell["framework"]: cell["version"] for cell in cells if cell["version"]}
    best = {column: fastest_rival(own) for column, own in columns.items()}
    lines = [
        "| ms | " + " | ".join(f"{net}, {threads}" for net, threads in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for framework in frameworks:
        row = []
        for column, own in columns.items():
            cell = next(cell for cell in own if cell["framework"] == framework)
            text = f"{cell['ms']:.2f}" if cell["ms"] else "failed"
            row.append(f"**{text}**" if cell is best[column] else text)
        name = f"{framework} {versions.get(framework, '')}".strip() + (" (not fp32)" if framework in MARKED else "")
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    ratios = []
    for column, own in columns.items():
        ours, rival = next((cell for cell in own if cell["framework"] == OURS), None), best[column]
        both = ours is not None and ours["ms"] and rival is not None
        ratios.append(f"{rival['ms'] / ours['ms']:.2f}x" if both and ours and rival else "-")
    lines.append("| fastest fp32 rival against ours, compiled | " + " | ".join(ratios) + " |")
    failed = [f"- {c['framework']}, {c['net']}, {c['threads']}: {c['reason']}" for c in cells if c["reason"]]
    peaks = ", ".join(f"{peak:.0f} GFLOP/s with {n}" for n, peak in facts["fma_peak_gflops"].items())
    limits = ", ".join(f"{name}={value}" for name, value in facts["limits"].items())
    return (
        "\n".join(
            [
                f"`{facts['command']}`, {facts['date']}: {facts['cpu']}, ours on {facts['isa']}, FMA peak {peaks} "
                f"threads; medians of {facts['rounds']} interleaved rounds, batch 1, columns: network, threads."
                + (f" Limited by {limits}." if limits else ""),
                "",
                *lines,
                "",
                *failed,
            ]
        ).rstrip()
        + "\n"
    )


def draw(path: Path, facts: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> None:
    """Bars of milliseconds, a plot for each network and number of threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = grouped(cells)
    figure = Figure(figsize=(9, 0.5 + 2.2 * len(columns)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(columns), 1, squeeze=False)[:, 0]
    for one, ((net, threads), own) in zip(axes, columns.items(), strict=True):
        shown = sorted((cell for cell in own if cell["ms"]), key=lambda cell: cell["ms"])
        names = [cell["framework"] + ("*" if cell["framework"] in MARKED else "") for cell in shown]
        colours = ["#0b6e4f" if cell["framework"] in OWN else "#b8b8b8" for cell in shown]
        bars = one.barh(names, [cell["ms"] for cell in shown], color=colours)
        one.bar_label(bars, [f"{cell['ms']:.2f}" for cell in shown], padding=2, fontsize=7)
        one.invert_yaxis()
        one.tick_params(labelsize=7)
        one.set_title(f"{net}, {threads} thread{'s' if threads > 1 else ''}: ms", fontsize=9)
    figure.suptitle(f"{facts['cpu']}, {facts['date']}; *: not fp32", fontsize=9)
    figure.savefig(path, dpi=110)


def write_report(stem: Path, facts: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> None:
    """STEM.json, .md and .png."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**facts, "cells": cells}, indent=1) + "\n"
    stem.with_suffix(".json").write_text(text, encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown(facts, cells), encoding="utf-8")
    draw(stem.with_suffix(".png"), facts, cells)
