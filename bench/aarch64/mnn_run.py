"""Runs a layer in MNN on the emulated core: python3.11 mnn_run.py FOLDER FILE.mnn RUNS.

Compares the first output with torch's (FOLDER/want.npy) and prints how far it is off, of the largest output. Between
the first and the second mark (insn_count_plugin.c) the layer runs RUNS times on an input in MNN's own layout; between
the second and the third its input is brought into that layout as often. The output is NCHW already.
"""

import os
import sys
from pathlib import Path

import numpy as np
from MNN import expr, nn

MARK_DESCRIPTOR = 1000  # of insn_count_plugin.c


def mark() -> None:
    try:
        os.write(MARK_DESCRIPTOR, b"")
    except OSError:
        pass  # there is none


def main() -> None:
    folder, name, runs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    x, want = np.load(folder / "input.npy"), np.load(folder / "want.npy")
    manager = nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": 1},))
    module = nn.load_module_from_file(str(folder / name), ["x"], ["y"], runtime_manager=manager)
    plain = expr.const(x, list(x.shape), expr.NCHW)

    def into_layout():
        given = expr.convert(plain, expr.NC4HW4)
        given.read()  # computes it
        return given

    given = into_layout()
    y = module.forward([given])[0]
    got = np.array(expr.convert(y, expr.NCHW).read()).reshape(want.shape)
    print(np.abs(got - want).max() / np.abs(want).max())
    mark()
    for _ in range(runs):
        y = module.forward([given])[0]
    mark()
    for _ in range(runs):
        into_layout()
    mark()


if __name__ == "__main__":
    main()
