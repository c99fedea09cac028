"""The pconv command: demo, bench, inspect, info, prune. Parses arguments, calls the library, prints.

Exit status: 0 done, 2 wrong usage or input (one line on stderr), 1 a fault of ours (with a traceback). Heavy imports
wait until a command needs them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ._native import version
from .patterns import PATTERN_SETS, named_patterns

if TYPE_CHECKING:
    from .cases import BenchOptions, LayerSpec

PACKED_MAGIC = b"PCONVPK\n"
NETS = (  # of zoo.py, which needs torch
    *("vgg16", "vgg16_cifar", "resnet18", "resnet18_cifar", "resnet50", "resnet50_cifar"),
    *("mobilenet_v2", "mobilenet_v2_cifar"),
)
EXTRAS = {"torch": "torch", "matplotlib": "bench", "PIL": "bench", "tqdm": "bench"}


class UsageError(ValueError):
    """The command line or an input file is at fault."""


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


# ---- arguments -------------------------------------------------------------------------------------------------------


def positive_int(text: str) -> int:
    """An integer >= 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, need an integer >= 1")
    return value


def rate(text: str) -> float:
    """A finite number >= 1: one kernel in `rate` is kept."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 1):
        raise argparse.ArgumentTypeError(f"got {text!r}, need a number >= 1")
    return value


def layer_sizes(text: str) -> tuple[int, ...]:
    """IC,OC,H,W or IC,OC,H,W,stride."""
    try:
        sizes = tuple(positive_int(part) for part in text.split(","))
    except argparse.ArgumentTypeError:
        sizes = ()
    if len(sizes) not in (4, 5):
        raise argparse.ArgumentTypeError(f"got {text!r}, need IC,OC,H,W or IC,OC,H,W,STRIDE, each >= 1")
    return sizes


def map_size(text: str) -> tuple[int, int]:
    """H,W"""
    try:
        h, w = (positive_int(part) for part in text.split(","))
    except (argparse.ArgumentTypeError, ValueError):
        raise argparse.ArgumentTypeError(f"got {text!r}, need H,W, each >= 1") from None
    return h, w


def add_pruning(parser: argparse.ArgumentParser) -> None:
    """The options that say how weights are pruned."""
    parser.add_argument(
        "--connectivity", type=rate, default=3.1, metavar="R", help="keep 1/R of the kernels of a layer (default 3.1)"
    )
    parser.add_argument(
        "--connectivity-1x1", type=rate, metavar="R", help="the same for 1x1 layers (default: leave them)"
    )
    parser.add_argument("--patterns", choices=PATTERN_SETS, default="scp4", help="pattern set of 3x3 layers")
    parser.add_argument(
        "--block",
        type=positive_int,
        default=1,
        metavar="B",
        help="filters that keep the same kernels (default 1); in a network: those of its 1x1 layers",
    )


def add_running(parser: argparse.ArgumentParser) -> None:
    """The options that say how layers are run."""
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="default: PCONV_NUM_THREADS or torch's number"
    )
    parser.add_argument("--isa", metavar="NAME", help="instruction set (pconv info lists them; default: the best)")


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(prog="pconv", description="Pattern-pruned CNN inference: prune, inspect, time.")
    parser.add_argument("--version", action="version", version=f"pconv_ops {version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    demo = commands.add_parser("demo", help="prune VGG-16, run a photograph through the dense and the fast model")
    demo.add_argument("--image", metavar="PATH", help="photograph (default: the one matplotlib brings)")
    demo.add_argument("--threads", type=positive_int, metavar="N", help="default: PCONV_NUM_THREADS or torch's number")
    demo.add_argument("--out", default="out", metavar="DIR", help="folder of demo.png (default: out)")
    demo.set_defaults(run=run_demo)

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
    add_pruning(bench)
    add_running(bench)
    bench.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    bench.set_defaults(run=run_bench)

    inspect = commands.add_parser("inspect", help="patterns, connections, runs and bytes of each layer")
    inspect.add_argument(
        "target", metavar="TARGET", help=f"{', '.join(NETS)} (pruned here), a state dict or packed bytes"
    )
    add_pruning(inspect)
    inspect.add_argument(
        "--map", type=map_size, metavar="H,W", help="also show each layer's runs as planned for an H x W input"
    )
    inspect.add_argument("--json", action="store_true", help="print JSON instead of a table")
    inspect.set_defaults(run=run_inspect)

    info = commands.add_parser("info", help="version, CPU, instruction sets, ukernels, threads")
    info.add_argument("--json", action="store_true", help="print JSON instead of text")
    info.set_defaults(run=run_info)

    prune = commands.add_parser("prune", help="prune the convolutions of a state dict")
    prune.add_argument("checkpoint", metavar="CHECKPOINT", help="state dict, or a dict with a 'state_dict' entry")
    prune.add_argument("-o", "--output", metavar="OUT", help="default: CHECKPOINT with '.pruned' before its suffix")
    prune.add_argument("--skip", action="append", default=[], metavar="NAME", help="leave this layer (name or fnmatch)")
    add_pruning(prune)
    prune.set_defaults(run=run_prune)
    return parser


def track(items: Sequence[Any], label: str) -> Iterable[Any]:
    """A progress bar on stderr where that is a terminal and tqdm is installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return items
    return tqdm(items, desc=label, file=sys.stderr, disable=None, leave=False)


# ---- commands --------------------------------------------------------------------------------------------------------


def run_demo(args: argparse.Namespace) -> None:
    """pconv demo"""
    from . import demo

    result = demo.run(args.image, args.threads, Path(args.out), track)
    print(result.text())


def run_bench(args: argparse.Namespace) -> None:
    """pconv bench"""
    for option, path in (("--json", args.json), ("--plot", args.plot)):
        if path is not None and not Path(path).resolve().parent.is_dir():
            raise UsageError(f"{option}: the folder of {path} does not exist")
    if args.plot is not None and args.sweep is None:
        raise UsageError("--plot: only with --sweep")
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
    from . import benchmark

    options = bench_options(args)
    if args.net is not None:
        rows = benchmark.bench_net(args.net, options, track)
    else:
        rows = benchmark.bench_layer(layer_spec(args), options)
    print(benchmark.rows_text(rows))
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


def run_inspect(args: argparse.Namespace) -> None:
    """pconv inspect"""
    from .report import InspectReport, inspect_packed, pattern_text

    layers = [inspect_packed(name, packed, args.map) for name, packed in packed_layers(args)]
    if not layers:
        raise UsageError(f"{args.target}: holds no convolution")
    report = InspectReport(layers)
    if args.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        print(report.text())
        print(pattern_text(layers))


def packed_layers(args: argparse.Namespace) -> list[tuple[str, Any]]:
    """(name, PackedConv) of every convolution of the target: packed bytes, a state dict, or a zoo net pruned here."""
    path = Path(args.target)
    if path.is_file():
        if is_packed(path):
            from ._native import PackedConv

            return [(path.name, PackedConv.from_bytes(path.read_bytes()))]
        from .checkpoint import conv_groups, conv_weights, load_checkpoint
        from .packing import pack

        weights = conv_weights(load_checkpoint(path)[1])
        return [(n, pack(w, groups=conv_groups(w))) for n, w in track(list(weights.items()), "packing")]
    if args.target not in NETS:
        what = "is a folder, expected a file or" if path.is_dir() else "neither a file nor"
        raise UsageError(f"{args.target}: {what} one of {', '.join(NETS)}")
    from .cases import BenchOptions, convs, pack_conv, prune_by, seeded_net

    model = seeded_net(args.target)
    prune_by(model, BenchOptions(args.connectivity, args.connectivity_1x1, args.patterns, block=args.block))
    return [(name, pack_conv(conv)) for name, conv in track(convs(model), "packing")]


def is_packed(path: Path) -> bool:
    """Whether a file holds packed bytes."""
    with open(path, "rb") as file:
        return file.read(len(PACKED_MAGIC)) == PACKED_MAGIC


def run_info(args: argparse.Namespace) -> None:
    """pconv info"""
    facts = info()
    if args.json:
        print(json.dumps(facts, indent=1))
        return
    print(f"pconv_ops {facts['version']}")
    print(f"cpu       {facts['model']}, {facts['architecture']}, {facts['cpus']} usable")
    print(f"threads   {facts['threads']}")
    for row in facts["isas"]:
        state = "in use" if row["name"] == facts["isa"] else "available" if row["supported"] else "not in this CPU"
        print(f"isa       {row['name']}: {state}, {row['lanes']} fp32 lanes")
    for row in facts["ukernels"]:
        print(f"ukernel   {row}")
    for name, installed in facts["libraries"].items():
        print(f"{name:<9} {installed or 'not installed'}")


def info() -> dict[str, Any]:
    """What `pconv info --json` prints."""
    from importlib import metadata

    from . import _native
    from .info import cpu_info
    from .threads import get_num_threads

    libraries: dict[str, str | None] = {}
    for name in ("numpy", "torch", "pyopencl"):
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            libraries[name] = None
    return {"version": _native.version(), **cpu_info(), "threads": get_num_threads(), "libraries": libraries}


def run_prune(args: argparse.Namespace) -> None:
    """pconv prune"""
    from .cases import blocks_1x1
    from .checkpoint import conv_tree, conv_weights, load_checkpoint, save_atomically
    from .prune import prune_

    source = Path(args.checkpoint)
    if source.is_dir():
        raise UsageError(f"{source}: is a folder, expected a state dict that torch.save wrote")
    if is_packed(source):
        raise UsageError(f"{source}: holds packed weights, which are pruned already (see them with pconv inspect)")
    output = Path(args.output) if args.output else source.with_name(f"{source.stem}.pruned{source.suffix}")
    if not output.resolve().parent.is_dir():
        raise UsageError(f"--output: the folder of {output} does not exist")
    steps = iter(track(["read", "prune", "write"], "prune"))
    next(steps)
    content, state = load_checkpoint(source)
    if not conv_weights(state):
        raise UsageError(f"{source}: holds no 4-D float32 weight")
    next(steps)
    tree = conv_tree(state)  # shares the weights' memory with `content`
    report = prune_(
        tree,
        patterns=named_patterns(args.patterns),
        connectivity=args.connectivity,
        connectivity_1x1=args.connectivity_1x1,
        block=blocks_1x1(tree, args.block, args.connectivity_1x1),
        skip=args.skip,
    )
    next(steps)
    save_atomically(content, output)
    next(steps, None)
    print(report.text())
    print(f"written: {output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status (argparse exits by itself with 0 for --help and 2 for wrong usage)."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; nothing more can be written, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return fail(args, f"needs {error.name}: pip install 'pconv_ops[{extra}]'")
    except (ValueError, OSError) as error:
        return fail(args, str(error))
    except RuntimeError as error:
        if type(error).__name__ != "BackendUnavailable":
            raise
        return fail(args, str(error))
    return 0


def fail(args: argparse.Namespace, message: str) -> int:
    """Prints the one line of an error on stderr; returns its exit status."""
    print(f"pconv {args.command}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
