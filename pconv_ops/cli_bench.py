"""pconv bench: its arguments, and what it times and prints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_common import NETS, UsageError, add_pruning, check_file, positive_int, thread_count, track

if TYPE_CHECKING:
    from .cases import BenchOptions, LayerSpec


def add_bench(commands: Any) -> None:
    """Adds the command to the parsers of all commands."""
    bench = commands.add_parser("bench", help="time a network's layers, or one layer, beside torch")
    what = bench.add_mutually_exclusive_group()
    what.add_argument("--net", choices=NETS)
    what.add_argument("--layer", type=layer_sizes, metavar="IC,OC,H,W[,STRIDE]")
    bench.add_argument("--kernel", type=positive_int, metavar="K", help="with --layer: kernel size (default 3)")
    bench.add_argument("--groups", type=positive_int, metavar="G", help="with --layer (default 1)")
    bench.add_argument("--dilation", type=positive_int, metavar="D", help="with --layer (default 1)")
    bench.add_argument(
        "--sweep",
        choices=("density",),
        help="time a layer at all densities; without --layer, one of each kind (--net: that the net has)",
    )
    bench.add_argument("--plot", metavar="FILE", help="with --sweep: also draw a PNG")
    bench.add_argument("--backend", choices=("cpu", "opencl"), default="cpu", help="opencl: pruned against dense there")
    bench.add_argument("--device", metavar="NAME", help='with --backend opencl: a part of "platform: device"')
    add_pruning(bench)
    add_running(bench)
    bench.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    bench.set_defaults(run=run_bench)


def layer_sizes(text: str) -> tuple[int, ...]:
    """IC,OC,H,W or IC,OC,H,W,stride."""
    try:
        sizes = tuple(positive_int(part) for part in text.split(","))
    except argparse.ArgumentTypeError:
        sizes = ()
    if len(sizes) not in (4, 5):
        raise argparse.ArgumentTypeError(f"got {text!r}, need IC,OC,H,W or IC,OC,H,W,STRIDE, each >= 1")
    return sizes


def add_running(parser: argparse.ArgumentParser) -> None:
    """The options that say how layers are run."""
    parser.add_argument(
        "--threads", type=thread_count, metavar="N", help="default: PCONV_NUM_THREADS or torch's number"
    )
    parser.add_argument("--isa", metavar="NAME", help="instruction set (pconv info lists them; default: the best)")


def run_bench(args: argparse.Namespace) -> None:
    """pconv bench"""
    check_file("--json", args.json)
    check_file("--plot", args.plot)
    if args.plot is not None and args.sweep is None:
        raise UsageError("--plot: only with --sweep")
    if args.backend == "cpu" and args.device is not None:
        raise UsageError("--device: only with --backend opencl")
    if args.backend == "opencl":
        wrong = next((name for name in ("sweep", "threads", "isa") if getattr(args, name) is not None), None)
        if wrong is not None:
            raise UsageError(f"--{wrong}: not with --backend opencl")
    alone = [name for name in ("kernel", "groups", "dilation") if getattr(args, name) is not None]
    if args.layer is None and alone:
        raise UsageError(f"--{alone[0]}: only with --layer")
    if args.net is None and args.layer is None:
        if args.sweep is None:
            raise UsageError("needs --net, --layer or --sweep")
        if args.block != 1:
            raise UsageError("--block: with --sweep only for a --net or a --layer")
    rows = swept_rows(args) if args.sweep is not None else bench_rows(args)
    if args.json is not None:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def bench_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Times a net's layers or one layer; prints and returns the rows."""
    options = bench_options(args)
    if args.backend == "opencl":
        return device_rows(args, options)
    from . import benchmark

    if args.net is not None:
        rows = benchmark.bench_net(args.net, options, track)
    else:
        rows = benchmark.bench_layer(layer_spec(args), options)
    print(benchmark.rows_text(rows))
    return rows


def device_rows(args: argparse.Namespace, options: BenchOptions) -> list[dict[str, Any]]:
    """The same on an OpenCL device."""
    from . import opencl_bench

    if args.net is not None:
        rows = opencl_bench.bench_net(args.net, options, args.device)
    else:
        rows = opencl_bench.bench_layer(layer_spec(args), options, args.device)
    print(opencl_bench.rows_text(rows))
    return rows


def swept_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Times layers at all densities; prints and draws them, returns the rows."""
    from . import sweep

    if args.plot is not None:
        import matplotlib  # noqa: F401  missing, it is missed before minutes of timing
    options = bench_options(args)
    if args.net is not None:
        sweeps = sweep.sweep_net(args.net, options, track)
    elif args.layer is not None:
        sweeps = sweep.sweep_layer(layer_spec(args), options, track)
    else:
        sweeps = sweep.sweep_kinds(options, track)
    print(sweep.sweeps_text(sweeps))
    if args.plot is not None:
        sweep.draw_sweeps(args.plot, sweeps)
    return [row for swept in sweeps for row in swept.rows]


def bench_options(args: argparse.Namespace) -> BenchOptions:
    """The options of a bench command line."""
    from .cases import BenchOptions

    return BenchOptions(
        connectivity=args.connectivity,
        connectivity_1x1=args.connectivity_1x1,
        patterns=args.patterns,
        threads=args.threads,
        isa=args.isa,
        block=args.block,
    )


def layer_spec(args: argparse.Namespace) -> LayerSpec:
    """The layer of --layer, --kernel, --groups and --dilation."""
    from .cases import LayerSpec

    ic, oc, h, w, *stride = args.layer
    groups = args.groups or 1
    if ic % groups or oc % groups:
        raise UsageError(f"--groups: got {groups}, which does not divide {ic} and {oc}")
    return LayerSpec(ic, oc, h, w, stride[0] if stride else 1, args.kernel or 3, groups, args.dilation or 1)
