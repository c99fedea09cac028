"""What a layer costs on an emulated Cortex-A76: counted instructions and the model's FMLA per cycle.

    count.py --layer 64,64,56,56 [--kernel 3] [--stride 1] [--block 1] [--connectivity 3.1] [--patterns scp4]
             [--ukernel NAME] [--fail-above 7.5e6]

Runs build/aarch64/apps/pconv_layer_bench (make aarch64) under qemu-user with a counting plugin, N and 2N times, and
subtracts: start-up and packing fall out, the counts of one run are left and are repeatable to the instruction. The four
SCPs at connectivity 3.1 make 6.97x fewer weights: 4 of 9 taps in 1 of 3.1 kernels. Exit status 1 if --fail-above is
given and a run takes more instructions.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import a76_loops

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build/aarch64"
BENCH = BUILD / "apps/pconv_layer_bench"
QEMU = ["qemu-aarch64", "-cpu", "cortex-a76", "-L", "/usr/aarch64-linux-gnu"]
PLUGIN_SOURCE = Path(__file__).with_name("insn_count_plugin.c")
RUNS = 4


class Counts(NamedTuple):
    insns: int
    fmla: int
    vector_loads: int


def layer_sizes(text: str) -> str:
    """IC,OC,H,W as the bench takes it."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*){3}", text):
        raise argparse.ArgumentTypeError(f"got {text!r}, need IC,OC,H,W, each an integer >= 1")
    return text


def build_plugin() -> Path:
    plugin = BUILD / "insn_count.so"
    if not plugin.exists() or plugin.stat().st_mtime < PLUGIN_SOURCE.stat().st_mtime:
        flags = ["-shared", "-fPIC", "-O2", "-Wl,--unresolved-symbols=ignore-all"]
        subprocess.run(["gcc", *flags, str(PLUGIN_SOURCE), "-o", str(plugin)], check=True)
    return plugin


def run_counted(emulator: Sequence[str], program: Sequence[str]) -> tuple[str, list[Counts]]:
    """What the program prints, and its counts at every mark and at its end. RuntimeError: it fails."""
    command = [*emulator, "-plugin", str(build_plugin()), *program]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r"insns (\d+) fmla (\d+) vecload (\d+)", done.stderr)
    if done.returncode != 0 or not found:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout, [Counts(*map(int, counts)) for counts in found]


def difference(after: Counts, before: Counts, runs: int) -> Counts:
    """Of one of so many runs."""
    return Counts(*((b - a) // runs for a, b in zip(before, after, strict=True)))


def per_run(emulator: Sequence[str], program: Callable[[int], Sequence[str]], runs: int = RUNS) -> tuple[str, Counts]:
    """What program(runs) prints, and the counts of one run of it."""
    printed, once = run_counted(emulator, program(runs))
    _, twice = run_counted(emulator, program(2 * runs))
    return printed, difference(twice[-1], once[-1], runs)


def count_one_run(layer_arguments: list[str]) -> tuple[dict, Counts]:
    arguments = [str(BENCH), "--json", *layer_arguments, "--no-timing", "--runs"]
    row, counts = per_run(QEMU, lambda runs: [*arguments, str(runs)])
    return json.loads(row), counts


def loops_of(ukernel: str) -> list[a76_loops.Loop]:
    """Hot loops of a conv3x3 ukernel, one per pattern of the manifest; stride and tile stand in its name
    (..._s1_8x1_neon)."""
    name = re.fullmatch(r"f32_conv3x3_s([12])_(\d+)x(\d+)_neon", ukernel)
    if name is None:  # other bodies have a loop for each number of vectors
        return []
    stride, rows, vectors = name.groups()
    body = {"1": "Conv3x3", "2": "Conv3x3S2"}[stride]
    return a76_loops.hot_loops(a76_loops.disassemble(BENCH), rf"^pconv::neon::.*{body}<{rows}, {vectors}>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", type=layer_sizes, default="64,64,56,56", help="IC,OC,H,W")
    for geometry, default in (("--kernel", "3"), ("--stride", "1"), ("--block", "1")):
        parser.add_argument(geometry, default=default)
    parser.add_argument("--connectivity", default="3.1")
    parser.add_argument("--patterns", default="scp4")
    parser.add_argument("--ukernel")
    parser.add_argument("--fail-above", type=float, help="most instructions a run may take")
    parser.add_argument("--check", action="store_true", help="check the arguments and stop")
    options = parser.parse_args()
    if options.check:
        return
    arguments = ["--layer", options.layer, "--connectivity", options.connectivity, "--patterns", options.patterns]
    arguments += ["--kernel", options.kernel, "--stride", options.stride, "--block", options.block]
    arguments += ["--ukernel", options.ukernel] if options.ukernel else []
    row, counts = count_one_run(arguments)
    rates = sorted(loop.fmla_per_cycle for loop in loops_of(row["ukernel"]))
    geometry = f"{options.layer}  kernel {options.kernel}  stride {options.stride}  block {options.block}"
    print(f"layer {geometry}  density {row['density']:.4f}  ukernel {row['ukernel']}, one run, one thread")
    print(f"instructions          {counts.insns:12,}")
    print(f"FMLA                  {counts.fmla:12,}")
    print(f"vector loads          {counts.vector_loads:12,}")
    print(f"instructions per FMLA {counts.insns / max(counts.fmla, 1):12.2f}")
    if rates:
        print(
            f"model FMLA per cycle  {rates[0]:12.2f} slowest, {rates[len(rates) // 2]:.2f} median of {len(rates)} loops"
        )
    if options.fail_above is not None and counts.insns > options.fail_above:
        sys.exit(f"FAILED: {counts.insns:,} instructions a run, at most {options.fail_above:,.0f} allowed")


if __name__ == "__main__":
    main()
