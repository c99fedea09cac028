"""Times every ukernel on every shape of bench/shapes and compares the plan's choice with the fastest.

    python bench/tiles.py [--isa avx512] [--json docs/results/tiles-avx512.json]

The table is the data that the cost formula of src/plan.cpp is fitted to: after a change of a ukernel or on a new kind
of machine, run it, and adjust the costs in src/kernels/simd/<isa>.h until the plan chooses well.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

from layer_bench import interleaved, layer_bench, ukernels_of
from shape_list import read_shapes, shape_id

from pconv_ops.info import cpu_info

CONNECTIVITY = {"vgg16": 3.1, "vgg16_cifar": 8.8}


def measure(isa: str) -> list[dict[str, Any]]:
    """A row for each shape: ms by ukernel, and which one the plan takes."""
    rows = []
    for net, connectivity in CONNECTIVITY.items():
        for spec in read_shapes(net).values():
            layer = ("--layer", f"{spec.ic},{spec.oc},{spec.h},{spec.w}", "--connectivity", connectivity, "--isa", isa)
            chosen = layer_bench(*layer, "--runs", 1, "--no-timing")
            assert chosen is not None
            timed = interleaved({name: (*layer, "--ukernel", name) for name in ukernels_of(isa) if "taps" not in name})
            ms = {name: row["ms"] for name, row in timed.items()}
            rows.append({"shape": shape_id(spec), "connectivity": connectivity, "chosen": chosen["ukernel"], "ms": ms})
            print(row_text(rows[-1]), flush=True)
    return rows


def row_text(row: dict[str, Any]) -> str:
    """One line: what was chosen, and what it costs against the fastest."""
    ms = row["ms"]
    best = min(ms, key=ms.__getitem__)
    lost = ms[row["chosen"]] / ms[best] - 1
    others = "  ".join(f"{name} {value:.3f}" for name, value in sorted(ms.items(), key=lambda item: item[1]))
    return f"{row['shape']:<16} chosen {row['chosen']}, {100 * lost:.1f} % behind the best: {others}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", default="avx512")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()
    rows = measure(args.isa)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        machine = cpu_info()["model"]
        about = {"command": f"python bench/tiles.py --isa {args.isa}", "date": str(date.today()), "cpu": machine}
        args.json.write_text(json.dumps({**about, "isa": args.isa, "threads": 1, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
