"""Speed lines of VGG-16's 3x3 layers: share of the FMA peak, the sum against torch, two threads, twelve patterns."""

from __future__ import annotations

from .record import Record, Row, Runs, median, rows_at, rows_of_scope

VGG = ("--net", "vgg16", "--threads", "1")
SETUPS = {
    "scp4": VGG,
    "random12": (*VGG, "--patterns", "random12"),
    "two threads": ("--net", "vgg16", "--threads", "2"),
    "avx2": (*VGG, "--isa", "avx2"),
    "cifar": ("--net", "vgg16_cifar", "--connectivity", "8.8", "--threads", "1"),
}
FULL_LANES = 16  # columns that fill the vectors of AVX-512
PEAK_FRACTION_BARS = {"full lanes": 0.70, "other maps": 0.62}  # of the FMA peak measured in the same run
AVX2_PEAK_FRACTION_BAR = 0.50  # of AVX2's peak
CONV_SUM_BARS = {"scp4": 5.5, "cifar": 10.0}  # times faster than torch's best layout, summed over the convolutions
TWO_THREADS_BAR = 1.75  # times faster than one thread, summed over the convolutions
RANDOM12_BAR = 1.05  # times the time of the four SCPs


def check(runs: Runs, record: Record) -> None:
    """All lines of this part."""
    check_layers("scp4", runs["scp4"], record)
    for name in CONV_SUM_BARS:
        check_speedup(name, runs[name], record)
    check_layers("avx2", runs["avx2"], record)
    check_ratios(runs, record)


def check_layers(name: str, runs: list[list[Row]], record: Record) -> None:
    """A verdict for each pruned layer."""
    for i, row in enumerate(runs[0]):
        if row["scope"] != "layer" or row["kind"] == "dense":
            continue
        bar = AVX2_PEAK_FRACTION_BAR
        if name == "scp4":
            bar = PEAK_FRACTION_BARS["full lanes" if row["w"] % FULL_LANES == 0 else "other maps"]
        rows = rows_at(runs, i)
        fraction = median(rows, "peak_fraction")
        line = f"{name} {row['layer']} ({median(rows, 'ms'):.2f} ms)"
        record.report(line, f"{fraction:.3f}", f"peak_fraction >= {bar:.2f}", fraction >= bar)


def check_speedup(name: str, runs: list[list[Row]], record: Record) -> None:
    """The verdict for the sum of the convolutions against torch."""
    rows = rows_of_scope(runs, "conv_sum")
    speedup, ms, dense = (median(rows, key) for key in ("speedup", "ms", "dense_ms"))
    bar = CONV_SUM_BARS[name]
    record.report(f"{name} conv_sum ({ms:.2f} of {dense:.1f} ms)", f"{speedup:.2f}x", f">= {bar:g}", speedup >= bar)


def check_ratios(runs: Runs, record: Record) -> None:
    """Verdicts for what is compared with one thread and four patterns."""
    ms = {name: median(rows_of_scope(runs[name], "conv_sum"), "ms") for name in ("scp4", "two threads", "random12")}
    threads, patterns = ms["scp4"] / ms["two threads"], ms["random12"] / ms["scp4"]
    record.report("two threads against one", f"{threads:.2f}x", f">= {TWO_THREADS_BAR}", threads >= TWO_THREADS_BAR)
    record.report("random12 against scp4, time", f"{patterns:.3f}x", f"<= {RANDOM12_BAR}", patterns <= RANDOM12_BAR)
