"""What this build holds and what this machine offers: cpu_info() and show_config()."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import _native
from .threads import get_num_threads


def _cpu_model() -> str:
    """The processor's name as the kernel tells it; "unknown" where it does not (aarch64 often)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _usable_cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def cpu_info() -> dict[str, Any]:
    """The processor and what plans would use on it.

    model: its name; architecture: as platform.machine(); cpus: how many this process may run on; isa: the instruction
    set in use, PCONV_FORCE_ISA included; isas: name, features, supported and lanes (fp32 per vector) of each
    instruction set in this build, best first; ukernels: names of the compute functions. BackendUnavailable when
    PCONV_FORCE_ISA names one that is not there.
    """
    return {
        "model": _cpu_model(),
        "architecture": platform.machine(),
        "cpus": _usable_cpus(),
        "isa": _native.current_isa(),
        "isas": _native.isas(),
        "ukernels": [row["name"] for row in _native.ukernels()],
    }


def config_text() -> str:
    """The text that show_config() prints."""
    cpu = cpu_info()
    torch = sys.modules.get("torch")
    isas = [f"{row['name']}{'' if row['supported'] else ' (not in this CPU)'}" for row in cpu["isas"]]
    rows = [
        ("pconv_ops", _native.version()),
        ("python", platform.python_version()),
        ("numpy", np.__version__),
        ("torch", torch.__version__ if torch is not None else "not loaded"),
        ("cpu", f"{cpu['model']}, {cpu['architecture']}, {cpu['cpus']} usable"),
        ("isa in use", cpu["isa"]),
        ("isas", ", ".join(isas)),
        ("ukernels", ", ".join(cpu["ukernels"])),
        ("threads", str(get_num_threads())),
        ("opencl", ", ".join(_opencl_titles())),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _opencl_titles() -> list[str]:
    """OpenCL devices, or why there are none."""
    from .opencl_device import devices  # pyopencl only where somebody asks

    try:
        return [f"{device.title} ({device.version})" for device in devices()] or ["no device"]
    except _native.BackendUnavailable:
        return ["pyopencl is not installed"]


def show_config() -> None:
    """Prints version, processor, instruction sets, threads and OpenCL devices, for bug reports."""
    print(config_text())
