"""Filter kernel reorder and load redundancy elimination (PCONV, AAAI 2020, section 5), off and on, on VGG-16's 3x3
layers: python bench/reproduce/techniques.py [--isa NAME]. Writes techniques-ISA. Needs `make native`.

reorder off      kernels by channel and filters as they come; every change of the pattern begins a run
elimination off  every tap loads its inputs (a stream of taps), instead of once for all taps of a kernel; such a stream
                 knows no patterns, so reorder has nothing to do there
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from layer_bench import interleaved, layer_bench, ukernels_of
from page import OTHER, OURS, parser_of, table, write

from pconv_ops.info import cpu_info

LAYERS = ("64,64,224,224", "64,128,112,112", "128,128,112,112", "128,256,56,56", "256,256,56,56")
LAYERS += ("256,512,28,28", "512,512,28,28", "512,512,14,14")


def measure(layer: str, isa: str) -> dict[str, Any]:
    call = ("--layer", layer, "--isa", isa)
    streams = [name for name in ukernels_of(isa) if name.startswith("f32_taps1_")]
    calls = {"on": call, "reorder off": (*call, "--no-reorder")}
    calls |= {name: (*call, "--ukernel", name) for name in streams}
    rows = interleaved(calls)
    ms = {name: row["ms"] for name, row in rows.items()}
    off = min(ms[name] for name in streams if name in ms)
    return {"layer": layer, "on": ms["on"], "reorder off": ms["reorder off"], "elimination off": off}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--isa", default=cpu_info()["isa"])
    args = parser.parse_args()
    layer_bench("--layer", LAYERS[0], "--runs", 1, "--no-timing")  # builds are noticed before minutes of measuring
    rows = [measure(layer, args.isa) for layer in LAYERS]
    kinds = ("on", "reorder off", "elimination off")
    total = {"layer": "sum", **{kind: sum(row[kind] for row in rows) for kind in kinds}}
    lines = [
        [row["layer"].replace(",", "x"), *(f"{row[kind]:.3f}" for kind in kinds)]
        + [f"{row[kind] / row['on']:.2f}x" for kind in kinds[1:]]
        for row in (*rows, total)
    ]
    headers = ["layer", "ms", "reorder off, ms", "elimination off, ms", "reorder gains", "elimination gains"]
    text = f"""One thread, 6.98 times fewer weights (SCPs, one kernel of 3.1), medians of interleaved passes.
*reorder off*: kernels by channel, filters in the layer's order, no merged runs. *elimination off*: the fastest ukernel
that loads inputs for each tap. The gains are not multiplied: a stream of taps has no use for an order by patterns.

{table(headers, lines)}"""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for i, (kind, colour) in enumerate(zip(kinds, (OURS, "#d08c2c", OTHER), strict=True)):
            axes.bar(
                [k + 0.27 * i for k in range(len(rows))], [row[kind] for row in rows], 0.25, color=colour, label=kind
            )
        axes.set_xticks(
            [k + 0.27 for k in range(len(rows))], [row["layer"].rsplit(",", 1)[0] for row in rows], fontsize=7
        )
        axes.set_ylabel("ms")
        axes.legend()

    title = "Filter kernel reorder and load redundancy elimination"
    write(args.out / f"techniques-{args.isa}", title, text, rows, draw, isa=args.isa)
    return 0


if __name__ == "__main__":
    sys.exit(main())
