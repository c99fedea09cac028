"""The plan for a model that torch.fx can trace: groups from its graph, measured as the graph runs, a new GraphModule.

Called by convert.py. Tracing shows one path through Python code; here it is only believed after the traced graph gave
what the model gives on the example. walking.py is the plan for all other models, and for modules that the trace takes
as a whole.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from .candidates import has_hooks, is_pool, obstacle
from .checking import changed, fresh, incomparable, output_deviation, saved, snapshot
from .choosing import Judge
from .converted import ConvertedModule
from .epilogue import Case
from .fusion import INPLACE_OPERATORS, Finder, GraphGroup, Seen, input_of, rewritten
from .modules import PatternConv2d
from .pooling import NativeMaxPool2d, max_pool2d

_SAME = 1e-6  # the traced graph runs the same operations; anything more says that it is another computation
_FIXED = (type(None), bool, int, float, str)  # arguments that decide what a forward does


class UntraceableModel(Exception):
    """torch.fx cannot show what the model does; the text says why."""


class _Proxy(fx.Proxy):
    """fx.Proxy has no in-place operators, so that Python takes `x += y` for `x = x + y`; other names of x would then
    keep the old value."""


def _recording(target: Any) -> Any:
    def inplace(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return inplace


for _target in INPLACE_OPERATORS:
    setattr(_Proxy, f"__{_target.__name__}__", _recording(_target))


class ModelTracer(fx.Tracer):
    """Keeps as one call what is a layer, and what its own code or hooks make more than its forward."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            super().is_leaf_module(m, module_qualified_name)
            or isinstance(m, (_ConvNd, PatternConv2d, NativeMaxPool2d, torch.jit.ScriptModule))
            or has_hooks(m)
            or "forward" in vars(m)
            or parametrize.is_parametrized(m)
        )

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


class TracedPlan:
    """What can be converted in a traced model.

    `groups`: of its own convolutions; `regions`: modules that the trace takes as a whole, with convolutions inside;
    `calls`: every call of a convolution, with the name of its row in the report; `pools`: of a max pooling that may be
    replaced, with the name of its module, or its own.
    """

    def __init__(self, model: nn.Module, arguments: tuple[tuple[Any, ...], dict[str, Any]], expected: Any) -> None:
        """`model`, in evaluation mode, may be changed; `expected`: its outputs with torch's seed 0.

        UntraceableModel: take walking.py.
        """
        self.model = model
        torch.manual_seed(1)  # a random number that a trace keeps as a constant is not the one that seed 0 gives
        before, attributes = saved(model), _attributes(model)
        self.graph = _traced(model, arguments)
        marks = [*changed(model, before), *_differing(attributes, _attributes(model))]
        if marks:
            raise UntraceableModel(f"its forward changes '{marks[0]}', which a graph would not do")
        targets = {str(node.target) for node in self.graph.nodes if node.op == "call_module"}
        self.modules = {target: model.get_submodule(target) for target in targets}
        self.seen = self._run_and_compare(arguments, expected)
        self.calls: dict[fx.Node, str] = {}
        used = {name for name, _ in model.named_modules()}
        for node in self.graph.nodes:
            target = str(node.target)
            if node.op == "call_module" and isinstance(self.modules[target], _ConvNd):
                again = target in self.calls.values()
                self.calls[node] = _free_name(target, used | set(self.calls.values())) if again else target
        self.pools = {node: name for node in self.graph.nodes if (name := self._pool_name(node))}
        open_calls = {node: name for node, name in self.calls.items() if not self.obstacle_of(node)}
        self.groups = Finder(self.graph, self.modules, self.seen).find(open_calls)
        self.regions = [
            target
            for target, module in sorted(self.modules.items())
            if not isinstance(module, (_ConvNd, PatternConv2d))
            and any(isinstance(m, _ConvNd) for m in module.modules())
        ]

    def obstacle_of(self, node: fx.Node) -> str:
        """Why the convolution that the node calls stays; '' when it need not."""
        conv = self.modules[str(node.target)]
        assert isinstance(conv, _ConvNd)
        return obstacle(conv) or ("" if isinstance(input_of(node), fx.Node) else "called without a tensor")

    def used(self) -> set[nn.Module]:
        """Modules whose weights the graph uses itself: convolutions that it calls, owners of tensors that it reads."""
        owners = {str(node.target).rpartition(".")[0] for node in self.graph.nodes if node.op == "get_attr"}
        return {self.modules[str(node.target)] for node in self.calls} | {self.model.get_submodule(o) for o in owners}

    def _pool_name(self, node: fx.Node) -> str:
        """What a max pooling that may be replaced is called; '': the node is none."""
        if node.op == "call_module":
            return str(node.target) if is_pool(self.modules[str(node.target)]) else ""
        plain = node.op == "call_function" and node.target in (F.max_pool2d, torch.max_pool2d)
        return node.name if plain and len(node.args) < 7 and not node.kwargs.get("return_indices") else ""

    def _run_and_compare(self, arguments: Any, expected: Any) -> dict[fx.Node, Seen]:
        seen: dict[fx.Node, Seen] = {}
        try:
            _Runner(self._module(), self.graph, seen).run_on(arguments)
            for node in self.graph.nodes:  # numbers have no in-place operations; generated code would rebind a name
                if node.op == "call_function" and node.target in INPLACE_OPERATORS and node not in seen:
                    node.target = INPLACE_OPERATORS[node.target]
            torch.manual_seed(0)
            args, kwargs = fresh(arguments)
            got = self._module()(*args, **kwargs)
        except Exception as error:  # the original ran: the graph is at fault, whatever it is
            raise UntraceableModel(f"the traced graph fails: {first_line(error)}") from error
        reason = incomparable(expected)
        if reason:
            raise UntraceableModel(f"nothing shows that the traced graph computes the same: {reason}")
        off = output_deviation(got, expected)
        if not off <= _SAME:
            raise UntraceableModel(f"the traced graph computes something else (outputs differ by {off:.1e})")
        return seen

    def _module(self) -> fx.GraphModule:
        return fx.GraphModule(self._root(self.graph, {}), self.graph, type(self.model).__name__)

    def _root(self, graph: fx.Graph, layers: Mapping[str, nn.Module]) -> dict[str, Any]:
        """Everything that the graph names, by its name."""
        root: dict[str, Any] = {}
        for node in graph.nodes:
            target = str(node.target)
            if node.op == "call_module":
                root[target] = layers[target] if target in layers else self.modules[target]
            elif node.op == "get_attr":
                owner, _, name = target.rpartition(".")
                root[target] = getattr(self.model.get_submodule(owner), name)
        return root

    def run_once(self, arguments: Any) -> None:
        """Runs the original graph, for whoever watches its modules."""
        _Runner(self._module(), self.graph, {}).run_on(arguments)

    def survey(self, arguments: Any, judge: Judge) -> None:
        """Runs the original graph and shows the judge every group with its inputs and output, one after another."""
        _Surveyor(self._module(), self.graph, self.groups, self.pools, judge).run_on(arguments)

    def _path(self, name: str) -> str:
        """Where a packed layer goes: to the convolution's name, but never into a module that runs its own code."""
        if not any(name.startswith(f"{region}.") for region in self.regions):
            return name
        used = {name for name, _ in self.model.named_modules()} | set(self.calls.values())
        return _free_name(name.replace(".", "_"), used)

    def build(self, judge: Judge) -> nn.Module:
        """The model in which the layers that the judge replaced are packed ones."""
        chosen = [group for group in self.groups if group in judge.layers]
        ours = {judge.layers[group]: group for group in reversed(chosen)}  # a shared layer by its first group
        paths = {layer: self._path(group.name) for layer, group in ours.items()}
        layers: dict[str, nn.Module] = {path: layer for layer, path in paths.items()}
        renamed: dict[fx.Node, Any] = {}
        gone, taken = {group.node for group in chosen}, set(layers)
        for node, name in self.calls.items():  # a dense call of a module whose name a packed layer took
            target = str(node.target)
            if node not in gone and target in taken:
                same = [path for path, module in layers.items() if module is self.modules[target]]
                renamed[node] = same[0] if same else name
                layers[renamed[node]] = self.modules[target]
        for node, name in self.pools.items():
            if name in judge.pools and node.op == "call_module":
                layers[name] = NativeMaxPool2d.of(self.modules[name])
            elif name in judge.pools:
                renamed[node] = max_pool2d
        graph = rewritten(self.graph, {group: paths[judge.layers[group]] for group in chosen}, renamed)
        graph.lint()
        result = ConvertedModule(self._root(graph, layers), graph, type(self.model).__name__)
        return result.eval()


class _Runner(fx.Interpreter):
    """Runs a graph node by node and notes what its tensors look like."""

    def __init__(self, module: fx.GraphModule, graph: fx.Graph, seen: dict[fx.Node, Seen]) -> None:
        super().__init__(module, graph=graph)
        self.extra_traceback = False  # errors come through with their own text
        self.seen = seen

    def run_on(self, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        """`arguments` as the model takes them."""
        args, kwargs = fresh(arguments)
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
        values = []
        for i, node in enumerate(placeholders):
            name = str(node.target)
            if i < len(args):
                values.append(args[i])
            elif name in kwargs:
                values.append(kwargs[name])
            elif node.args:
                values.append(node.args[0])  # its default
            else:
                raise ValueError(f"no value for argument '{name}'")
        return self.run(*values, enable_io_processing=False)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.seen[n] = Seen(tuple(value.shape), value.dtype, str(value.device))
        return value


class _Surveyor(_Runner):
    """Stops at each group, when its inputs and its output are there, and shows them to the judge."""

    def __init__(
        self,
        module: fx.GraphModule,
        graph: fx.Graph,
        groups: list[GraphGroup],
        pools: Mapping[fx.Node, str],
        judge: Judge,
    ) -> None:
        super().__init__(module, graph, {})
        self.judge = judge
        self.pools = {node: name for node, name in pools.items() if judge.wants_pool(name)}
        self.starts = {group.node: group for group in groups}
        self.additions = {group.addition: group for group in groups if group.addition is not None}
        self.ends = {group.last: group for group in groups}
        self.inputs: dict[GraphGroup, torch.Tensor] = {}
        self.residuals: dict[GraphGroup, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        # Copies: an in-place operation may follow before the group ends.
        if n in self.starts:
            self.inputs[self.starts[n]] = snapshot(self.env[self.starts[n].source])
        if n in self.additions:
            group = self.additions[n]
            assert group.residual is not None
            self.residuals[group] = snapshot(self.env[group.residual])
        value = super().run_node(n)
        if n in self.ends:
            group = self.ends[n]
            self.judge.look(group, [Case(self.inputs.pop(group), self.residuals.pop(group, None), value)])
        if n in self.pools:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            ours = NativeMaxPool2d.of(self.fetch_attr(str(n.target))) if n.op == "call_module" else max_pool2d
            self.judge.look_at_pool(self.pools[n], ours(*args, **kwargs), value)
        return value


def _traced(model: nn.Module, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> fx.Graph:
    """The graph of the model's forward; arguments that are no tensors are fixed to the values they have."""
    tracer = ModelTracer()
    if tracer.is_leaf_module(model, ""):
        if isinstance(model, nn.DataParallel):
            raise UntraceableModel(f"the model is wrapped in {type(model).__name__}: convert its .module instead")
        raise UntraceableModel(
            f"the model itself, {type(model).__name__}, is a single layer, or has hooks or a forward of its own"
        )
    try:
        signature = inspect.signature(model.forward)
        bound = signature.bind(*arguments[0], **arguments[1])
        bound.apply_defaults()
        fixed = {name: value for name, value in bound.arguments.items() if isinstance(value, _FIXED)}
        graph = tracer.trace(model, fixed or None)
    except Exception as error:  # Python code may fail in any way on a value that is not there
        raise UntraceableModel(first_line(error)) from error
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        raise UntraceableModel(f"the forward of {type(model).__name__} takes *args or **kwargs")
    for node, name in zip(placeholders, signature.parameters, strict=True):
        node.target = name  # torch.fx calls a fixed argument name_1, which keyword callers do not know
    return graph


def _attributes(model: nn.Module) -> dict[str, Any]:
    """Attributes of all modules by name; of containers, what is in them."""
    found: dict[str, Any] = {}
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_tensor_constant") and not prefix:
                continue  # torch.fx puts it there
            parts = list(value.items()) if isinstance(value, Mapping) else value
            found[f"{prefix}.{name}".lstrip(".")] = tuple(parts) if isinstance(parts, (list, set, deque)) else value
    return found


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names whose values are not the same."""
    return [name for name in {**before, **after} if not _same(before.get(name), after.get(name))]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other or (type(one) is type(other) and isinstance(one, _FIXED) and one == other)


def _free_name(name: str, used: set[str]) -> str:
    """`name`, or the first of name__2, name__3 ... that is not used."""
    number, free = 1, name
    while free in used:
        number += 1
        free = f"{name}__{number}"
    return free


def first_line(error: Exception) -> str:
    """An exception in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
