"""Tables 1 and 2 of PCONV (AAAI 2020): four, eight and twelve patterns against time, VGG-16's convolutions for
CIFAR and ImageNet; python bench/reproduce/pattern_counts.py. Writes pattern-counts-ISA.

Compiled networks with weights pruned 2.25x by patterns and 8.8x (CIFAR) or 3.1x by connectivity, as in the paper, timed
in turns: on one and two threads, and on an OpenCL device (PCONV_OPENCL_DEVICE; else what is there) by the device's
clock.
"""

from __future__ import annotations

import sys
from typing import Any

from page import parser_of, table, write

import pconv_ops
from pconv_ops import BackendUnavailable
from pconv_ops.cases import BenchOptions, net_cases
from pconv_ops.info import cpu_info
from pconv_ops.opencl_bench import on_device, turns
from pconv_ops.timing import interleave, keep_freed_memory

SETS = {4: "scp4", 8: "random8", 12: "random12"}
NETS = {"Table 1, CIFAR": ("vgg16_cifar", 8.8), "Table 2, ImageNet": ("vgg16", 3.1)}
# Milliseconds on a Galaxy S10 (Kryo 485, Adreno 640), from the paper.
PAPER = {
    "Table 1, CIFAR": {"CPU": (2.7, 2.9, 3.1), "GPU": (2.9, 3.0, 3.3)},
    "Table 2, ImageNet": {"CPU": (52.7, 58.9, 105.2), "GPU": (19.1, 22.0, 32.1)},
}


def measure(net: str, connectivity: float, rounds: int) -> tuple[dict[str, dict[int, float]], str]:
    """({what runs it: {patterns: ms}}, the OpenCL device or why there is none)."""
    nets = {n: net_cases(net, BenchOptions(connectivity, patterns=name))[:2] for n, name in SETS.items()}
    found: dict[str, dict[int, float]] = {}
    for threads in (1, 2):
        pconv_ops.set_num_threads(threads)
        compiled = {n: (pconv_ops.compile(model, x), x) for n, (model, x) in nets.items()}
        runs = {str(n): (lambda network=network, x=x: network(x)) for n, (network, x) in compiled.items()}
        found[f"CPU, {threads} thread{'s' if threads > 1 else ''}"] = {
            int(n): ms for n, ms in interleave(runs, rounds).items()
        }
    try:
        pairs = [on_device(model, x, None) for model, x in nets.values()]
    except BackendUnavailable as error:
        return found, str(error)
    times = turns([session for _, session in pairs], rounds)
    found["OpenCL"] = dict(zip(nets, (sum(nodes.values()) for nodes in times), strict=True))
    return found, pairs[0][0].device.info.title


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    device = ""
    for name, (net, connectivity) in NETS.items():
        found, device = measure(net, connectivity, args.rounds)
        rows += [{"table": name, "on": on, "ms": times} for on, times in found.items()]
    lines = []
    for row in rows:
        times = row["ms"]
        paper = PAPER[row["table"]]["GPU" if row["on"] == "OpenCL" else "CPU"]
        cells = [f"{times[n]:.3f}" for n in SETS] + [f"{times[n] / times[4]:.3f}" for n in (8, 12)]
        lines.append([f"{row['table']}: {row['on']}", *cells, *(f"{ms / paper[0]:.3f}" for ms in paper[1:])])
    headers = ["", *(f"{n} patterns, ms" for n in SETS), "8 / 4", "12 / 4", "paper 8 / 4", "paper 12 / 4"]
    text = f"""Four: the SCPs; eight and twelve: these and random masks of four taps. OpenCL: {device}. The paper's
times are a Galaxy S10's. What patterns cost in accuracy: [fashion_mnist.md](fashion_mnist.md).

{table(headers, lines)}"""
    title = "Pattern counts against time (PCONV, Tables 1 and 2)"
    write(args.out / f"pattern-counts-{cpu_info()['isa']}", title, text, rows, device=device, paper=PAPER)
    return 0


if __name__ == "__main__":
    sys.exit(main())
