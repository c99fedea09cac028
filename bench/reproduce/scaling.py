"""Compiled networks on 1, 2, ... threads: python bench/reproduce/scaling.py [--threads 1 2]. Writes scaling-ISA.

Each number of threads takes its turn in every round.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rivals"))

from models import NETS, model_of
from page import parser_of, table, write

import pconv_ops
from pconv_ops.info import cpu_info
from pconv_ops.timing import interleave, keep_freed_memory


def measure(net: str, threads: list[int], rounds: int) -> dict[str, Any]:
    model, x = model_of(net)
    runs = {}
    for n in threads:
        pconv_ops.set_num_threads(n)
        network = pconv_ops.compile(model, x)

        def run(n: int = n, network: Any = network) -> object:
            pconv_ops.set_num_threads(n)
            return network(x)

        runs[str(n)] = run
    return {"net": net, "ms": {int(n): ms for n, ms in interleave(runs, rounds).items()}}


def main() -> int:
    parser = parser_of(__doc__)
    cpus = cpu_info()["cpus"]
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, *range(2, cpus + 1, 2), cpus}))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    keep_freed_memory()
    rows = [measure(net, args.threads, args.rounds) for net in NETS]
    first = args.threads[0]
    lines = [
        [row["net"], *(f"{row['ms'][n]:.3f}" for n in args.threads)]
        + [f"{row['ms'][first] / row['ms'][n]:.2f}x" for n in args.threads[1:]]
        for row in rows
    ]
    headers = ["", *(f"{n}, ms" for n in args.threads), *(f"{n} against {first}" for n in args.threads[1:])]
    text = f"Compiled networks, pruned as for the rivals, columns: threads.\n\n{table(headers, lines)}"
    write(args.out / f"scaling-{cpu_info()['isa']}", "Threads", text, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
