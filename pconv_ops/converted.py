"""What convert() returns for a traced model: a torch.fx.GraphModule whose generated code finds its layers quickly.

Made by tracing.py. `self.features` of an nn.Module goes through its __getattr__, a Python function, and a layer of a
network stands behind three or four of them: half a microsecond each, where the layer's own call costs four. The code
written here reads the dictionaries in which nn.Module keeps its children, at each call, so that a child that somebody
puts in the place of another is seen.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import fx
from torch.fx.graph import CodeGen

from .conversion_report import ConvertReport


class _DirectCode(CodeGen):
    """The code that torch.fx writes, with submodules read from where nn.Module keeps them."""

    def _gen_python_code(self, nodes: Any, root_module: str, *args: Any, **kwargs: Any) -> Any:
        code = super()._gen_python_code(nodes, root_module, *args, **kwargs)
        source = code.src
        for node in nodes:
            if node.op == "call_module":
                by_name, direct = _by_name(root_module, str(node.target)), _direct(root_module, str(node.target))
                source = source.replace(f" {node!r} = {by_name}(", f" {node!r} = {direct}(")
        return replace(code, src=source)


def _by_name(root: str, target: str) -> str:
    """How torch.fx writes a submodule of a dotted name."""
    for name in target.split("."):
        root = f"{root}.{name}" if name.isidentifier() else f'getattr({root}, "{name}")'
    return root


def _direct(root: str, target: str) -> str:
    return root + "".join(f"._modules[{name!r}]" for name in target.split("."))


class ConvertedModule(fx.GraphModule):
    """A converted model: its forward as generated code over the model's modules.

    Submodules keep their names, attributes and methods of the model's class are gone. `report` survives copy and
    pickle, which plain GraphModules would drop.
    """

    report: ConvertReport

    def __init__(self, root: Any, graph: fx.Graph, class_name: str = "GraphModule") -> None:
        if type(graph._codegen) is CodeGen:  # others lay out arguments in their own way
            graph.set_codegen(_DirectCode())
        for node in graph.nodes:
            if isinstance(node.type, str):  # an annotation of a file with postponed ones, which does not pickle
                node.type = None
        super().__init__(root, graph, class_name)

    def __deepcopy__(self, memo: dict[int, Any]) -> ConvertedModule:
        result = super().__deepcopy__(memo)
        result.report = copy.deepcopy(self.report, memo)
        return result

    def __reduce__(self) -> Any:
        rebuild, arguments, *_ = super().__reduce__()
        return _unpickled, (rebuild, arguments, self.report)


def _unpickled(rebuild: Any, arguments: Any, report: ConvertReport) -> ConvertedModule:
    plain = rebuild(*arguments)
    result = ConvertedModule(plain, plain.graph, plain.__class__.__name__)
    result.report = report
    return result.train(plain.training)
