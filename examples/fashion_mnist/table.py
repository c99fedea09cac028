"""The runs of a folder as one table: mean and deviation over seeds, and what the same weights take after convert."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from .schemes import SCHEMES

Record = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A scheme of a network: accuracies of its seeds, in percent, and one of its networks deployed."""

    net: str
    scheme: str
    rate: float  # weights of the pruned layers / kept ones
    accuracies: tuple[float, ...]
    cut: float | None  # mean accuracy right after finalize(), before the masked epochs
    latency: Record | None
    different: int  # predictions that convert changed, over all seeds, near ties apart
    near_ties_changed: int
    images: int

    @property
    def mean(self) -> float:
        return mean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Of a sample; 0 for a single seed."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


def rows_of(records: Iterable[Record]) -> list[Row]:
    """In the order of the schemes; records of one scheme and network differ in their seed."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["net"], record["scheme"]), []).append(record)
    order = list(SCHEMES)
    return [_row(group) for _, group in sorted(groups.items(), key=lambda item: (item[0][0], order.index(item[0][1])))]


def _row(group: Sequence[Record]) -> Row:
    cuts = [record["cut"] for record in group if record["cut"] is not None]
    deployed = [record["agreement"] for record in group if "agreement" in record]
    return Row(
        net=group[0]["net"],
        scheme=group[0]["scheme"],
        rate=mean(record.get("rate", 1.0) for record in group),
        accuracies=tuple(record["accuracy"] for record in sorted(group, key=lambda record: record["seed"])),
        cut=mean(cuts) if cuts else None,
        latency=next((record["latency"] for record in group if "latency" in record), None),
        different=sum(found["different"] for found in deployed),
        near_ties_changed=sum(found["near_ties_changed"] for found in deployed),
        images=sum(found["images"] for found in deployed),
    )


def reference(rows: Sequence[Row]) -> Row | None:
    """What others are compared with: the dense network trained as long as they, or else as it was before."""
    found = {row.scheme: row for row in rows}
    return found.get("dense_longer", found.get("dense"))


def markdown(rows: Sequence[Row]) -> str:
    """A table for each network."""
    parts = []
    for net in dict.fromkeys(row.net for row in rows):
        of_net = [row for row in rows if row.net == net]
        parts.append(f"### {net}\n\n{_net_table(of_net)}")
    return "\n\n".join(parts)


def _net_table(rows: Sequence[Row]) -> str:
    dense = reference(rows)
    head = (
        "| | fewer weights | accuracy, % | to dense¹ | after the cut | ms, torch | ms, pconv_ops | changed by convert |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        difference = "" if dense is None or row is dense else f"{row.mean - dense.mean:+.2f}"
        cut = "" if row.cut is None else f"{row.cut:.2f}"
        times = ("", "")
        if row.latency is not None:
            ours, torch_ms = row.latency["ours_ms"], row.latency["torch_ms"]
            times = (f"{torch_ms:.3f}", f"{ours:.3f} ({torch_ms / ours:.1f}x)")
        changed = f"{row.different} of {row.images}" if row.images else ""
        if row.near_ties_changed:
            changed += f", and {row.near_ties_changed} near ties"
        accuracy = f"{row.mean:.2f} ± {row.deviation:.2f}"
        cells = (SCHEMES[row.scheme].label, f"{row.rate:.2f}x", accuracy, difference, cut, *times, changed)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"¹ {SCHEMES[dense.scheme].label}" if dense is not None else ""]).rstrip()
