"""pconv_ops: pattern-pruned convolutions on the CPU (PCONV, AAAI 2020, arXiv 1909.05073).

    torch model --prune_--> pruned model --convert--> faster model (nn.Module, .report)
        |                       |                          |
    PatternSet, SCP4        weights with zeros        PatternConv2d
                                |                          |
                              pack() --> PackedConv --> conv2d(x, packed) --> y
                                         packed bytes      |
                                       (docs/FORMAT.md)    plan -> ukernel     in the core

`import pconv_ops` needs numpy alone. Names that need torch are resolved on first use.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

try:
    from ._native import BackendUnavailable, PackedConv, PConvFormatError, version
except ModuleNotFoundError as error:
    if error.name != f"{__name__}._native":
        raise
    # Its name makes `python -m pconv_ops` say so in one line.
    raise ImportError(
        f"the compiled core is not in {__path__[0]}: run `make build` or `pip install .` in the source tree, or import"
        " pconv_ops from another folder where it is installed",
        name=__name__,
    ) from None
from .compiled import CompiledModel
from .info import cpu_info, show_config
from .ops import conv2d
from .packing import pack
from .patterns import SCP4, PatternSet
from .threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from .admm import ADMMPruner
    from .compiling import compile
    from .convert import convert
    from .modules import PatternConv2d
    from .opencl import OpenCLModel
    from .prune import prune_

__version__ = version()

__all__ = [
    "SCP4",
    "ADMMPruner",
    "BackendUnavailable",
    "CompiledModel",
    "OpenCLModel",
    "PConvFormatError",
    "PackedConv",
    "PatternConv2d",
    "PatternSet",
    "compile",
    "conv2d",
    "convert",
    "cpu_info",
    "get_num_threads",
    "pack",
    "prune_",
    "set_num_threads",
    "show_config",
]

_ON_DEMAND = {
    "ADMMPruner": "admm",
    "PatternConv2d": "modules",
    "OpenCLModel": "opencl",
    "compile": "compiling",
    "convert": "convert",
    "prune_": "prune",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f".{_ON_DEMAND[name]}", __name__)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"pconv_ops.{name} needs torch: pip install 'pconv_ops[torch]'", name="torch") from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Importing the submodule `convert` sets an attribute of that name, which would hide the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "convert" and isinstance(value, ModuleType):
            value = value.convert
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
