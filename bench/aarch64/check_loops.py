"""Checks the NEON ukernels as compiled: run by make test after make aarch64.

Every pattern of the manifest must give one hot loop in every tile of the neon table, at 1.95 FMLA per cycle of the A76
model or better, without stack access, vector store or call.
"""

import json
import subprocess
import sys

import a76_loops
from count import BENCH, QEMU

BAR = 1.95


def main() -> None:
    listed = subprocess.run([*QEMU, str(BENCH), "--list"], capture_output=True, text=True, check=True)
    tables = json.loads(listed.stdout)
    n_tiles = sum(row["isa"] == "neon" for row in tables["ukernels"])
    loops = a76_loops.hot_loops(a76_loops.disassemble(BENCH), r"^pconv::neon::.*Conv3x3<")
    print(f"NEON: {tables['n_patterns']} patterns x {n_tiles} tiles")
    sys.exit(0 if a76_loops.judge(loops, BAR, tables["n_patterns"] * n_tiles) else 1)


if __name__ == "__main__":
    main()
