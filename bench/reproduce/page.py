"""What scripts leave in docs/results/: JSON with all rows and facts, Markdown with a table, maybe a picture."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pconv_ops.info import cpu_info

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
OURS, OTHER = "#0b6e4f", "#b8b8b8"


def parser_of(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder for the report (default docs/results)")
    return parser


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    lines = [headers, ["---"] + ["---:"] * (len(headers) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write(
    stem: Path,
    title: str,
    text: str,
    rows: Sequence[dict[str, Any]],
    draw: Callable[[Any], None] | None = None,
    size: tuple[float, float] = (9, 4),
    **facts: object,
) -> None:
    """STEM.json, .md and, where `draw` draws into a figure, .png. text: Markdown below the title."""
    info = cpu_info()
    about = {"command": " ".join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d"), "cpu": info["model"]}
    about |= {"isa": info["isa"], **facts}  # facts may say that all this was elsewhere
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    head = f"# {title}\n\n`{about['command']}`, {about['date']}: {about['cpu']}, {about['isa']}.\n\n"
    picture = f"\n![{title}]({stem.name}.png)\n" if draw is not None else ""
    stem.with_suffix(".md").write_text(head + text.strip() + "\n" + picture, encoding="utf-8")
    if draw is not None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(stem.with_suffix(".png"), dpi=110)
    print(stem.with_suffix(".md").read_text(encoding="utf-8"))
