"""CompiledModel: a whole network in the core. Takes numpy arrays and torch tensors; torch is never imported here.

The core plans the network for each set of input shapes and runs it in one call. Sessions are kept by shape, a few of
each where several threads run at once.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._native import NativeModel, NativeSession, ukernels
from .graph import Shape
from .memory import aligned_empty
from .packing import is_tensor
from .profile_report import Profile, StepTime
from .threads import get_num_threads

Choice = tuple[int, str, str, tuple[int, int, int]]  # node, isa, ukernel, (n, h, w) of its input

_MAX_SHAPES = 8  # sets of input shapes that stay planned; the one not used for longest goes first
_MAX_IDLE = 4  # sessions of one of them that wait for calls; more only while as many calls are under way
MARGIN = 1.03  # a ukernel replaces the planned one where it is at least so much faster


class CompiledModel:
    """A compiled network (PCONV, AAAI 2020, section 5: the graph is run, not single layers).

    Made by compile() or load(). Call it with the network's inputs in order, or by name: float32 numpy arrays or CPU
    tensors; it returns what the network returned, a tensor or a tuple of tensors, of the kind of the first input.
    Contiguous inputs are read in place, others are copied. Immutable but for tune(); any number of threads may call it.
    """

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self._names = [name for name, _, _ in model.inputs()]
        self._single = bool(model.info["single_output"])
        self._choices: list[Choice] = list(model.choices())
        self._sessions: OrderedDict[tuple[Shape, ...], list[NativeSession]] = OrderedDict()

    # ---- running

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The network's outputs. TypeError: inputs of another number, name, kind or dtype, tensors that require a
        gradient. ValueError: a shape that the network was not compiled for."""
        tensors = self._ordered(inputs, named)
        arrays = [contiguous(name, tensor) for name, tensor in zip(self._names, tensors, strict=True)]
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        sessions, session = self._take(shapes)
        try:
            outputs = [_empty_like(tensors[0], shape) for shape in session.output_shapes]
            session.run(list(map(_address, arrays)), list(map(_address, outputs)), get_num_threads())
        finally:
            self._give_back(sessions, session)
        return outputs[0] if self._single else tuple(outputs)

    def _ordered(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
        if not named and len(inputs) == len(self._names):
            return inputs
        unknown = [name for name in named if name not in self._names[len(inputs) :]]
        missing = [name for name in self._names[len(inputs) :] if name not in named]
        if len(inputs) > len(self._names) or unknown or missing:
            given = f"{len(inputs)} inputs" + (f" and {', '.join(named)}" if named else "")
            raise TypeError(f"inputs: expected {', '.join(self._names)}; got {given}")
        return (*inputs, *(named[name] for name in self._names[len(inputs) :]))

    def _take(self, shapes: tuple[Shape, ...]) -> tuple[list[NativeSession], NativeSession]:
        """A session that nobody uses, and the list where it waits between calls."""
        sessions = self._sessions.setdefault(shapes, [])
        try:
            self._sessions.move_to_end(shapes)
            while len(self._sessions) > _MAX_SHAPES:
                self._sessions.popitem(last=False)
        except KeyError:  # another thread evicted it meanwhile: the list lives on until the call ends
            pass
        try:
            return sessions, sessions.pop()
        except IndexError:
            return sessions, self._model.plan(shapes, None, self._choices)

    def _give_back(self, sessions: list[NativeSession], session: NativeSession) -> None:
        """To the list that it came from: after tune() nobody looks there any more."""
        if len(sessions) < _MAX_IDLE:
            sessions.append(session)

    # ---- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a model file (docs/FORMAT.md): graph, packed weights, choices of tune(). Whenever this is stopped the
        file is the old one or the new one. OSError: it cannot be written."""
        name = os.fsencode(path)
        if b"\0" in name:
            raise ValueError(f"path: got {path!r}, a path holds no NUL")
        self._model.save(name, self._choices)

    def to_bytes(self) -> bytes:
        """What save() writes; equal networks and choices give equal bytes."""
        return self._model.to_bytes(self._choices)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CompiledModel:
        """A file that save() wrote, on any machine. It is read as a whole: what happens to it later does not matter.
        FileNotFoundError and other OSErrors: it cannot be read. PConvFormatError: it breaks docs/FORMAT.md."""
        with open(path, "rb"):  # Python's own errors for files that cannot be opened
            pass
        return cls(NativeModel.load(os.fsencode(path)))

    @classmethod
    def from_bytes(cls, data: Any) -> CompiledModel:
        """What to_bytes() gave."""
        return cls(NativeModel.from_bytes(data))

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledModel.from_bytes, (self.to_bytes(),)

    def emit_cpp(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes the network as C++ for inputs of the example's shapes: straight calls, weights beside them, a CMake
        project. Returns the files' paths. OSError: they cannot be written."""
        from .codegen import emit_cpp

        return emit_cpp(self._model, self._model.plan(None, None, []), Path(folder))

    # ---- what it is

    @property
    def native(self) -> NativeModel:
        """The network in the core."""
        return self._model

    @property
    def inputs(self) -> dict[str, Shape]:
        """Name -> shape on the example."""
        return {name: shape for name, shape, _ in self._model.inputs()}

    @property
    def outputs(self) -> dict[str, Shape]:
        """Name -> shape on the example; equal names are numbered."""
        rows: dict[str, Shape] = {}
        for i, (name, shape, _) in enumerate(self._model.outputs()):
            rows[name if name not in rows else f"{name}__{i}"] = shape
        return rows

    @property
    def choices(self) -> list[Choice]:
        """Ukernels that tune() chose: (node, isa, ukernel, (n, h, w) of its input)."""
        return list(self._choices)

    def __repr__(self) -> str:
        info = self._model.info
        kept = info["layer_bytes"] + info["tensor_bytes"]
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in self.inputs.items())
        return f"CompiledModel({shapes}; {info['n_nodes']} operators, {kept} bytes of weights)"

    # ---- measuring

    def profile(self, *inputs: Any, runs: int = 20) -> Profile:
        """Time of every operator, memory; print it or .plot() it. Without inputs: zeros of the example's shapes."""
        check_runs(runs)
        tensors = self._example(inputs)
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        sessions, session = self._take(shapes)
        try:
            measured = _Runs(session, tensors)
            times, whole = measured.step_seconds(runs), measured.seconds(runs)
            steps, info = session.steps(), session.info
        finally:
            self._give_back(sessions, session)
        layers = [
            StepTime(step["name"], _op(step), step["ukernel"] or "", step["output"][3], step["macs"], 1e3 * seconds)
            for step, seconds in zip(steps, times, strict=True)
        ]
        sizes = {key: info[key] for key in ("arena_bytes", "live_bytes", "weight_bytes", "scratch_bytes_per_thread")}
        return Profile(layers, 1e3 * whole, runs, info["isa"], get_num_threads(), **sizes)

    def tune(self, *inputs: Any, runs: int = 15) -> list[Choice]:
        """Measures every ukernel of this machine's ISA for every convolution on inputs of these shapes (none: the
        example's) and keeps those that are more than 3 % faster than the planned ones; saved with the network. Returns
        what was chosen. Other shapes and ISAs keep their choices; results may differ in rounding."""
        check_runs(runs)
        tensors = self._example(inputs)
        planned = self._model.plan([tuple(tensor.shape) for tensor in tensors])  # without choices
        maps = {step["node"]: _map(step) for step in planned.steps() if step["ukernel"] is not None}
        isa = planned.info["isa"]
        best = _fastest(self._model, tensors, planned, runs)
        found = [(node, isa, ukernel, maps[node]) for node, ukernel in best.items()]
        measured = {(node, isa, shape) for node, shape in maps.items()}
        others = [choice for choice in self._choices if (choice[0], choice[1], choice[3]) not in measured]
        self._choices = others + found
        self._sessions = OrderedDict()
        return found

    def _example(self, inputs: tuple[Any, ...]) -> list[Any]:
        if not inputs:
            return [np.zeros(shape, np.float32) for shape in self.inputs.values()]
        return [contiguous(name, x) for name, x in zip(self._names, self._ordered(inputs, {}), strict=True)]


def _op(step: Mapping[str, Any]) -> str:
    return f"{step['op']}+max_pool" if step["max_pool"] else str(step["op"])


def _map(step: Mapping[str, Any]) -> tuple[int, int, int]:
    n, _, h, w = step["inputs"][0][3]
    return n, h, w


class _Runs:
    """A session and tensors to run it on again and again; once before anything is measured."""

    def __init__(self, session: NativeSession, tensors: list[Any]) -> None:
        self.session, self.tensors = session, tensors
        self.outputs = [aligned_empty(shape) for shape in session.output_shapes]
        self.run()

    def run(self, step_seconds: npt.NDArray[np.float64] | None = None) -> None:
        addresses = list(map(_address, self.tensors)), list(map(_address, self.outputs))
        self.session.run(*addresses, get_num_threads(), step_seconds)

    def step_seconds(self, runs: int) -> list[float]:
        """Median of every step."""
        seconds = np.zeros((runs, self.session.info["n_steps"]))
        for row in seconds:
            self.run(row)
        return [float(median) for median in np.median(seconds, axis=0)]

    def seconds(self, runs: int) -> float:
        """Median of whole runs, without the clocks of steps."""
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            self.run()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def check_runs(runs: int) -> None:
    if not isinstance(runs, int) or isinstance(runs, bool):
        raise TypeError(f"runs: expected an int, got {type(runs).__name__}")
    if runs < 1:
        raise ValueError(f"runs: expected >= 1, got {runs}")


def _fastest(model: NativeModel, tensors: list[Any], planned: NativeSession, runs: int) -> dict[int, str]:
    """Node -> ukernel, where one is faster than the planned one. All layers try the same ukernel at once: as many
    sessions as there are ukernels, not as there are pairs of both."""
    isa, shapes = planned.info["isa"], [tuple(tensor.shape) for tensor in tensors]
    layers = [step for step in planned.steps() if step["ukernel"] is not None]
    usual = {step["node"]: step["ukernel"] for step in layers}
    times: dict[int, dict[str, float]] = {node: {} for node in usual}

    def measure(session: NativeSession, wanted: Mapping[int, str]) -> None:
        """Of the steps that run on the ukernel that was wanted; others were planned as ever."""
        steps = session.steps()
        if any(wanted.get(step["node"], "") == step["ukernel"] for step in steps):
            for step, seconds in zip(steps, _Runs(session, tensors).step_seconds(runs), strict=True):
                if wanted.get(step["node"], "") == step["ukernel"]:
                    known = times[step["node"]]
                    known[step["ukernel"]] = min(seconds, known.get(step["ukernel"], seconds))

    measure(planned, usual)
    for name in [row["name"] for row in ukernels() if row["isa"] == isa]:
        choices = [(step["node"], isa, name, _map(step)) for step in layers]
        measure(model.plan(shapes, isa, choices), dict.fromkeys(usual, name))
    best = {node: min(found, key=found.__getitem__) for node, found in times.items()}
    return {node: name for node, name in best.items() if times[node][name] * MARGIN < times[node][usual[node]]}


def contiguous(name: str, x: Any) -> Any:
    """The input, or a copy of it that the core can read."""
    if isinstance(x, np.ndarray):
        if x.dtype != np.float32 or not x.dtype.isnative:
            raise TypeError(f"{name}: expected native float32, got dtype {x.dtype.str}")
        if x.flags.c_contiguous and x.flags.aligned:
            return x
        copy = aligned_empty(x.shape)
        copy[...] = x
        return copy
    if not is_tensor(x):
        raise TypeError(f"{name}: expected a numpy array or torch tensor, got {type(x).__name__}")
    torch = sys.modules["torch"]
    if x.dtype is not torch.float32 or x.device.type != "cpu" or x.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense float32 tensor on the CPU, got {x.dtype} on {x.device}")
    if x.requires_grad and torch.is_grad_enabled():
        raise TypeError(f"{name}: requires a gradient, which a compiled network does not give: use torch.no_grad()")
    return x.resolve_neg().contiguous()


def _empty_like(x: Any, shape: Shape) -> Any:
    return aligned_empty(shape) if isinstance(x, np.ndarray) else x.new_empty(shape)


def _address(x: Any) -> int:
    return int(x.ctypes.data if isinstance(x, np.ndarray) else x.data_ptr())
