"""`pconv compile`: a network of the zoo, a torch program or a factory in a Python file -> model file, C++."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from .cli_common import NETS, UsageError, add_pruning, check_file, track

FACTORY = re.compile(r"(.+\.py):([A-Za-z_]\w*)")


def add_compile(commands: Any) -> None:
    """The `compile` command and its options."""
    parser = commands.add_parser("compile", help="a whole network -> one file that runs anywhere")
    parser.add_argument(
        "target",
        metavar="TARGET",
        help=f"MODEL.pt2 (torch.export.save), FILE.py:FACTORY (called without arguments), or {', '.join(NETS)} "
        "(random weights, pruned here)",
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="the model file, such as m.pconv")
    parser.add_argument("--weights", metavar="W.pt", help="state dict for the factory's model (read with weights_only)")
    parser.add_argument(
        "--input", type=input_shape, action="append", metavar="N,C,H,W", help="shape of an input, in order"
    )
    parser.add_argument("--fp16", action="store_true", help="store weights as fp16")
    parser.add_argument("--tune", action="store_true", help="measure which ukernels are best on this machine")
    parser.add_argument("--emit-cpp", metavar="DIR", help="also write the network as C++")
    add_pruning(parser)
    pruning = {name: parser.get_default(name) for name in ("connectivity", "connectivity_1x1", "patterns", "block")}
    parser.set_defaults(run=run_compile, pruning=pruning)


def input_shape(text: str) -> tuple[int, ...]:
    """1,3,224,224"""
    try:
        dims = tuple(int(part) for part in text.split(","))
    except ValueError:
        dims = ()
    if not dims or min(dims) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, need sizes such as 1,3,224,224, each >= 1")
    return dims


def run_compile(args: argparse.Namespace) -> None:
    """pconv compile"""
    if args.output is None and args.emit_cpp is None:
        raise UsageError("--output or --emit-cpp: neither is given")
    check_file("--output", args.output)
    from .compiling import compile as compile_model
    from .network_report import network_report

    steps = iter(track(["read", "compile", "tune", "write"], "compile"))
    next(steps)
    model, example = load_target(args)
    next(steps)
    compiled = compile_model(model, example, weights="fp16" if args.fp16 else "fp32")
    next(steps)
    if args.tune:
        compiled.tune()
    next(steps)
    written = []
    if args.output is not None:
        compiled.save(args.output)
        written.append(args.output)
    if args.emit_cpp is not None:
        written += map(str, compiled.emit_cpp(args.emit_cpp))
    next(steps, None)
    print(network_report(compiled.native, len(compiled.to_bytes())).text())
    print(f"written: {', '.join(written)}")


def load_target(args: argparse.Namespace) -> tuple[Any, Any]:
    """(what compile() takes, example inputs)."""
    if args.target not in NETS:
        for name, usual in args.pruning.items():
            if getattr(args, name) != usual:
                raise UsageError(f"--{name.replace('_', '-')}: is for {', '.join(NETS)}; prune others beforehand")
    factory = FACTORY.fullmatch(args.target)
    if factory is not None:
        return factory_model(Path(factory[1]), factory[2], args), example_of(args)
    if args.weights is not None:
        raise UsageError("--weights: is for FILE.py:FACTORY")
    if args.target.endswith(".pt2"):
        return program(args)
    if args.target not in NETS:
        raise UsageError(f"{args.target}: expected MODEL.pt2, FILE.py:FACTORY or one of {', '.join(NETS)}")
    from .cases import BenchOptions, net_cases

    options = BenchOptions(args.connectivity, args.connectivity_1x1, args.patterns, block=args.block)
    model, x, _ = net_cases(args.target, options)
    return model, x if args.input is None else example_of(args)


def factory_model(path: Path, name: str, args: argparse.Namespace) -> Any:
    """The module that a function of a Python file returns, with the weights of --weights."""
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    from torch import nn

    module = load_module(path)
    if not callable(getattr(module, name, None)):
        raise UsageError(f"{path}: has no function '{name}'")
    try:
        model = getattr(module, name)()
    except Exception as error:  # the user's code
        raise UsageError(f"{path}: {name}() raises {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{path}: {name}() returns a {type(model).__name__}, not an nn.Module")
    if args.weights is not None:
        from .checkpoint import load_checkpoint

        try:
            model.load_state_dict(load_checkpoint(args.weights)[1])
        except RuntimeError as error:  # torch's way to list keys that do not fit
            raise UsageError(f"--weights: {error}") from error
    return model


def load_module(path: Path) -> ModuleType:
    """A Python file as a module, which may import its neighbours."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # of a .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look for it there
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code
        raise UsageError(f"{path}: raises {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    return module


def program(args: argparse.Namespace) -> tuple[Any, Any]:
    """The program in a .pt2 file and the inputs that it was exported with, or random ones of --input."""
    path = Path(args.target)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    import torch

    try:
        loaded = torch.export.load(path)
    except Exception as error:  # torch raises whatever its readers raise
        raise UsageError(f"{path}: torch.export.load cannot read it: {error}") from error
    if args.input is not None:
        return loaded.module(), example_of(args)
    if loaded.example_inputs is None:
        raise UsageError("--input: is needed, the program has no example inputs")
    positional, named = loaded.example_inputs
    if positional and named:
        raise UsageError(f"{path}: takes positional and keyword arguments, which cannot be mixed here")
    return loaded.module(), dict(named) if named else tuple(positional)


def example_of(args: argparse.Namespace) -> Any:
    """Random inputs of the shapes of --input."""
    if args.input is None:
        raise UsageError("--input: is needed, such as --input 1,3,224,224")
    from .cases import random_input

    return tuple(random_input(*shape) for shape in args.input)
