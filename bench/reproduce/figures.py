"""Figures 7 and 8 of PCONV (AAAI 2020) from what `make rivals` measured: python bench/reproduce/figures.py [--isa ISA].

Reads rivals-ISA.json and layers-ISA.json in docs/results/; writes figure7-ISA (networks, milliseconds) and figure8-ISA
(the nine unique layers of VGG-16, useful GFLOP/s of ours, of MNN and of the fastest rival).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rivals"))

from page import OTHER, OURS, parser_of, table, write
from table import MARKED, fastest_rival, grouped
from table import OURS as OUR_FRAMEWORK

from pconv_ops.info import cpu_info

# The paper's networks, and how many times faster it was there than each framework on the CPU (section Performance).
NETS = ("vgg16", "resnet50", "mobilenet_v2", "vgg16_cifar", "resnet50_cifar", "mobilenet_v2_cifar")
PAPER = "On a Galaxy S10's CPU the paper is 1.7 to 6.3 times faster than MNN and 9.4 to 39.2 times than TFLite."


def facts_of(measured: dict[str, Any]) -> dict[str, Any]:
    """Where and when it was measured, not drawn."""
    return {key: measured[key] for key in ("date", "cpu", "isa")}


def figure7(out: Path, isa: str, measured: dict[str, Any]) -> None:
    cells = [cell for cell in measured["cells"] if cell["net"] in NETS and cell["threads"] == 1]
    columns = {net: own for (net, _), own in grouped(cells).items()}
    frameworks = list(dict.fromkeys(cell["framework"] for cell in cells))
    ms = {(cell["net"], cell["framework"]): cell["ms"] for cell in cells}
    nets = [net for net in NETS if net in columns and ms[net, OUR_FRAMEWORK]]
    lines = [
        [name + (" (not fp32)" if name in MARKED else "")]
        + [f"{ms[net, name] / ms[net, OUR_FRAMEWORK]:.2f}x" if ms[net, name] else "failed" for net in nets]
        for name in frameworks
    ]
    lines.append([f"{OUR_FRAMEWORK}, ms", *(f"{ms[net, OUR_FRAMEWORK]:.2f}" for net in nets)])

    def draw(figure: Any) -> None:
        for axes, net in zip(figure.subplots(2, 3).flat, nets, strict=False):
            shown = [name for name in frameworks if ms[net, name]]
            colours = [OURS if name.startswith("pconv") else OTHER for name in shown]
            axes.barh(
                [name + ("*" if name in MARKED else "") for name in shown],
                [ms[net, name] for name in shown],
                color=colours,
            )
            axes.invert_yaxis()
            axes.tick_params(labelsize=6)
            axes.set_title(f"{net}, ms", fontsize=8)

    text = f"""One thread; how many times as long as ours each takes, from `{measured["command"]}`.
{PAPER}

{table(["", *nets], lines)}"""
    write(
        out / f"figure7-{isa}",
        "Networks and frameworks (PCONV, Figure 7)",
        text,
        cells,
        draw,
        size=(11, 6),
        **facts_of(measured),
    )


def figure8(out: Path, isa: str, measured: dict[str, Any]) -> None:
    cells = [cell for cell in measured["cells"] if cell["threads"] == 1]
    macs = {layer: counts["kept_macs"] for layer, counts in measured["weights"].items()}
    rows, lines = [], []
    for (layer, _), own in grouped(cells).items():
        by_name = {cell["framework"]: cell["ms"] for cell in own}
        rival = fastest_rival(own)
        mnn = min((ms for name, ms in by_name.items() if name.startswith("MNN") and ms), default=None)
        if rival is None or mnn is None or not by_name[OUR_FRAMEWORK]:
            print(f"{layer}: ours, MNN or every rival failed: left out", file=sys.stderr)
            continue
        times = {"ours": by_name[OUR_FRAMEWORK], "MNN": mnn, "best": rival["ms"]}
        gflops = {name: 2e-6 * macs[layer] / ms for name, ms in times.items()}
        rows.append({"layer": layer, "rival": rival["framework"], "ms": times, "gflops": gflops})
        lines.append([layer, *(f"{value:.1f}" for value in gflops.values()), f"{times['ours']:.3f}"])
        lines[-1] += [rival["framework"], f"{times['best'] / times['ours']:.2f}x"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        kinds = (("ours", OURS, "pconv_ops"), ("MNN", "#d08c2c", "MNN, its better mode"), ("best", OTHER, "best rival"))
        for i, (kind, colour, label) in enumerate(kinds):
            places = [k + 0.27 * i for k in range(len(rows))]
            axes.bar(places, [row["gflops"][kind] for row in rows], 0.25, color=colour, label=label)
        axes.axhline(measured["fma_peak_gflops"]["1"], color="black", linestyle="--", linewidth=0.8)
        axes.set_xticks([k + 0.27 for k in range(len(rows))], [row["layer"][4:] for row in rows], fontsize=7)
        axes.set_ylabel("useful GFLOP/s; dashed: FMA peak")
        axes.legend(fontsize=8)

    headers = ["layer", "ours, GFLOP/s", "MNN", "best rival", "ours, ms", "which rival", "ours is faster"]
    text = f"""One thread, 2 x kept multiply-adds / time, from `{measured["command"]}`; FMA peak
{measured["fma_peak_gflops"]["1"]:.0f} GFLOP/s. The first layer is dense everywhere. Work that
an algorithm does beyond the kept weights does not count.

{table(headers, lines)}"""
    write(out / f"figure8-{isa}", "Layers of VGG-16 (PCONV, Figure 8)", text, rows, draw, **facts_of(measured))


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--isa", default=cpu_info()["isa"])
    args = parser.parse_args()
    for name, draw in (("rivals", figure7), ("layers", figure8)):
        path = args.out / f"{name}-{args.isa}.json"
        if not path.exists():
            print(f"{path}: not there; `make rivals` writes it", file=sys.stderr)
            return 1
        draw(args.out, args.isa, json.loads(path.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
