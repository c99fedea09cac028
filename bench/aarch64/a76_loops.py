"""Estimate how close the NEON loops of an aarch64 binary come to a Cortex-A76's peak.

    a76_loops.py BINARY [--min-fmla 16] [--match REGEX] [--fail-below 1.95] [--expect N] [--quiet]

Disassembles BINARY, finds the innermost loops (backward branches without another inside) that hold at least --min-fmla
fused multiply-adds, and runs each through the model of a76_model.py. Prints one row a loop: FMLA per cycle, FMLA,
vector loads, loads per FMLA, instructions, and what a hot loop must not hold: stack accesses, vector stores (sums that
left their registers), calls. Exit status 1 if --fail-below is given and a loop is slower or holds one of these, or if
not exactly --expect loops were found (a loop that the compiler did not inline is a loop not seen).
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from a76_model import cycles_per_turn

OBJDUMP = "aarch64-linux-gnu-objdump"
HEADER = "FMLA/cycle  FMLA loads loads/FMLA insns stack vstores calls  symbol"


@dataclass(frozen=True)
class Loop:
    symbol: str
    fmla_per_cycle: float
    n_fmla: int
    n_loads: int
    n_insns: int
    n_stack: int
    n_vector_stores: int
    n_calls: int

    def is_clean(self) -> bool:
        return not (self.n_stack or self.n_vector_stores or self.n_calls)

    def row(self) -> str:
        return (
            f"{self.fmla_per_cycle:10.2f} {self.n_fmla:5d} {self.n_loads:5d} {self.n_loads / self.n_fmla:10.2f} "
            f"{self.n_insns:5d} {self.n_stack:5d} {self.n_vector_stores:7d} {self.n_calls:5d}  {self.symbol[:110]}"
        )


def disassemble(binary: Path, objdump: str = OBJDUMP) -> str:
    command = [objdump, "-d", "-w", "-C", str(binary)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def functions(text: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """(symbol, [(address, instruction)]) of each function of a disassembly."""
    symbol = ""
    body: list[tuple[int, str]] = []
    for line in text.splitlines():
        if head := re.match(r"^[0-9a-f]+ <(.+)>:$", line):
            yield symbol, body
            symbol, body = head.group(1), []
        elif row := re.match(r"^\s+([0-9a-f]+):\s+[0-9a-f]{8}\s+(.*)$", line):
            body.append((int(row.group(1), 16), row.group(2).replace("\t", " ")))
    yield symbol, body


def innermost_loops(body: list[tuple[int, str]]) -> Iterator[list[str]]:
    """Instructions of each backward branch's span that holds no other such span."""
    place = {address: i for i, (address, _) in enumerate(body)}
    spans = []
    for i, (_, text) in enumerate(body):
        branch = re.match(r"(b\.\w+|b|cbn?z|tbn?z)\s+(?:.*,\s*)?([0-9a-f]+) <", text)
        if branch and place.get(int(branch.group(2), 16), i + 1) <= i:
            spans.append((place[int(branch.group(2), 16)], i))
    for start, end in spans:
        if not any((s, e) != (start, end) and start <= s and e <= end for s, e in spans):
            yield [text for _, text in body[start : end + 1]]


def count(pattern: str, body: list[str]) -> int:
    return sum(bool(re.search(pattern, text)) for text in body)


def hot_loops(text: str, match: str = "", min_fmla: int = 16) -> list[Loop]:
    """Loops of a disassembly with at least min_fmla FMLA whose function's name matches the regular expression."""
    found = []
    for symbol, function in functions(text):
        if not re.search(match, symbol):
            continue
        for body in innermost_loops(function):
            n_fmla = count(r"^(fmla|sdot|fmlal)", body)
            if n_fmla < min_fmla:
                continue
            loads = [t for t in body if re.match(r"ld[pur1-4]", t) and re.match(r"\S+\s+\{?[qv]\d", t)]
            found.append(
                Loop(
                    symbol=symbol,
                    fmla_per_cycle=n_fmla / cycles_per_turn(body),
                    n_fmla=n_fmla,
                    n_loads=len(loads) + count("^ldp", loads),
                    n_insns=len(body),
                    n_stack=count(r"\[(sp|x29)\b", body),
                    n_vector_stores=count(r"^st\S*\s+\{?[qvds]\d", body),
                    n_calls=count(r"^blr?\s", body),
                )
            )
    return found


def judge(loops: list[Loop], fail_below: float | None, expect: int | None) -> bool:
    """Prints the closing line; True when no loop is below the bar and the expected number was found."""
    bad = [x for x in loops if fail_below is not None and (x.fmla_per_cycle < fail_below or not x.is_clean())]
    slowest = min((x.fmla_per_cycle for x in loops), default=0.0)
    expected = "" if expect is None else f" ({expect} expected)"
    print(f"{len(loops)} loops{expected}, slowest {slowest:.2f} FMLA per cycle, {len(bad)} below the bar")
    for loop in bad:
        print("below the bar: " + loop.row())
    return not bad and (len(loops) == expect if expect is not None else bool(loops))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--objdump", default=OBJDUMP)
    parser.add_argument("--min-fmla", type=int, default=16)
    parser.add_argument("--match", default="")
    parser.add_argument("--fail-below", type=float)
    parser.add_argument("--expect", type=int)
    parser.add_argument("--quiet", action="store_true", help="no row per loop")
    options = parser.parse_args()
    loops = hot_loops(disassemble(options.binary, options.objdump), options.match, options.min_fmla)
    if not options.quiet:
        print(HEADER)
        for loop in loops:
            print(loop.row())
    sys.exit(0 if judge(loops, options.fail_below, options.expect) else 1)


if __name__ == "__main__":
    main()
