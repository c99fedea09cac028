"""Timing of layers and networks against torch, the result checked; used by the command and by bench/.

Every comparison interleaves rounds of ours with rounds of torch's own convolution on the same pruned weights, in NCHW
and in channels_last, and takes medians, so that a slow moment of the machine meets both. Inputs and outputs are what a
user has: contiguous NCHW in, a fresh contiguous NCHW tensor out, packing of tiles included. Weights and inputs are warm
in cache as far as they fit. Times are in milliseconds, rates in GFLOP/s of useful work (kept weights only).
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from . import _native
from ._native import BackendUnavailable
from .cases import BenchOptions, ConvCase, LayerSpec, convs, net_cases, pack_conv, single_case
from .checking import TOLERANCE, deviation
from .compiling import compile as compile_net
from .convert import convert
from .info import cpu_info
from .modules import PatternConv2d
from .ops import conv2d
from .report import format_table, layer_kind
from .threads import get_num_threads, restored_num_threads, set_num_threads
from .timing import interleave, keep_freed_memory

T = TypeVar("T")
Track = Callable[[Sequence[Any], str], Iterable[Any]]
Row = dict[str, Any]

ROW_KEYS = (
    *("net", "layer", "scope", "kind", "ic", "oc", "h", "w", "kernel", "stride", "groups", "dilation", "block"),
    *("pattern_set", "density", "isa", "threads", "backend", "ms", "useful_gflops", "peak_fraction"),
    *("dense_ms", "dense_layout", "speedup"),
)
PEAK_ROUNDS = 5


class WrongResult(RuntimeError):
    """Ours and the dense run disagree by more than checking.TOLERANCE: a time would mean nothing."""


def no_track(items: Sequence[T], label: str) -> Iterable[T]:
    """The silent stand-in for a progress bar."""
    return items


# ---- settings of a run -----------------------------------------------------------------------------------------------


@contextmanager
def runtime(options: BenchOptions) -> Iterator[tuple[str, int]]:
    """Both libraries at the options' thread count and plans at its ISA; yields (isa, threads), restores them on exit.
    The process keeps freed memory from then on."""
    threads = get_num_threads() if options.threads is None else options.threads
    keep_freed_memory()
    before = (torch.get_num_threads(), os.environ.get("PCONV_FORCE_ISA"))
    check_isa(options.isa)  # or the core would blame the variable, which nobody has set
    if options.isa is not None:
        os.environ["PCONV_FORCE_ISA"] = options.isa
    try:
        with restored_num_threads(), torch.inference_mode():
            set_num_threads(threads)
            torch.set_num_threads(threads)
            yield _native.current_isa(), threads
    finally:
        torch.set_num_threads(before[0])
        if before[1] is None:
            os.environ.pop("PCONV_FORCE_ISA", None)
        else:
            os.environ["PCONV_FORCE_ISA"] = before[1]


def check_isa(name: str | None) -> None:
    """BackendUnavailable for an instruction set that does not run here."""
    supported = [row["name"] for row in _native.isas() if row["supported"]]
    if name is not None and name not in supported:
        raise BackendUnavailable(f"isa: got {name!r}, this build runs here: {', '.join(supported)}")


def check_result(name: str, got: torch.Tensor, want: torch.Tensor) -> float:
    """deviation() of the two; WrongResult above TOLERANCE."""
    if got.shape != want.shape:
        raise WrongResult(f"{name}: ours has shape {tuple(got.shape)}, dense {tuple(want.shape)}")
    off = deviation(got, want)
    if not off <= TOLERANCE:
        raise WrongResult(f"{name}: ours and dense differ by {off:.3g} of the largest value (<= {TOLERANCE:g})")
    return off


def time_against_dense(
    ours: Mapping[str, Callable[[], torch.Tensor]], dense: nn.Module, x: torch.Tensor, rounds: int
) -> tuple[dict[str, float], float, str]:
    """(ms of each of `ours` by name, dense_ms, dense_layout) of them and of `dense(x)` in its faster layout, all
    interleaved; the results are compared."""
    x_last = x.contiguous(memory_format=torch.channels_last)
    dense_last = copy.deepcopy(dense).to(memory_format=torch.channels_last)
    layouts: dict[str, Callable[[], object]] = {"nchw": lambda: dense(x), "channels_last": lambda: dense_last(x_last)}
    ms = interleave(layouts | dict(ours), rounds)
    layout = min(layouts, key=lambda key: ms[key])
    for name, run in ours.items():
        check_result(name, run(), dense(x))
    return {name: ms[name] for name in ours}, ms[layout], layout


# ---- rows ------------------------------------------------------------------------------------------------------------


def gflops(nnz_positions: float, ms: float) -> float:
    """Useful GFLOP/s: 2 operations for each kept weight at each output position."""
    return 2e-6 * nnz_positions / ms


def bench_case(case: ConvCase, options: BenchOptions, isa: str, threads: int, forced: bool = False) -> Row:
    """Row of one layer. A layer that pruning left dense runs on torch on both sides, unless ours is forced."""
    conv, x = case.conv, case.x
    n, _, h, w = x.shape
    nnz, total = int(torch.count_nonzero(conv.weight)), conv.weight.numel()
    kind, ours = "dense", None
    if forced or nnz < total:
        kind = layer_kind(conv.weight.shape, conv.groups)
        packed = pack_conv(conv)
        packed.plan_info(n, h, w)  # a layer that cannot run yet says so before anything is timed

        def ours() -> torch.Tensor:
            return conv2d(x, packed)

    # The machine's speed drifts within seconds: the peak that counts is measured right before and after the layer.
    peak = _native.measure_peak(isa, threads, PEAK_ROUNDS)
    times, dense_ms, layout = time_against_dense({} if ours is None else {case.name: ours}, conv, x, options.rounds)
    ms = times.get(case.name, dense_ms)  # a layer that stays with torch: the same on both sides
    peak = max(peak, _native.measure_peak(isa, threads, PEAK_ROUNDS))
    positions = n * math.prod(conv(x).shape[-2:])
    row: Row = dict.fromkeys(ROW_KEYS)
    row.update(layer=case.name, scope="layer", kind=kind, ic=conv.in_channels, oc=conv.out_channels)
    row.update(h=h, w=w, kernel=conv.kernel_size[0], stride=conv.stride[0], groups=conv.groups)
    row.update(dilation=conv.dilation[0], block=case.block, density=nnz / total)
    row.update(ms=ms, dense_ms=dense_ms, dense_layout=layout)
    row["useful_gflops"] = gflops(nnz * positions, ms)
    row["peak_fraction"] = row["useful_gflops"] / peak
    return row


def net_rows(model: nn.Module, x: torch.Tensor, layers: Sequence[Row], options: BenchOptions) -> list[Row]:
    """The three rows of a net: the sum of its layer rows, and the converted and the compiled net against the pruned
    dense one."""
    fast, compiled = convert(model, x), compile_net(model, x)
    variants = {"whole_net": lambda: fast(x), "compiled_net": lambda: compiled(x)}
    ms, dense_ms, layout = time_against_dense(variants, model, x, options.rounds)
    layouts = {row["dense_layout"] for row in layers}
    scopes = {
        "conv_sum": (
            sum(row["ms"] for row in layers),
            sum(row["dense_ms"] for row in layers),
            layouts.pop() if len(layouts) == 1 else "mixed",
        ),
    } | {name: (own, dense_ms, layout) for name, own in ms.items()}
    weights = [conv.weight for _, conv in convs(model)]
    density = sum(int(torch.count_nonzero(w)) for w in weights) / sum(w.numel() for w in weights)
    work = sum(row["useful_gflops"] * row["ms"] for row in layers)
    rows = []
    for scope, (scope_ms, scope_dense_ms, scope_layout) in scopes.items():
        row: Row = dict.fromkeys(ROW_KEYS)
        row.update(scope=scope, block=options.block, density=density, ms=scope_ms, useful_gflops=work / scope_ms)
        row.update(dense_ms=scope_dense_ms, dense_layout=scope_layout)
        rows.append(row)
    return rows


def finish_rows(rows: list[Row], net: str | None, options: BenchOptions, isa: str, threads: int) -> list[Row]:
    """Fills in what all rows share; a net's rows are measured by the highest peak of its layers."""
    peak = peak_of(rows)
    for row in rows:
        row.update(net=net, pattern_set=options.patterns, isa=isa, threads=threads, backend="cpu")
        if row["scope"] != "layer":
            row["peak_fraction"] = row["useful_gflops"] / peak
        row["speedup"] = row["dense_ms"] / row["ms"]
    return rows


def peaks_of(rows: Iterable[Row]) -> list[float]:
    """The FMA peaks, in GFLOP/s, that the fractions of rows refer to; none of rows that did no work."""
    return [row["useful_gflops"] / row["peak_fraction"] for row in rows if row["peak_fraction"]]


def peak_of(rows: Iterable[Row]) -> float:
    """The highest of them, by which nets are measured and which pictures show. 0 where no row did any work."""
    return max(peaks_of(rows), default=0.0)


def bench_net(net: str, options: BenchOptions, track: Track = no_track) -> list[Row]:
    """A row per convolution of the zoo net's benchmarked part, then the conv_sum, whole_net and compiled_net rows."""
    model, x, cases = net_cases(net, options)
    with runtime(options) as (isa, threads):
        rows = [bench_case(case, options, isa, threads) for case in track(cases, net)]
        rows += net_rows(model, x, rows, options)
    return finish_rows(rows, net, options, isa, threads)


def bench_layer(spec: LayerSpec, options: BenchOptions) -> list[Row]:
    """One row: a pruned convolution of its own, on ours even where pruning leaves it dense."""
    case = single_case(spec, options)
    with runtime(options) as (isa, threads):
        rows = [bench_case(case, options, isa, threads, forced=True)]
    return finish_rows(rows, None, options, isa, threads)


def rows_text(rows: Sequence[Row], deviations: Mapping[str, float] | None = None) -> str:
    """The layer rows as a table, with a column of deviations by layer name if given; below it the rows of the net and
    the conditions that all rows share."""
    columns = {"layer": "layer", "kind": "kind", "ic": "ic", "oc": "oc", "h": "h", "w": "w"}
    columns |= {"stride": "stride", "block": "block", "density": "density"}
    columns |= {"ms": "ms", "useful_gflops": "GFLOP/s", "peak_fraction": "of peak"}
    columns |= {"dense_ms": "torch ms", "dense_layout": "torch layout", "speedup": "speedup"}
    layers = [row for row in rows if row["scope"] == "layer"]
    headers, cells = [*columns.values()], [[row[key] for key in columns] for row in layers]
    if deviations is not None:
        headers.append("deviation")
        cells = [[*line, f"{deviations[line[0]]:.1e}"] for line in cells]
    lines = [format_table(headers, cells)]
    for row in rows:
        if row["scope"] != "layer":
            lines.append(
                f"{row['scope']}: {row['ms']:.2f} ms, torch {row['dense_ms']:.2f} ms ({row['dense_layout']}):"
                f" speedup {row['speedup']:.2f}, {row['useful_gflops']:.1f} useful GFLOP/s"
            )
    return "\n".join([*lines, conditions_text(rows)])


def conditions_text(rows: Sequence[Row]) -> str:
    """The line of what all rows share."""
    low, high = min(peaks_of(rows), default=0.0), peak_of(rows)
    same = f"{low:.0f}" == f"{high:.0f}"
    peak = f"{high:.0f} GFLOP/s" if same else f"{low:.0f} to {high:.0f} GFLOP/s (each layer against its own)"
    return f"{rows[0]['threads']} thread(s), {rows[0]['isa']}, FMA peak {peak}, {cpu_info()['model']}"


# ---- cost of a call --------------------------------------------------------------------------------------------------


def call_overhead_us(rounds: int = 7) -> dict[str, float]:
    """Microseconds that conv2d() and PatternConv2d add to the core's own run of a [1, 64, 8, 8] torch input.

    The core's time is that of the binding's run on the same buffers less that of the binding's run on zero images,
    which costs its call, its plan lookup and nothing else.
    """
    case = single_case(LayerSpec(64, 64, 8, 8), BenchOptions())
    x, packed, layer = case.x, pack_conv(case.conv), PatternConv2d.from_dense(case.conv)
    y = torch.empty(1, 64, 8, 8)

    def core(images: int) -> None:
        packed.run(x.data_ptr(), y.data_ptr(), images, 8, 8, False, n_threads=1)

    with runtime(BenchOptions(threads=1)):
        variants = {"conv2d": lambda: conv2d(x, packed), "PatternConv2d": lambda: layer(x)}
        ms = interleave({**variants, "core": lambda: core(1), "empty": lambda: core(0)}, rounds)
    own = ms["core"] - ms["empty"]
    return {name: 1e3 * (ms[name] - own) for name in variants}
