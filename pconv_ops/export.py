"""export(): a torch model -> a Graph, by torch.export and, where that fails, by torch.export of what torch.fx traced.

Walks the nodes of torch's graph in order. What depends on no input is computed by torch here and now; everything else
goes to the handlers of aten.py and aten_shapes.py. Rewrites nothing for speed (that is passes.py). Needs torch.
"""

from __future__ import annotations

import inspect
import operator
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils._pytree import tree_leaves, tree_map

from . import aten, aten_shapes  # noqa: F401  they register handlers
from .convert import Arguments, call_arguments, deep_copy
from .graph import Graph, Value
from .lowering import HANDLERS, Builder, ChangedState, ExportError, Lacking, MissingOperator, UnsupportedOperatorError
from .tracing import first_line

_LITERALS = (type(None), bool, int, float, str)  # arguments that decide what a forward does
_SILENT = ("_assert_tensor_metadata.default", "_assert_async.msg", "_assert_scalar.default")  # checks without result
_EXPANDING = ("expand.default", "expand_as.default")
_KNOWN = {*HANDLERS, *_SILENT, *_EXPANDING, ""}  # "": a part of several results
_ASSIGNED = re.compile(r"The tensor attributes? .*? (was|were) assigned during export")
_MISSING = object()  # stands for the result of an operator that is missing


def export(model: nn.Module, example_inputs: Any) -> Graph:
    """The graph of `model` in evaluation mode; `model` itself stays as it is.

    example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments. Tensors are
    float32 on the CPU and become the graph's inputs, in the order and under the names of the forward's arguments; None,
    numbers and strings are fixed to their values. Outputs may be a tensor or nested in sequences and dicts: the graph
    has the flat list. What a forward writes to its inputs stays inside the graph: the caller's tensors do not change.

    TypeError: no module, other kinds of inputs, tensors of the model or the example that are no dense float32 CPU
    tensors. ValueError: outputs that are no float32 tensors; a forward that changes the model's buffers.
    UnsupportedOperatorError (a ValueError): operators that we lack, all of them. ExportError (a ValueError): the model
    cannot be exported, for example because its control flow depends on values.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    arguments = arguments_of(model, example_inputs)
    _check_state(model)
    with _plainly():
        return read_program(_program(model, tree_map(_usual_tensor, arguments)))


def read_program(program: Any) -> Graph:
    """The graph of a torch.export.ExportedProgram, for example from a .pt2 file: of a model in evaluation mode, with
    static shapes, not decomposed. It computes float32 on the CPU.

    TypeError, ValueError, UnsupportedOperatorError, ExportError: as export() raises them.
    """
    for name, tensor in program.state_dict.items():
        if tensor.is_floating_point() or tensor.device.type != "cpu":  # integers may be constants
            _check_tensor(f"model: '{name}'", tensor)
    program.graph.eliminate_dead_code()  # in-place operators stay
    with _plainly():
        return _Reader(program).graph


@contextmanager
def _plainly() -> Iterator[None]:
    """Without gradients, autocast and inference mode, in which torch.export refuses to work."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


def _usual_tensor(value: Any) -> Any:
    """The same as if it had not been made in inference mode."""
    return value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value


def arguments_of(model: nn.Module, example_inputs: Any) -> Arguments:
    """(positional, keyword) arguments of a call, these in the order of the forward's signature. TypeError: others than
    export() takes."""
    arguments = call_arguments(example_inputs)
    if arguments is None:
        raise TypeError("example_inputs: expected a tensor, a tuple of arguments or a dict, got None")
    order = [name for name in inspect.signature(model.forward).parameters if name in arguments[1]]
    arguments = arguments[0], {name: arguments[1][name] for name in dict.fromkeys([*order, *arguments[1]])}
    named = [*enumerate(arguments[0]), *arguments[1].items()]
    for name, value in named:
        if isinstance(value, torch.Tensor):
            _check_tensor(f"example_inputs: argument {name!r}", value)
        elif not isinstance(value, _LITERALS):
            kind = type(value).__name__
            raise TypeError(f"example_inputs: argument {name!r}: expected a tensor, number, string or None, got {kind}")
    if not any(isinstance(value, torch.Tensor) for _, value in named):
        raise TypeError("example_inputs: expected at least one tensor")
    return arguments


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type != "cpu":
        raise TypeError(f"{name}: expected a CPU tensor, got one on {tensor.device}")
    if tensor.dtype is not torch.float32:
        raise TypeError(f"{name}: expected float32, got {tensor.dtype}")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {tensor.layout}")


def _check_state(model: nn.Module) -> None:
    """Buffers of integers and booleans may be constants; whether they fit is seen where they are used."""
    for kind, held in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in held:
            if kind == "parameter" or tensor.is_floating_point() or tensor.device.type != "cpu":
                _check_tensor(f"model: {kind} '{name}'", tensor)


def _program(model: nn.Module, arguments: Arguments) -> Any:
    """An ExportedProgram: torch's training IR, not decomposed, of a copy of the model."""
    try:
        return _exported(deep_copy(model).eval(), arguments)
    except ChangedState:
        raise
    except Exception as error:  # Python code may fail in any way on values that are not there
        first = error
    try:
        return _exported(fx.symbolic_trace(deep_copy(model).eval()), arguments)
    except Exception as error:
        text = f"model: torch.export failed with {first_line(first)}; torch.fx with {first_line(error)}"
        raise ExportError(text) from first


def _exported(model: nn.Module, arguments: Arguments) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program = torch.export.export(model, *arguments)
    program.graph.eliminate_dead_code()
    placeholders = program.graph.find_nodes(op="placeholder")
    specs = zip(placeholders, program.graph_signature.input_specs, strict=True)
    read = {spec.target for node, spec in specs if node.users}
    for warning in caught:
        assigned = _ASSIGNED.match(str(warning.message))
        if assigned is None:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            continue
        for name in re.findall(r"self\.([^\s,]+)", assigned[0]):  # left for whoever looks, or for the next call
            if name in read:
                raise ChangedState(name)
    return program


class _Reader:
    """Builds `graph` from an exported program. `results`: what each node of torch's graph stands for: a Value, a
    constant (tensors, numbers) or a list of both."""

    def __init__(self, program: Any) -> None:
        self.graph = Graph()
        self.builder = Builder(self.graph)
        self.results: dict[fx.Node, Any] = {}
        self.missing: list[MissingOperator] = []
        nodes = list(program.graph.nodes)
        self.order = {node: i for i, node in enumerate(nodes)}
        self.storages: dict[int, list[fx.Node]] = {}
        self.state = self._read_inputs(program, [node for node in nodes if node.op == "placeholder"])
        for node in nodes:
            if node.op not in ("placeholder", "output"):
                self.results[node] = self._read(node)
                self._note_storage(node)
        if self.missing:
            raise UnsupportedOperatorError(self.missing)
        self._read_outputs(program, next(node for node in nodes if node.op == "output"))

    # ---- inputs and outputs

    def _read_inputs(self, program: Any, placeholders: list[fx.Node]) -> dict[int, str]:
        """Names of the model's own tensors, by their storage."""
        held = {**program.constants, **program.state_dict}
        state: dict[int, str] = {}
        for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                literal = isinstance(spec.arg, ConstantArgument)
                self.results[node] = spec.arg.value if literal else self._input(node)
                self._note_storage(node)
                continue
            tensor = held.get(spec.target)
            if not isinstance(tensor, torch.Tensor):
                raise ExportError(f"model: '{spec.target}' is no tensor but a {type(tensor).__name__}")
            self.results[node] = tensor.detach()
            state[_storage(tensor)] = spec.target
        return state

    def _input(self, node: fx.Node) -> Value:
        tensor = node.meta["val"]
        if not isinstance(tensor, torch.Tensor):
            raise ExportError(f"model: input '{node.target}' is no tensor but a {type(tensor).__name__}")
        if any(isinstance(size, torch.SymInt) for size in tensor.shape):
            raise ExportError(f"model: input '{node.target}' has dynamic dims {list(tensor.shape)}: export it without")
        _check_tensor(f"model: input '{node.target}'", tensor)
        return self.graph.add_input(str(node.target), tuple(tensor.shape))

    def _read_outputs(self, program: Any, output: fx.Node) -> None:
        by_name = {node.name: node for node in output.all_input_nodes}
        for number, spec in enumerate(program.graph_signature.output_specs):
            if spec.kind is not OutputKind.USER_OUTPUT or not isinstance(spec.arg, TensorArgument):
                what = repr(getattr(spec.arg, "value", spec.kind.name))
                raise ValueError(f"model: outputs are float32 tensors here; number {number} is {what}")
            node = by_name[spec.arg.name]
            dtype = node.meta["val"].dtype
            if dtype is not torch.float32:
                raise ValueError(f"model: outputs are float32 tensors here; number {number} is {dtype}")
            self._enter(node)
            self.graph.outputs.append(self.builder.value(self.results[node]))
        self.graph.single = program.call_spec.out_spec.is_leaf()

    # ---- nodes

    def _read(self, node: fx.Node) -> Any:
        """What a node stands for; what is missing is noted, and reading goes on."""
        self._enter(node)
        try:
            return self._made(node)
        except Lacking as lack:
            if node.name not in {row.node for row in self.missing}:  # a view is read again when it was overwritten
                self.missing.append(_missing(node, str(lack)))
        return _MISSING

    def _enter(self, node: fx.Node) -> None:
        made = _made_tensors(node)
        self.builder.shape = tuple(made[0].shape) if made else ()
        self.builder.name, self.builder.module = _name_of(node)

    def _made(self, node: fx.Node) -> Any:
        args, kwargs = tree_map(self._result, (node.args, node.kwargs), is_leaf=lambda part: isinstance(part, fx.Node))
        parts, target = tree_leaves((args, kwargs)), node.target
        name, _ = _handler_name(target)
        if target is not operator.getitem and not isinstance(target, torch._ops.OpOverload):
            raise Lacking("")
        if any(part is _MISSING for part in parts):
            if name in _KNOWN:
                return _MISSING
            raise Lacking("")
        if target is operator.getitem:
            return self._part(node, *args)
        if any(isinstance(part, Value) for part in parts):
            return self._runtime(node, target, _complete(target, args, kwargs))
        return self._constant(target, args, kwargs)

    def _result(self, part: Any) -> Any:
        return self.results[part] if isinstance(part, fx.Node) else part

    def _part(self, node: fx.Node, parts: Any, index: int) -> Any:
        if parts[index] is None and node.users:
            raise Lacking("indices of maxima are not computed")
        return parts[index]

    def _constant(self, target: Any, args: Any, kwargs: Any) -> Any:
        """torch computes what depends on no input."""
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise Lacking("draws random numbers")
        for tensor in _written(target, args, kwargs):
            self._check_written(tensor)
        return target(*args, **kwargs)

    def _check_written(self, tensor: torch.Tensor) -> None:
        name = self.state.get(_storage(tensor))
        if name is not None:
            raise ChangedState(name)

    def _runtime(self, node: fx.Node, target: Any, args: list[Any]) -> Any:
        name, in_place = _handler_name(target)
        if name in _SILENT:
            return None
        if target._schema.is_mutable:
            if isinstance(args[0], torch.Tensor):
                self._check_written(args[0])
            if not in_place or not isinstance(args[0], Value):
                raise Lacking("writes to a tensor in a way that a graph cannot follow")
        if name in _EXPANDING:
            return self._expanded(node, args[0])
        if name not in HANDLERS:
            raise Lacking("")
        result = HANDLERS[name](self.builder, *args)
        self._check_dtype(node)
        if in_place:
            self._overwrite(node, result)
        return result

    def _check_dtype(self, node: fx.Node) -> None:
        """Of one result; further ones, as indices, are noticed when they are read."""
        dtype = _made_tensors(node)[0].dtype
        if dtype is not torch.float32:
            raise Lacking(f"makes {dtype}, not float32")

    def _expanded(self, node: fx.Node, x: Value) -> Any:
        """Nothing, where the result is only read by operators that broadcast anyway."""
        target_shape = self.builder.shape
        if x.shape == target_shape:
            return x
        for reader in node.users:
            name = _handler_name(reader.target)[0] if isinstance(reader.target, torch._ops.OpOverload) else ""
            others = [arg for arg in reader.all_input_nodes if arg is not node]
            full = any(tuple(other.meta["val"].shape) == target_shape for other in others)
            if name not in ("add.Tensor", "sub.Tensor", "mul.Tensor") or not full:
                raise Lacking("expands a tensor that is read by more than additions and multiplications")
        return x

    # ---- tensors that share memory

    def _note_storage(self, node: fx.Node) -> None:
        for tensor in _made_tensors(node):
            self.storages.setdefault(_storage(tensor), []).append(node)

    def _overwrite(self, node: fx.Node, result: Value) -> None:
        """After an in-place operator: whoever is the written tensor under another name is the result from now on, and
        views of it are views of the result. What it is itself a part of must not be read again."""
        written = node.args[0]
        assert isinstance(written, fx.Node)
        before, renewed = self.results[written], set[fx.Node]()
        for other in self.storages.get(_storage(written.meta["val"]), []):
            if self.results[other] is before:
                self.results[other] = result
            elif not self._is_read_after(other, node):
                continue
            elif not renewed.isdisjoint(other.all_input_nodes):
                self.results[other] = self._read(other)
            else:
                raise Lacking(f"writes to a part of '{other.name}', which is read later")
            renewed.add(other)

    def _is_read_after(self, node: fx.Node, place: fx.Node) -> bool:
        """Whether a node's result is read behind a place, by itself or through views."""
        memory = self.storages[_storage(place.meta["val"])]
        return any(
            self.order[reader] > self.order[place] or (reader in memory and self._is_read_after(reader, place))
            for reader in node.users
        )


def _made_tensors(node: fx.Node) -> list[torch.Tensor]:
    """What torch knows of a node's results: fake tensors."""
    return [value for value in tree_leaves(node.meta.get("val")) if isinstance(value, torch.Tensor)]


def _storage(tensor: torch.Tensor) -> int:
    """Equal for tensors that share memory, also for the fake ones of an exported graph."""
    return tensor.untyped_storage()._cdata


def _handler_name(target: Any) -> tuple[str, bool]:
    """(name in HANDLERS, whether this is its in-place form)."""
    if not isinstance(target, torch._ops.OpOverload):
        return "", False
    name, overload = target._schema.name, target._overloadname
    in_place = name.endswith("_") and not name.endswith("__")
    return (
        f"{name.removeprefix('aten::').removesuffix('_') if in_place else name.removeprefix('aten::')}.{overload}",
        in_place,
    )


def _complete(target: Any, args: Any, kwargs: Any) -> list[Any]:
    """All arguments in the order of the schema."""
    given = list(args)
    for argument in target._schema.arguments[len(args) :]:
        given.append(kwargs.get(argument.name, argument.default_value))
    return given


def _written(target: Any, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    """The tensors that an operator writes to."""
    for argument, value in zip(target._schema.arguments, _complete(target, args, kwargs), strict=True):
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, torch.Tensor):
            yield value


def _modules(node: fx.Node) -> list[tuple[str, str]]:
    """(path, class) of the modules around a node, outermost first. A second call of a module is path@1."""
    stack = (node.meta.get("nn_module_stack") or {}).values()
    return [(re.sub(r"@\d+$", "", path), kind if isinstance(kind, str) else kind.__qualname__) for path, kind in stack]


def _name_of(node: fx.Node) -> tuple[str, str]:
    """(name, module): a layer of torch gives its path to its node, other modules a part of it."""
    path, kind = (_modules(node) or [("", "")])[-1]
    if not path:
        return node.name, ""
    layer = re.match(r"(torch\.nn\.modules\.(?!container)|pconv_ops\.(modules|pooling)\.)", kind) is not None
    return path if layer else f"{path}.{node.name}", path


def _missing(node: fx.Node, reason: str) -> MissingOperator:
    trace = [line.strip() for line in (node.stack_trace or "").splitlines() if line.strip()]
    at = max((i for i, line in enumerate(trace) if line.startswith("File ")), default=len(trace))
    return MissingOperator(str(node.target), node.name, _name_of(node)[1], " ".join(trace[at : at + 2]), reason)
