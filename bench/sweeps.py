"""Records time against density, from 0 to 100 % of the weights, of one layer of each kind: `make bench-sweep`.

    python bench/sweeps.py [--isa NAME] [--out docs/results]

Writes density-<isa>.json (all rows, with CPU, date and command), density-<isa>.png (break-even marked) and
density-<isa>.md (a table). Layers and rules are those of `pconv bench --sweep density --threads 1`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from pconv_ops.cases import BenchOptions
from pconv_ops.cli_common import track
from pconv_ops.info import cpu_info
from pconv_ops.sweep import Sweep, draw_sweeps, geometry_text, sweep_kinds, sweeps_text

SHOWN = (0.1, 0.3, 0.5, 1.0)  # shares of kernels, or of a depthwise layer's taps, that stay: columns of the table


def table(sweeps: Sequence[Sweep]) -> str:
    """Markdown: a line for each sweep."""
    shares = " | ".join(f"{100 * share:.0f} %" for share in SHOWN)
    lines = [f"| layer | sizes | pruned by | break-even | {shares} |", "|---" * (4 + len(SHOWN)) + "|"]
    for sweep in sweeps:
        cells = [sweep.label, geometry_text(sweep.rows[0]), sweep.title.partition(", ")[2], break_even_text(sweep)]
        cells += [f"{speedup_at(sweep, share):.2f}" for share in SHOWN]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def break_even_text(sweep: Sweep) -> str:
    """In % of the weights."""
    return "never slower" if sweep.break_even is None else f"{100 * sweep.break_even:.0f} %"


def speedup_at(sweep: Sweep, share: float) -> float:
    """Of the row whose share is the nearest: densities rise with shares, to 4/9 where kernels have patterns."""
    densest = max(row["density"] for row in sweep.rows)
    return min(sweep.rows, key=lambda row: abs(row["density"] / densest - share))["speedup"]


def page(sweeps: Sequence[Sweep], about: dict[str, str], picture: str) -> str:
    """The whole Markdown file."""
    conditions = sweeps_text(sweeps).splitlines()[-1]
    return f"""# Time against density

{conditions}. Written on {about["date"]} by `{about["command"]}`.

Ours, forced, against torch's dense convolution on the same weights, in its better layout. Break-even: up to which share
of kept weights ours is not slower. The last columns say how many times faster ours is when so many of the kernels stay
(depthwise: taps of each kernel, the nearest number). With patterns at most 4 of 9 weights stay.

{table(sweeps)}

![time against density]({picture})
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", help="instruction set (default: the best)")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder (default docs/results)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sweeps = sweep_kinds(BenchOptions(threads=1, isa=args.isa), track)
    rows = [row for sweep in sweeps for row in sweep.rows]
    command = "python bench/sweeps.py" + (f" --isa {args.isa}" if args.isa else "")
    about = {"command": command, "date": str(date.today()), "cpu": cpu_info()["model"]}
    target = args.out / f"density-{rows[0]['isa']}"
    content = json.dumps({**about, "isa": rows[0]["isa"], "threads": 1, "rows": rows}, indent=1)
    target.with_suffix(".json").write_text(content + "\n", encoding="utf-8")
    draw_sweeps(str(target.with_suffix(".png")), sweeps)
    target.with_suffix(".md").write_text(page(sweeps, about, f"{target.name}.png"), encoding="utf-8")
    print(sweeps_text(sweeps))


if __name__ == "__main__":
    main()
