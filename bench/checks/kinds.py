"""Speed lines of other layers than 3x3 with stride 1: share of the FMA peak, one line for each distinct shape.

Pruned ones are rows of the ResNets of nets.py: 3x3 with stride 2, and 1x1 in blocks. Dense ones, stems and 1x1, are
timed alone, because in a net they would stay with torch.
"""

from __future__ import annotations

from . import nets
from .record import Record, Row, Runs, median

RESNETS = ("resnet18", "resnet50")
BLOCK = 4
MAPS_1X1 = (14, 56)  # smallest and largest input, rows, of the 1x1 layers that have a bar
STRIDE_2_BAR = 0.50
POINTWISE_BAR = 0.55
DENSE_BAR = 0.50

ONE_DENSE = ("--threads", "1", "--connectivity", "1")
DENSE_SETUPS = {  # typical for ResNet: a wide, a narrowing and a deep 1x1 layer; stems of ResNet and MobileNet
    "dense 7x7/2 stem": ("--layer", "3,64,224,224,2", "--kernel", "7", *ONE_DENSE),
    "dense 3x3/2 stem": ("--layer", "3,32,224,224,2", "--kernel", "3", *ONE_DENSE),
    "dense 1x1 at 56": ("--layer", "64,256,56,56", "--kernel", "1", *ONE_DENSE),
    "dense 1x1 at 28": ("--layer", "512,128,28,28", "--kernel", "1", *ONE_DENSE),
    "dense 1x1 at 7": ("--layer", "512,2048,7,7", "--kernel", "1", *ONE_DENSE),
}
SETUPS = {**{name: nets.SETUPS[name] for name in RESNETS}, **DENSE_SETUPS}


def check(runs: Runs, record: Record) -> None:
    """All lines of this part."""
    pruned = [row for name in RESNETS for rows in runs[name] for row in rows if is_pruned_layer(row)]
    check_shapes([row for row in pruned if is_strided_3x3(row)], STRIDE_2_BAR, record)
    check_shapes([row for row in pruned if is_blocked_1x1(row)], POINTWISE_BAR, record)
    for name in DENSE_SETUPS:
        rows = [row for rows in runs[name] for row in rows]
        if any(row["density"] != 1.0 for row in rows):
            raise RuntimeError(f"{name}: pruning took weights, so this is no dense layer")
        check_shapes(rows, DENSE_BAR, record, "dense")


def is_pruned_layer(row: Row) -> bool:
    """A layer that ours ran, all channels in one group."""
    return row["scope"] == "layer" and row["kind"] != "dense" and row["groups"] == 1


def is_strided_3x3(row: Row) -> bool:
    """3x3 with stride 2."""
    return (row["kernel"], row["stride"]) == (3, 2)


def is_blocked_1x1(row: Row) -> bool:
    """1x1 in blocks, of any stride."""
    return (row["kernel"], row["block"]) == (1, BLOCK) and MAPS_1X1[0] <= row["h"] <= MAPS_1X1[1]


def check_shapes(rows: list[Row], bar: float, record: Record, what: str = "pruned") -> None:
    """A verdict for each shape, by the median over its layers and their runs. ValueError: nothing to judge."""
    if not rows:
        raise ValueError(f"{what} layers: the benches have none of this kind")
    by_shape: dict[str, list[Row]] = {}
    for row in rows:
        by_shape.setdefault(shape_text(row), []).append(row)
    for shape, same in by_shape.items():
        fraction, ms = median(same, "peak_fraction"), median(same, "ms")
        line = f"{what} {shape} ({ms:.3f} ms)"
        record.report(line, f"{fraction:.3f}", f"peak_fraction >= {bar:.2f}", fraction >= bar)


def shape_text(row: Row) -> str:
    """As in 3x3/2 64->128 at 56x56."""
    stride = f"/{row['stride']}" if row["stride"] != 1 else ""
    return f"{row['kernel']}x{row['kernel']}{stride} {row['ic']}->{row['oc']} at {row['h']}x{row['w']}"
