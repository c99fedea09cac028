"""Checks the NEON ukernels as compiled: run by make test after make aarch64.

Every pattern of the manifest must give one hot loop in every pattern tile of the neon table, without stack access,
vector store or call: at 1.95 FMLA per cycle of the A76 model or better with stride 1, at 1.9 with stride 2, where 16
patterns load a vector for each FMLA (docs/PERFORMANCE.md). Every loop of a general ukernel whose filters share loads,
those of 1x1 layers in blocks among them, must reach 1.9; those for single filters load a vector for each FMLA and have
no bar.
"""

import json
import re
import subprocess
import sys

import a76_loops
from count import BENCH, QEMU

BAR, STRIDED_BAR, SHARED_BAR = 1.95, 1.9, 1.9


def main() -> None:
    listed = subprocess.run([*QEMU, str(BENCH), "--list"], capture_output=True, text=True, check=True)
    tables = json.loads(listed.stdout)
    names = [row["name"] for row in tables["ukernels"] if row["isa"] == "neon"]
    code = a76_loops.disassemble(BENCH)
    passed = True
    for stride, body, bar in ((1, "Conv3x3<", BAR), (2, "Conv3x3S2<", STRIDED_BAR)):
        n_tiles = sum(f"conv3x3_s{stride}" in name for name in names)
        print(f"NEON: {tables['n_patterns']} patterns x {n_tiles} tiles with stride {stride}")
        loops = a76_loops.hot_loops(code, f"pconv::neon::.*{body}")
        passed = a76_loops.judge(loops, bar, tables["n_patterns"] * n_tiles) and passed
    n_shared = sum(bool(re.search(r"_(taps|planes)(?!1_)", name)) for name in names)
    print(f"NEON: {n_shared} general ukernels that share loads, some for several numbers of vectors")
    loops = a76_loops.hot_loops(code, r"pconv::neon::.*Taps(OfPlanes)?<")
    shared = [loop for loop in loops if loop.n_loads < loop.n_fmla]
    passed = a76_loops.judge(shared, SHARED_BAR, None) and len(shared) >= n_shared and passed
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
