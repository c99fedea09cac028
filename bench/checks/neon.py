"""Instructions of the NEON ukernels on an emulated Cortex-A76 (needs build/aarch64 and qemu)."""

from __future__ import annotations

import sys
from pathlib import Path

from shape_list import read_shapes, shape_id

from .record import Record

BAR = 1.7  # instructions per FMLA, maps of 14x14 and more
SMALL_MAP = 14


def instructions_per_fmla(layer: str) -> float:
    """Of one run of the layer IC,OC,H,W on the emulated core."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "aarch64"))
    from count import count_one_run

    _, counts = count_one_run(["--layer", layer])
    return counts.insns / counts.fmla


def check(record: Record) -> None:
    """A verdict for each distinct layer shape; small maps are listed without a bar."""
    for net in ("vgg16", "vgg16_cifar"):
        for spec in read_shapes(net).values():
            ratio = instructions_per_fmla(f"{spec.ic},{spec.oc},{spec.h},{spec.w}")
            bar = BAR if spec.h >= SMALL_MAP else float("inf")
            record.report(f"neon {shape_id(spec)}, insns/FMLA", f"{ratio:.2f}", f"<= {bar}", ratio <= bar)
