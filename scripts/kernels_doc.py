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

A ukernel is named `f32_<body>[_s<stride>|<block>]_<rows>x<vectors>_<isa>`: the stride of bodies that have one, the
number of filters that share every load of those that have blocks. A plan takes the one of its instruction set that is
predicted to need the least work for the layer's shape (`src/plan.cpp`).

## Bodies (`src/kernels/`)

{bodies}
## Ukernels (`src/kernels/table.inl`)

{ukernels}
*Tile*: outputs that are computed together; of `planes` and `scatter` at most. *Sums*: vectors of them in registers,
as far as the register file is large enough. *Carry*: bytes that a filter keeps in memory: what `conv3x3` leaves to the
tile on the right, and the sums of `scatter`. *Input*: bytes of an input channel in the packed tile, of `planes` and
`scatter` what a tile reads of a plane; - where the layer's geometry says.

## Instruction sets (`src/isas.def`, best first)

{isas}
## Patterns (`include/pconv/patterns.def`)

{n_patterns} specialised 3x3 masks. Any other mask runs as the smallest one that contains it.

{patterns}"""
# Body of KernelInfo -> the file it stands in, and what it does.
BODIES = {
    "kPattern": (
        "conv3x3.inl",
        "3x3, dilation 1, stride 1: left, centre and right taps are summed apart on the same aligned inputs, the sums"
        " shifted once a tile (deferred shift); every input is loaded once a kernel",
    ),
    "kPattern2": (
        "conv3x3s2.inl",
        "the same for stride 2: rows lie in the tile as even and odd columns, only the left taps' sums are shifted",
    ),
    "kLine": (
        "line3x3.inl",
        "3x3, dilation 1, stride 1, where registers are few: one set of sums, inputs read wherever they begin, rows of"
        " the tile that are single cache lines; with two vectors a row has two outputs less than lanes",
    ),
    "kMap": (
        "map3x3.inl",
        "3x3, stride 1, padding 1, maps of less columns than a vector has lanes and no more pixels than the vectors:"
        " the whole map in registers, sums for every tap; above three vectors only for patterns within the cross, as"
        " the SCPs are",
    ),
    "kTinyMap": (
        "tiny3x3.inl",
        "the same for maps of at most four pixels: a vector holds each of them for every tap of a kernel, which then"
        " is one multiply-add",
    ),
    "kWindow": (
        "taps.inl",
        "any convolution, NHWC too: a stream of (offset, weight) over the rows that a tile's outputs read, split into"
        " phases by the stride; with blocks only for filters that keep the same kernels",
    ),
    "kPlanes": (
        "taps.inl",
        "any convolution in NCHW: the same stream over planes (im2col: what taps read, output after output), so"
        " that no lane of a narrow map stays empty; 1x1 layers read the image itself",
    ),
    "kScatter": (
        "scatter.inl",
        "any convolution in NCHW: what up to four taps of a channel read stays in registers while every kernel with"
        " those taps adds to the sums of its filter in L1; planes as above",
    ),
    "kDepthwise": (
        "depthwise.inl",
        "filters of one channel each, any geometry, NCHW: padded rows in L1 instead of tiles",
    ),
    "kDwDirect": (
        "dwdirect.inl",
        "the same straight from the image, by loads whose lanes outside it are masked; steps of one column, and of two"
        " where lanes of two vectors can be picked; not the largest maps and kernels",
    ),
}


LINE_FLOATS = 16  # of a cache line


class Isa(NamedTuple):
    name: str
    architecture: str
    features: str
    flags: str
    lanes: int


class Row(NamedTuple):
    """What a *_row function of table.inl says before its numbers."""

    name: str
    body: str
    stride: int


class Ukernel(NamedTuple):
    name: str
    isa: Isa
    rows: int
    vectors: int
    sums: int
    input_floats: int | None  # None: the layer's geometry says
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


def carry_floats(isa: Isa, rows: int, path: str) -> int:
    """Evaluates kCarryFloats of a body, so that the formula stands there alone."""
    formula = find(r"constexpr int kCarryFloats =\s+([^;]+);", read(path), path).replace("/", "//")
    last_lanes = constant("kLastLanes", f"src/kernels/simd/{isa.name}.h")
    for name, value in {"Vec::kLanes": isa.lanes, "Vec::kLastLanes": last_lanes, "kRows": rows}.items():
        formula = formula.replace(name, str(value))
    return int(eval(formula, {"__builtins__": {}}))


def row_functions() -> dict[str, Row]:
    row = r'constexpr KernelInfo (\w+)_row\(\) \{.*?return \{"(\w+)",\s+Body::(\w+),\s+(\d+),'
    found = re.findall(row, read("src/kernels/table.inl"), re.DOTALL)
    return {function: Row(name, body, int(stride)) for function, name, body, stride in found}


def ukernel_name(row: Row, isa: Isa, rows: int, vectors: int, block: int) -> str:
    """As dispatch.cpp spells it."""
    dispatch = read("src/dispatch.cpp")
    kind = ""
    if row.body in ("kPattern", "kLine", "kMap", "kTinyMap"):
        kind = (
            find(r'pattern\(\)\) std::snprintf\(kind, sizeof\(kind\), "([^"]*)"', dispatch, "dispatch.cpp") % row.stride
        )
    if block > 0:
        kind = find(r'block > 0\) std::snprintf\(kind, sizeof\(kind\), "([^"]*)"', dispatch, "dispatch.cpp") % block
    return find(r'"(f32_[^"]*)"', dispatch, "dispatch.cpp") % (row.name, kind, rows, vectors, isa.name)


def ukernel(row: Row, isa: Isa, arguments: list[str]) -> Ukernel:
    """Of a row of the table with these template arguments behind V."""
    rows = block = carry = 0
    inputs: int | None = None
    vectors = 0
    if row.body == "kPattern":
        rows, vectors = map(int, arguments)
        tile_rows = rows + 2 if row.stride == 1 else 2 * (2 * rows + 1)
        sums, inputs = 3 * rows * vectors, tile_rows * vectors * isa.lanes
        carry = carry_floats(isa, rows, f"src/kernels/{file_of(row)}")
    elif row.body == "kLine":
        rows, vectors = map(int, arguments)
        sums, inputs = rows * vectors, (rows + 2) * LINE_FLOATS
    elif row.body == "kMap":
        rows, vectors = 1, int(arguments[0])
        mask = find(rf"{arguments[1]} = (0x[0-9a-f]+)", read("src/kernels/ukernel.h"), "ukernel.h")
        copies = 2 if vectors == 1 else 1
        sums, inputs = bin(int(mask, 16)).count("1") * vectors * copies, vectors * isa.lanes
    elif row.body == "kTinyMap":
        rows, vectors, sums, inputs = 1, 1, 4, isa.lanes
    elif row.body == "kWindow":
        rows, vectors, block = map(int, arguments)
        sums = rows * vectors * block
    elif row.body == "kPlanes":
        rows, (vectors, block) = 1, map(int, arguments)
        sums, inputs = vectors * block, vectors * isa.lanes
    elif row.body == "kScatter":
        rows, vectors = 1, int(arguments[0])
        sums, inputs, carry = vectors, vectors * isa.lanes, vectors * isa.lanes
    elif row.body in ("kDepthwise", "kDwDirect"):
        rows, vectors = 1, constant(f"{row.body}Vectors", "src/kernels/table.inl")
        sums = vectors
    else:
        sys.exit(f"kernels_doc.py: does not know {row.body}: tell it what the body does and how its rows read")
    return Ukernel(ukernel_name(row, isa, rows, vectors, block), isa, rows, vectors, sums, inputs, carry)


def file_of(row: Row) -> str:
    return BODIES[key_of(row)][0]


def key_of(row: Row) -> str:
    return f"{row.body}2" if row.body == "kPattern" and row.stride == 2 else row.body


def ukernels() -> list[Ukernel]:
    functions, found = row_functions(), []
    for isa in isas():
        for function, arguments in re.findall(r"(\w+)_row(?:<V(?:, ([\w, ]+))?>)?\(\)", table_rows(isa.lanes)):
            found.append(ukernel(functions[function], isa, arguments.split(", ")))
    return found


def body_rows() -> list[list[str]]:
    rows = []
    for row in row_functions().values():
        file, text = BODIES[key_of(row)]
        stride = f", stride {row.stride}" if row.body == "kPattern" else ""
        rows.append([f"`{row.name}`{stride}", f"`{file}`", text])
    return rows


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
            "-" if u.input_floats is None else str(u.input_floats * 4),
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
        bodies=table(["body", "file", "what it does"], body_rows()),
        ukernels=table(["name", "ISA", "tile: rows x vectors x lanes", "sums", "carry", "input"], kernel_rows),
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
