"""The pconv command: demo, bench, compile, inspect, info, prune. Parses arguments, calls the library, prints.

Exit status: 0 done, 2 wrong usage or input (one line on stderr), 1 a fault of ours (with a traceback). Heavy imports
wait until a command needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ._native import version
from .cli_bench import add_bench
from .cli_common import NETS, UsageError, add_pruning, check_file, positive_int, thread_count, track
from .cli_compile import add_compile
from .patterns import named_patterns

PACKED_MAGIC, MODEL_MAGIC = b"PCONVPK\n", b"PCONVNN\n"
EXTRAS = {"torch": "torch", "matplotlib": "bench", "PIL": "bench", "tqdm": "bench"}


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def map_size(text: str) -> tuple[int, int]:
    """H,W"""
    try:
        h, w = (positive_int(part) for part in text.split(","))
    except (argparse.ArgumentTypeError, ValueError):
        raise argparse.ArgumentTypeError(f"got {text!r}, need H,W, each >= 1") from None
    return h, w


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(prog="pconv", description="Pattern-pruned CNN inference: prune, inspect, time.")
    parser.add_argument("--version", action="version", version=f"pconv_ops {version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    demo = commands.add_parser("demo", help="prune VGG-16, run a photograph through the dense and the fast model")
    demo.add_argument("--image", metavar="PATH", help="photograph (default: the one matplotlib brings)")
    demo.add_argument("--threads", type=thread_count, metavar="N", help="default: PCONV_NUM_THREADS or torch's number")
    demo.add_argument("--out", default="out", metavar="DIR", help="folder of demo.png (default: out)")
    demo.set_defaults(run=run_demo)

    add_bench(commands)
    add_compile(commands)

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


# ---- commands --------------------------------------------------------------------------------------------------------


def run_demo(args: argparse.Namespace) -> None:
    """pconv demo"""
    from . import demo

    result = demo.run(args.image, args.threads, Path(args.out), track)
    print(result.text())


def run_inspect(args: argparse.Namespace) -> None:
    """pconv inspect"""
    from .report import InspectReport, inspect_packed, pattern_text

    path = Path(args.target)
    if path.is_file() and begins_with(path, MODEL_MAGIC):
        return inspect_network(path, args)
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
        if begins_with(path, PACKED_MAGIC):
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


def inspect_network(path: Path, args: argparse.Namespace) -> None:
    """pconv inspect, of a model file."""
    from .compiled import CompiledModel
    from .network_report import network_report

    if args.map is not None:
        raise UsageError("--map: is for single layers; a model file has its own shapes")
    report = network_report(CompiledModel.load(path).native, path.stat().st_size)
    print(json.dumps(report.to_json(), indent=1) if args.json else report.text())


def begins_with(path: Path, magic: bytes) -> bool:
    """Whether a file is of the kind that begins so."""
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic


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
    if begins_with(source, PACKED_MAGIC):
        raise UsageError(f"{source}: holds packed weights, which are pruned already (see them with pconv inspect)")
    output = Path(args.output) if args.output else source.with_name(f"{source.stem}.pruned{source.suffix}")
    check_file("--output", output)
    if output.exists() and source.exists() and output.samefile(source):
        raise UsageError(f"--output: {output} is the checkpoint itself, whose weights would be lost")
    steps = iter(track(["read", "prune", "write"], "prune"))
    next(steps)
    content, state = load_checkpoint(source)
    if not conv_weights(state):
        dtypes = sorted({str(v.dtype).removeprefix("torch.") for v in state.values() if getattr(v, "ndim", 0) == 4})
        found = f", only in {', '.join(dtypes)}: save model.float().state_dict()" if dtypes else ""
        raise UsageError(f"{source}: holds no 4-D float32 weight{found}")
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
    except MemoryError:
        return fail(args, "out of memory")
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # torch's own way to say so
            return fail(args, "out of memory")
        if type(error).__name__ != "BackendUnavailable":
            raise
        return fail(args, str(error))
    return 0


def fail(args: argparse.Namespace, message: str) -> int:
    """Prints the one line of an error on stderr; returns its exit status."""
    print(f"pconv {args.command}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
