"""Instructions of pruned layers on an emulated Cortex-A76, ours beside MNN's dense and sparse modes, the same weights:
python bench/aarch64/beside_mnn.py [LAYER ...].

`make aarch64-rivals` sets up what it needs and runs it: VGG-16's nine unique layers and those of ResNet-18 and -50.
Counted are runs alone, without start-up, loading and weights that are prepared: of ours the difference between N and
2N, of MNN, whose start-up differs from process to process, what lies between two marks. Outputs are compared with
torch's. Input and output are NCHW, as everywhere in these reports: MNN converts its output within the run, and what
it takes to bring the input into its layout is counted apart and added. Writes docs/results/aarch64-mnn.md, .json, .png.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "bench" / "rivals"), str(ROOT / "bench" / "reproduce")]

from count import BUILD, QEMU, build_plugin, difference, per_run, run_counted  # noqa: E402
from models import LAYERS, RESNET_LAYERS, write  # noqa: E402
from page import OTHER, OURS, parser_of, table  # noqa: E402
from page import write as write_page  # noqa: E402

import pconv_ops  # noqa: E402

MODELS = ROOT / "build" / "rivals" / "aarch64-layers"
CONVERTER = ROOT / "build" / "rivals" / "main" / "bin" / "python"  # has MNN's, of this machine
PYTHON = ROOT / "build" / "aarch64-python"  # scripts/aarch64_python.sh
EMULATED = ["qemu-aarch64", "-cpu", "cortex-a76", "-L", str(PYTHON / "root"), "-E", f"PYTHONPATH={PYTHON / 'site'}"]
FORMS = {"MNN": "net.mnn", "MNN sparse": "net_sparse.mnn"}
TOLERANCE = 1e-3  # of the largest output, as bench/rivals/run.py has it
RUNS = 2


def prepare(layer: str) -> Path:
    """The layer's folder: torch's output, MNN's files, ours."""
    folder = MODELS / layer
    if not (folder / "net.pconv").exists():
        write(layer, folder)
        for form in ("net.onnx", *FORMS.values()):
            command = [str(CONVERTER), str(ROOT / "bench" / "rivals" / "convert.py"), str(folder), form]
            subprocess.run(command, check=True, capture_output=True)
        model = torch.export.load(folder / "net.pt2").module()
        compiled = pconv_ops.compile(model, torch.from_numpy(np.load(folder / "input.npy")), check=False)
        compiled.save(folder / "net.pconv")
    return folder


def check(layer: str, name: str, off: float) -> None:
    if not off <= TOLERANCE:
        raise RuntimeError(f"{layer}, {name}: outputs deviate from torch's by {off:.1e}")


def count_ours(layer: str, folder: Path) -> dict[str, Any]:
    program = [str(BUILD / "apps" / "pconv_run"), str(folder / "net.pconv"), "--input", str(folder / "input.npy")]
    program += ["--threads", "1", "--output", str(folder / "got.npy"), "--repeat"]
    _, counts = per_run(QEMU, lambda runs: [*program, str(runs)], RUNS)
    got, want = np.load(folder / "got.npy"), np.load(folder / "want.npy")
    off = float(np.abs(got - want).max() / np.abs(want).max())
    check(layer, "pconv_ops", off)
    return counts._asdict() | {"deviation": off}


def count_mnn(layer: str, folder: Path, name: str) -> dict[str, Any]:
    program = [str(PYTHON / "root/usr/bin/python3.11"), str(HERE / "mnn_run.py"), str(folder), FORMS[name], str(RUNS)]
    printed, (begin, middle, end, _) = run_counted(EMULATED, program)
    off = float(printed.split()[-1])
    check(layer, name, off)
    layout = difference(end, middle, RUNS)
    return difference(middle, begin, RUNS)._asdict() | {"layout_insns": layout.insns, "deviation": off}


def count_layer(folder: Path, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """known: rows of an earlier report, by layer, from which MNN's counts are taken."""
    layer = folder.name
    row: dict[str, Any] = {"layer": layer, **json.loads((folder / "kept.json").read_text())}
    row["pconv_ops"] = count_ours(layer, folder)
    row |= {name: known[layer][name] if layer in known else count_mnn(layer, folder, name) for name in FORMS}
    print(layer, *(f"{name} {row[name]['insns']:,}" for name in ("pconv_ops", *FORMS)), flush=True)
    return row


def ratio(row: dict[str, Any]) -> float:
    """Our instructions by those of MNN's better mode, its input's layout included."""
    return row["pconv_ops"]["insns"] / min(row[name]["insns"] + row[name]["layout_insns"] for name in FORMS)


def version() -> str:
    requirements = (ROOT / "bench" / "rivals" / "requirements.txt").read_text()
    return next(line for line in requirements.splitlines() if line.startswith("MNN=="))


def text(rows: list[dict[str, Any]]) -> str:
    headers = ["layer", "ours, M", "FMLA, M", "a FMLA"]
    headers += [title for name in FORMS for title in (f"{name}, M", "FMLA, M", "a FMLA")]
    lines = []
    for row in rows:
        cells: list[object] = [row["layer"].removeprefix("conv")]
        for name in ("pconv_ops", *FORMS):
            insns, fmla = row[name]["insns"], row[name]["fmla"]
            cells += [f"{1e-6 * insns:.1f}", f"{1e-6 * fmla:.1f}", f"{insns / fmla:.2f}" if fmla else "-"]
        layout = min(row[name]["layout_insns"] for name in FORMS)
        lines.append([*cells, f"{1e-6 * layout:.1f}", f"{ratio(row):.2f}"])
    return (
        "Instructions and FMLA of one run, one thread, in millions; `a FMLA`: instructions for each. Layers: "
        "in x out x side of the input, k: kernel (3), s: stride (1); 3x3 layers keep four of nine weights of every "
        f"3.1th kernel, 1x1 layers a block of four filters of every 3.1th, 3x64x224 all. {version()}, precision high. "
        "Layout: what MNN takes to bring an NCHW input into its own layout. Last column: ours by MNN's better mode "
        "with that.\n\n" + table([*headers, "layout, M", "ours / better"], lines)
    )


def draw(figure: Any, rows: list[dict[str, Any]]) -> None:
    axes = figure.subplots()
    at = np.arange(len(rows))
    colours = {"pconv_ops": OURS, "MNN": OTHER, "MNN sparse": "#707070"}
    for i, (name, colour) in enumerate(colours.items()):
        axes.bar(at + 0.27 * (i - 1), [1e-6 * row[name]["insns"] for row in rows], 0.26, label=name, color=colour)
    axes.set_xticks(at, [row["layer"].removeprefix("conv") for row in rows], rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("million instructions a run")
    axes.legend()


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("layers", nargs="*", default=[*LAYERS, *RESNET_LAYERS], metavar="LAYER")
    parser.add_argument("--ours", action="store_true", help="count ours alone: MNN's counts are those of the report")
    options = parser.parse_args()
    report, known = options.out / "aarch64-mnn", {}
    if options.ours:
        known = {row["layer"]: row for row in json.loads(report.with_suffix(".json").read_text())["rows"]}
    build_plugin()
    folders = [prepare(layer) for layer in options.layers]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(lambda folder: count_layer(folder, known), folders))
    where = {"cpu": "emulated Cortex-A76 (qemu-user)", "isa": "neon"}
    title = "Instructions beside MNN, aarch64"
    write_page(report, title, text(rows), rows, lambda f: draw(f, rows), (11, 5), **where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
