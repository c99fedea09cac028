"""Runs build/<arch>-core/apps/pconv_layer_bench (make native), for the scripts beside it."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parents[1] / f"build/{platform.machine()}-core/apps/pconv_layer_bench"
PASSES = 5


def layer_bench(*arguments: object) -> dict[str, Any] | None:
    """The JSON row of one call; None for a ukernel that does not take the layer. RuntimeError for any other failure."""
    done = subprocess.run([str(PROGRAM), "--json", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout)
    if "does not take this layer" in done.stderr:
        return None
    raise RuntimeError(f"{PROGRAM.name} {' '.join(map(str, arguments))}: {done.stderr.strip()}")


def interleaved(calls: dict[str, tuple[object, ...]], passes: int = PASSES) -> dict[str, dict[str, Any]]:
    """Name -> row with the median of `ms` over `passes` turns of all calls; refused calls are left out."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in calls}
    for _ in range(passes):
        for name, arguments in calls.items():
            row = layer_bench(*arguments)
            if row is not None:
                rows[name].append(row)
    return {
        name: {**found[0], "ms": statistics.median(row["ms"] for row in found)} for name, found in rows.items() if found
    }


def ukernels_of(isa: str) -> list[str]:
    """Names of an instruction set's ukernels in this build."""
    listed = json.loads(subprocess.run([str(PROGRAM), "--list"], capture_output=True, text=True, check=True).stdout)
    return [ukernel["name"] for ukernel in listed["ukernels"] if ukernel["isa"] == isa]
