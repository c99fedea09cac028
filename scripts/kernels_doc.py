"""Writes docs/KERNELS.md, the tables of ukernels, instruction sets and patterns: kernels_doc.py [--check].

Reads the sources (src/isas.def, src/kernels/, include/pconv/patterns.def), not the build, so that every ISA is listed
wherever it runs. --check writes nothing and exits with 1 when the page is not what would be written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "KERNELS.md"
TEMPLATE = """\
<!-- Written by scripts/kernels_doc.py: change the sources it names and run it again. -->
# Ukernels, instruction sets, patterns

`conv3x3` and `map3x3` compute 3x3 convolutions with stride 1 and dilation 1, `taps` any other convolution, all in fp32.
A plan takes the one of its instruction set that is predicted to need the least work for the layer's shape
(`src/plan.cpp`).

## Ukernels (`src/kernels/table.inl`)

{ukernels}
*Sums*: vectors of the left, the centre and the right tap column, held in registers where the register file is large
enough. *Carry*: bytes that a filter leaves to the tile on the right. *Tile*: bytes of an input channel in the packed
input window, which has two rows more than the outputs. `map3x3` holds a whole map that is padded by 1, of w columns
and h rows with h * (w + 1) at most the lanes of its vectors, and has sums for every tap; above three vectors only for
those of the cross, so that it takes layers whose patterns lie within it, as the SCPs do. The number behind `taps` is
how many filters share every load; more than one only where they keep the same kernels. The tile depends on the layer.

## Instruction sets (`src/isas.def`, best first)

{isas}
## Patterns (`include/pconv/patterns.def`)

{n_patterns} specialised 3x3 masks. Any other mask runs as the smallest one that contains it.

{patterns}"""


class Isa(NamedTuple):
    name: str
    architecture: str
    features: str
    flags: str
    lanes: int


class Ukernel(NamedTuple):
    name: str
    isa: Isa
    rows: int
    vectors: int
    sums: int
    tile_floats: int
    carry_floats: int


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def find(pattern: str, text: str, where: str) -> str:
    match = re.search(pattern, text, re.DOTALL)
    if match is None:
        sys.exit(f"kernels_doc.py: {where} does not look as expected: nothing matches {pattern}")
    return match[1]


def constant(name: str, path: str) -> int:
    return int(find(rf"constexpr int {name} = (\d+);", read(path), path))


def isas() -> list[Isa]:
    found = []
    rows = re.findall(r'^PCONV_ISA\((\w+), (\w+), "([^"]*)", "([^"]*)"\)', read("src/isas.def"), re.MULTILINE)
    for name, architecture, features, flags in rows:
        header = f"src/kernels/simd/{name}.h"
        found.append(Isa(name, architecture, features, flags, constant("kLanes", header)))
    return found


def table_rows(lanes: int) -> str:
    """The table's specialisation for so many lanes, or its general form."""
    text = read("src/kernels/table.inl")
    special = rf"struct Tiles<V, {lanes}> \{{(.*?)\n\}};"
    return find(special if re.search(special, text, re.DOTALL) else r"struct Tiles \{(.*?)\n\};", text, "table.inl")


def carry_floats(isa: Isa, rows: int) -> int:
    """Evaluates kCarryFloats of conv3x3.inl, so that the formula stands there alone."""
    text = read("src/kernels/conv3x3.inl")
    formula = find(r"constexpr int kCarryFloats =\s+([^;]+);", text, "conv3x3.inl").replace("/", "//")
    last_lanes = constant("kLastLanes", f"src/kernels/simd/{isa.name}.h")
    for name, value in {"Vec::kLanes": isa.lanes, "Vec::kLastLanes": last_lanes, "kRows": rows}.items():
        formula = formula.replace(name, str(value))
    return int(eval(formula, {"__builtins__": {}}))


def name(body: str, isa: Isa, rows: int, vectors: int) -> str:
    """As dispatch.cpp spells it."""
    spelling = find(r'"(f32_%s_[^"]*)"', read("src/dispatch.cpp"), "dispatch.cpp")
    return spelling % (body, 1, rows, vectors, isa.name)


def tile_ukernel(isa: Isa, rows: int, vectors: int) -> Ukernel:
    tile = (rows + 2) * vectors * isa.lanes
    return Ukernel(
        name("conv3x3", isa, rows, vectors),
        isa,
        rows,
        vectors,
        3 * rows * vectors,
        tile,
        carry_floats(isa, rows),
    )


def map_ukernel(isa: Isa, vectors: int, family: str) -> Ukernel:
    mask = find(rf"{family} = (0x[0-9a-f]+)", read("src/kernels/ukernel.h"), "ukernel.h")
    copies = 2 if vectors == 1 else 1
    sums = bin(int(mask, 16)).count("1") * vectors * copies
    return Ukernel(name("map3x3", isa, 1, vectors), isa, 1, vectors, sums, vectors * isa.lanes, 0)


def taps_ukernel(isa: Isa, rows: int, vectors: int, block: int) -> Ukernel:
    spelling = find(r'"(f32_%s%d_[^"]*)"', read("src/dispatch.cpp"), "dispatch.cpp")
    name = spelling % ("taps", block, rows, vectors, isa.name)
    return Ukernel(name, isa, rows, vectors, rows * vectors * block, 0, 0)


def ukernels() -> list[Ukernel]:
    found = []
    for isa in isas():
        row = r"(conv3x3|map3x3|taps)_row<V, (\d+), (\w+)(?:, (\d+))?>\(\)"
        for body, first, second, block in re.findall(row, table_rows(isa.lanes)):
            if body == "taps":
                found.append(taps_ukernel(isa, int(first), int(second), int(block)))
            elif body == "conv3x3":
                found.append(tile_ukernel(isa, int(first), int(second)))
            else:
                found.append(map_ukernel(isa, int(first), second))
    return found


def taps_histogram() -> Counter[int]:
    masks = re.findall(r"^PCONV_PATTERN\(\d+, \w+, (0x[0-9a-f]+)\)", read("include/pconv/patterns.def"), re.MULTILINE)
    return Counter(bin(int(mask, 16)).count("1") for mask in masks)


def table(headers: list[str], rows: list[list[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page() -> str:
    taps = taps_histogram()
    kernel_rows = [
        [
            f"`{u.name}`",
            u.isa.name,
            f"{u.rows} x {u.vectors} x {u.isa.lanes}",
            str(u.sums),
            str(u.carry_floats * 4),
            str(u.tile_floats * 4),
        ]
        for u in ukernels()
    ]
    isa_rows = [
        [
            i.name,
            i.architecture,
            i.features.replace(",", ", ") or "none",
            str(i.lanes),
            f"`{i.flags}`" if i.flags else "none",
        ]
        for i in isas()
    ]
    return TEMPLATE.format(
        ukernels=table(["name", "ISA", "rows x vectors x lanes", "sums", "carry", "tile"], kernel_rows),
        isas=table(["name", "architecture", "CPU features", "fp32 lanes", "compiler flags"], isa_rows),
        n_patterns=sum(taps.values()),
        patterns=table(["taps", "masks"], [[str(n), str(count)] for n, count in sorted(taps.items())]),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes docs/KERNELS.md from the sources.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when the page is stale")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        print(f"{PAGE.relative_to(ROOT)} is stale: run python scripts/kernels_doc.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
