"""The speed lines that a release must meet (`make bench-check`): python bench/check.py [--runs 5] [--only PART].

Runs `pconv bench` in each of SETUPS several times, turn by turn, each in a process of its own, takes the median of
every number over the runs, and compares with the bars below; then the cost of a call, and the instructions of the NEON
ukernels on an emulated Cortex-A76. Exit status 1 if a line fails. The x86 bars hold for a CPU with AVX-512.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from shape_list import read_shapes, shape_id

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
CALL_OVERHEAD_BAR_US = 10.0  # what a Python call adds to the core's run of a 1x64x8x8 input
NEON_BAR = 1.7  # instructions per FMLA, maps of 14x14 and more
SMALL_MAP = 14

Runs = dict[str, list[list[dict]]]  # setup -> runs -> rows


def bench_once(arguments: tuple[str, ...]) -> list[dict]:
    """Rows of one `pconv bench`."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "pconv_ops", "bench", *arguments, "--json", str(rows)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(rows.read_text(encoding="utf-8"))


def median_of(runs: list[list[dict]], index: int, key: str) -> float:
    """Median of one number of one row over the runs."""
    return statistics.median(run[index][key] for run in runs)


def conv_sum(runs: list[list[dict]], key: str) -> float:
    """The same of the row that sums the convolutions."""
    (index,) = (i for i, row in enumerate(runs[0]) if row["scope"] == "conv_sum")
    return median_of(runs, index, key)


def report(line: str, value: str, bar: str, passed: bool) -> bool:
    """Prints one line of the verdict."""
    print(f"{'PASS' if passed else 'FAIL'}  {line:<34} {value:>10}  (bar: {bar})", flush=True)
    return passed


def check_layers(name: str, runs: list[list[dict]]) -> list[bool]:
    """A verdict for each pruned layer."""
    verdicts = []
    for i, row in enumerate(runs[0]):
        if row["scope"] != "layer" or row["kind"] == "dense":
            continue
        bar = AVX2_PEAK_FRACTION_BAR
        if name == "scp4":
            bar = PEAK_FRACTION_BARS["full lanes" if row["w"] % FULL_LANES == 0 else "other maps"]
        fraction = median_of(runs, i, "peak_fraction")
        line = f"{name} {row['layer']} ({median_of(runs, i, 'ms'):.2f} ms)"
        verdicts.append(report(line, f"{fraction:.3f}", f"peak_fraction >= {bar:.2f}", fraction >= bar))
    return verdicts


def check_speedup(name: str, runs: list[list[dict]]) -> bool:
    """The verdict for the sum of the convolutions against torch."""
    speedup, ms, dense = (conv_sum(runs, key) for key in ("speedup", "ms", "dense_ms"))
    bar = CONV_SUM_BARS[name]
    return report(f"{name} conv_sum ({ms:.2f} of {dense:.1f} ms)", f"{speedup:.2f}x", f">= {bar:g}", speedup >= bar)


def check_ratios(runs: Runs) -> list[bool]:
    """Verdicts for what is compared with one thread and four patterns."""
    base = conv_sum(runs["scp4"], "ms")
    threads = base / conv_sum(runs["two threads"], "ms")
    patterns = conv_sum(runs["random12"], "ms") / base
    return [
        report("two threads against one", f"{threads:.2f}x", f">= {TWO_THREADS_BAR}", threads >= TWO_THREADS_BAR),
        report("random12 against scp4, time", f"{patterns:.3f}x", f"<= {RANDOM12_BAR}", patterns <= RANDOM12_BAR),
    ]


def check_call_overhead(n_runs: int) -> list[bool]:
    """A verdict for each way to call a layer."""
    from pconv_ops.benchmark import call_overhead_us

    runs = [call_overhead_us() for _ in range(n_runs)]
    verdicts = []
    for name in runs[0]:
        cost = statistics.median(run[name] for run in runs)
        bar = f"<= {CALL_OVERHEAD_BAR_US:g} us"
        verdicts.append(report(f"call overhead of {name}", f"{cost:.1f} us", bar, cost <= CALL_OVERHEAD_BAR_US))
    return verdicts


def neon_instructions_per_fmla(layer: str) -> float:
    """Of one run of the layer IC,OC,H,W on the emulated core (needs build/aarch64)."""
    sys.path.insert(0, str(Path(__file__).with_name("aarch64")))
    from count import count_one_run

    _, counts = count_one_run(["--layer", layer])
    return counts.insns / counts.fmla


def check_neon() -> list[bool]:
    """A verdict for each distinct layer shape; small maps are listed without a bar."""
    verdicts = []
    for net in ("vgg16", "vgg16_cifar"):
        for spec in read_shapes(net).values():
            ratio = neon_instructions_per_fmla(f"{spec.ic},{spec.oc},{spec.h},{spec.w}")
            bar = NEON_BAR if spec.h >= SMALL_MAP else float("inf")
            verdicts.append(report(f"neon {shape_id(spec)}, insns/FMLA", f"{ratio:.2f}", f"<= {bar}", ratio <= bar))
    return verdicts


def check_speed(n_runs: int) -> list[bool]:
    """All lines that `pconv bench` measures."""
    runs: Runs = {name: [] for name in SETUPS}
    for i in range(n_runs):
        for name, arguments in SETUPS.items():
            print(f"run {i + 1} of {n_runs}: {name}", file=sys.stderr)
            runs[name].append(bench_once(arguments))
    print(f"pconv bench, {runs['scp4'][0][0]['isa']}, medians of {n_runs} runs")
    verdicts = check_layers("scp4", runs["scp4"])
    verdicts += [check_speedup(name, runs[name]) for name in CONV_SUM_BARS]
    return verdicts + check_layers("avx2", runs["avx2"]) + check_ratios(runs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs whose medians are compared (default 5)")
    parser.add_argument("--only", choices=("speed", "calls", "neon"), help="check one part alone")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error("--runs: need >= 1")
    parts = {
        "speed": lambda: check_speed(args.runs),
        "calls": lambda: check_call_overhead(args.runs),
        "neon": check_neon,
    }
    verdicts = [passed for name, part in parts.items() if args.only in (None, name) for passed in part()]
    print(f"{'PASS' if all(verdicts) else 'FAIL'}: {sum(verdicts)} of {len(verdicts)} lines")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
