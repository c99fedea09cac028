"""From which share of kept weights on a pruned layer pays, against the best dense framework: python
bench/reproduce/break_even.py [LAYER ...], after `make rivals`.

A layer of each kind (bench/rivals/models.py has the names), pruned at several rates, takes turns with the same layer in
every dense framework, as bench/rivals/run.py has networks; between measured rates times are read off a line. Writes
docs/results/break-even-<isa>.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rivals"))

from models import write  # noqa: E402
from page import OTHER, OURS, parser_of, table  # noqa: E402
from page import write as write_page  # noqa: E402
from run import BUILD, HERE, Cell, take_turns, workers  # noqa: E402

from pconv_ops.info import cpu_info  # noqa: E402

LAYERS = (
    *("conv64x128x112", "conv256x256x56", "conv128x128x28", "conv512x512x14", "conv64x128x56s2"),
    *("conv256x64x56k1", "conv128x512x28k1"),
)
RATES = ("0", "1", "1.4", "2", "3.1", "6")  # 0: dense; of 3x3 kernels four of nine weights stay otherwise
OUR_FRAMEWORK = "pconv_ops compiled"
# Those that compute all weights, or whose times with zeros are the same.
DENSE = {
    **{"PyTorch": "net.pt", "PyTorch channels_last": "net.pt", "ONNX Runtime": "net.onnx", "OpenVINO": "net.onnx"},
    **{"MNN": "net.mnn", "ncnn": "net.ncnn.param", "LiteRT": "net.tflite"},
}


def prepare(layer: str) -> None:
    """The layer at every rate; the dense one in the forms of all frameworks."""
    for rate in RATES:
        folder = BUILD / "models" / f"{layer}r{rate}"
        if not (folder / "net.pt").exists():
            write(folder.name, folder)
    folder = BUILD / "models" / f"{layer}r0"
    for form in ("net.onnx", *sorted(set(DENSE.values()) - {"net.pt", "net.onnx"})):  # MNN's is made from ONNX
        if not (folder / form).exists():
            command = [str(BUILD / "main" / "bin" / "python"), str(HERE / "convert.py"), str(folder), form]
            subprocess.run(command, check=False, capture_output=True)  # what is missing then has its reason


def measure(layer: str, rounds: int) -> list[Cell]:
    """Ours at every rate, then the dense frameworks."""
    cells = [Cell(f"{layer}r{rate}", 1, OUR_FRAMEWORK) for rate in RATES]
    cells += [Cell(f"{layer}r0", 1, framework) for framework in DENSE]
    with ExitStack() as stack:
        turns = []
        for cell in cells:
            turns += stack.enter_context(workers([cell], BUILD / "models" / cell.net, {}))
        take_turns(turns, rounds)
    return cells


def break_even(points: list[tuple[float, float]], rival: float) -> float | None:
    """The share of weights up to which ours takes no longer than `rival` ms; points: (share, ms). None: at no share."""
    points = sorted(points)
    if points[0][1] > rival:
        return None
    for (low, before), (high, after) in zip(points, points[1:], strict=False):
        if after > rival:
            return low + (high - low) * (rival - before) / (after - before)
    return 1.0


def row_of(layer: str, cells: list[Cell]) -> dict[str, Any]:
    points = []
    for cell in cells[: len(RATES)]:
        if cell.ms is None:
            raise RuntimeError(f"{cell.net}: {cell.reason}")
        kept = json.loads((BUILD / "models" / cell.net / "kept.json").read_text())
        points.append((kept["kept"] / kept["weights"], cell.ms))
    rivals = {cell.framework: cell.ms for cell in cells[len(RATES) :] if cell.ms is not None}
    failed = {cell.framework: cell.reason for cell in cells[len(RATES) :] if cell.ms is None}
    best = min(rivals, key=rivals.__getitem__)
    # Patterns keep four of nine weights at most, where the dense layer is another program.
    most = break_even(points[1:], rivals[best])
    if most == 1.0:
        most = max(points[1:])[0] if points[0][1] > rivals[best] else 1.0
    return {"layer": layer, "ours": points, "rivals": rivals, "failed": failed, "best": best, "break_even": most}


def text(rows: list[dict[str, Any]]) -> str:
    headers = ["layer", "best dense framework", "its ms", "ours dense", *(f"1 of {rate}" for rate in RATES[1:])]
    lines = []
    for row in rows:
        ours = [f"{ms:.2f} ({share:.0%})" for share, ms in row["ours"]]
        share = "at no share" if row["break_even"] is None else f"{row['break_even']:.0%}"
        name = row["layer"].removeprefix("conv")
        lines.append([name, row["best"], f"{row['rivals'][row['best']]:.2f}", *ours, share])
    return (
        "Milliseconds on one thread, batch 1. Ours: one kernel of so many kept, in brackets the share of all weights; "
        "3x3 kernels keep four of nine, 1x1 kernels are pruned in blocks of four filters. Break-even: up to this share "
        "of weights ours is at least as fast as the best of "
        + ", ".join(DENSE)
        + ", which compute all weights. Layers: in x out x side of the input, k: kernel (3), s: stride (1).\n\n"
        + table([*headers, "break-even"], lines)
        + "".join(
            f"\n\n{row['layer'].removeprefix('conv')}, {framework} does not count: {reason}."
            for row in rows
            for framework, reason in row["failed"].items()
        )
    )


def draw(figure: Any, rows: list[dict[str, Any]]) -> None:
    axes = figure.subplots()
    at = np.arange(len(rows))
    axes.bar(at, [row["break_even"] or 0 for row in rows], color=OURS)
    axes.axhline(4 / 9 / 3.1, color=OTHER, linestyle="--", label="four of nine weights of every 3.1th kernel")
    axes.set_xticks(at, [row["layer"].removeprefix("conv") for row in rows], rotation=30, ha="right", fontsize=8)
    axes.set_ylabel("share of weights up to which pruning pays")
    axes.legend()


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("layers", nargs="*", default=LAYERS, metavar="LAYER")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for layer in options.layers:
        prepare(layer)
    rows = []
    for layer in options.layers:
        rows.append(row_of(layer, measure(layer, options.rounds)))
        print(layer, rows[-1]["break_even"], rows[-1]["rivals"], flush=True)
    stem = options.out / f"break-even-{cpu_info()['isa']}"
    write_page(stem, "Break-even against the best dense framework", text(rows), rows, lambda f: draw(f, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
