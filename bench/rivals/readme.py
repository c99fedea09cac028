"""Puts what run.py measured into README.md, between two marks: python bench/rivals/readme.py [--check]."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from table import MARKED, OURS, OWN, fastest_rival, grouped

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- rivals: written by bench/rivals/readme.py -->\n", "<!-- rivals end -->\n"
MEASURED = ROOT / "docs" / "results" / "rivals-avx512.json"


def block(measured: Mapping[str, Any]) -> str:
    """A line for each network and number of threads: ours, the fastest rival, the others."""
    shown = list(dict.fromkeys(cell["framework"] for cell in measured["cells"]))
    others = [name for name in shown if name not in (*OWN, *MARKED)]
    lines = [
        "| network, threads | ours, ms | fastest rival | ours is faster | others, ms |",
        "|---|---:|---|---:|---|",
    ]
    for (net, threads), cells in grouped(measured["cells"]).items():
        ms = {cell["framework"]: cell["ms"] for cell in cells if cell["ms"]}
        rival = fastest_rival(cells)
        assert rival is not None
        rest = ", ".join(f"{name} {ms[name]:.2f}" for name in others if name in ms and name != rival["framework"])
        first = f"| {net}, {threads} | {ms[OURS]:.2f} | {rival['framework']} {rival['ms']:.2f} "
        lines.append(f"{first}| {rival['ms'] / ms[OURS]:.2f}x | {rest} |")
    peak = measured["fma_peak_gflops"]["1"]
    about = f"`{measured['command']}`, {measured['date']}, {measured['cpu']}, FMA peak {peak:.0f} GFLOP/s a core"
    return "\n".join([about + ":", "", *lines]) + "\n"


def with_block(text: str, measured: Mapping[str, Any]) -> str:
    """A page whose part between the marks is replaced."""
    head, rest = text.split(BEGIN)
    return head + BEGIN + block(measured) + END + rest.split(END)[1]


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    written = with_block(text, json.loads(MEASURED.read_text(encoding="utf-8")))
    if "--check" in sys.argv[1:]:
        return int(text != written)
    readme.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
