"""Checks the NEON ukernels as compiled: run by make test after make aarch64.

Every pattern of the manifest must give one hot loop in every pattern tile of the neon table, at 1.95 FMLA per cycle of
the A76 model or better, without stack access, vector store or call; every general ukernel whose filters share loads
one at 1.9. Those for single filters load a vector for each FMLA and have no bar.
"""

import json
import subprocess
import sys

import a76_loops
from count import BENCH, QEMU

BAR, SHARED_BAR = 1.95, 1.9


def main() -> None:
    listed = subprocess.run([*QEMU, str(BENCH), "--list"], capture_output=True, text=True, check=True)
    tables = json.loads(listed.stdout)
    names = [row["name"] for row in tables["ukernels"] if row["isa"] == "neon"]
    code = a76_loops.disassemble(BENCH)
    n_tiles = sum("conv3x3" in name for name in names)
    print(f"NEON: {tables['n_patterns']} patterns x {n_tiles} tiles")
    patterns = a76_loops.hot_loops(code, r"^pconv::neon::.*Conv3x3<")
    passed = a76_loops.judge(patterns, BAR, tables["n_patterns"] * n_tiles)
    n_shared = sum("taps" in name and "taps1_" not in name for name in names)
    print(f"NEON: {n_shared} general ukernels that share loads")
    shared = a76_loops.hot_loops(code, r"^pconv::neon::.*Taps<.*, [2-9]+>::")
    passed = a76_loops.judge(shared, SHARED_BAR, n_shared) and passed
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
