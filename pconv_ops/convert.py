"""convert(): a pruned model -> a faster one with the same outputs, and a report of what was done and why.

The flow: copy, run on the example, find groups (tracing.py, walking.py), let choosing.py check, time and choose each,
build, check and time the whole. Prunes nothing. Needs torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from . import choosing
from ._native import BackendUnavailable
from .candidates import dense_row, obstacle, unmeasured_obstacle
from .checking import LOUD, ConversionError, fresh, incomparable, output_deviation, restore, saved, seeded_output
from .choosing import FALLBACKS, Choices, Judge
from .conversion_report import ConvertReport, LayerConversion
from .converted import ConvertedModule
from .epilogue import UNUSED, Group
from .modules import PatternConv2d
from .pooling import NativeMaxPool2d
from .tracing import TracedPlan, UntraceableModel, first_line
from .walking import WalkedPlan

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
BACKENDS = ("cpu", "opencl")
_UNSEEN = "no example_inputs: nothing was measured and nothing fused"


def convert(
    model: nn.Module,
    example_inputs: Any = None,
    backend: str = "cpu",
    fallback: str = "auto",
    choices: Any = None,
    device: str | None = None,
) -> nn.Module:
    """A copy of `model` for inference that computes the same, faster; `model` itself stays as it is.

    Every nn.Conv2d (that very class; zero padding, float32 on the CPU, without hooks or parametrizations) may become a
    packed layer, with the BatchNorm behind it folded in by its running statistics, and ReLU, ReLU6, Hardtanh, clamp and
    the addition of a residual of equal shape computed in its epilogue. Which do is measured on the example, each on the
    very tensors that it meets in the model, in their memory format: ours is kept unless the original's own operations
    are more than 3 % faster in 5 of 7 interleaved rounds. Then the network is timed against the original by the same
    rule; where it loses, the original comes back. Max poolings (nn.MaxPool2d, and calls of max_pool2d in what torch.fx
    can trace) run natively, with equal results. Everything that is not replaced stays as it was. `report` of the
    result, a ConvertReport, says what was chosen for each convolution, why, and how far results deviate.

    example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments. The result runs
    with any batch and image size; arguments that are no tensors are fixed to their values here. Without an example
    nothing is fused or timed, and only layers are replaced that are known to win: 3x3, stride 1, less than 60 % of the
    weights left. backend: 'cpu', or 'opencl': every convolution that can run packed goes to the device by itself, the
    first GPU or the one whose "platform: name" contains `device`; nothing is fused or timed, transfers stand in the
    report (compile() keeps whole networks there). fallback, when to leave a layer to torch: 'auto' as measured,
    'never', 'always' (nothing is replaced; for checks). choices: a ConvertReport, or the path of one saved as JSON,
    whose choices are taken instead of measuring; the model and its inputs must be those of the report.

    The result is in evaluation mode, and no gradient passes a replaced layer. It is a torch.fx.GraphModule whose
    submodules keep their names (other attributes and methods of the model's class are not there); it copies, pickles
    and compiles. Where torch.fx cannot trace the model, or nothing is replaced, it is a copy of the model itself with
    layers replaced in place.

    TypeError: wrong kind. ValueError: another fallback; choices of another model; something named `report` in the way.
    BackendUnavailable: another backend, no such device.
    ConversionError (a RuntimeError): a packed layer computed something else than the original. What the model raises
    on the example comes through.
    """
    _check(model, backend, fallback)
    if device is not None and backend != "opencl":
        raise ValueError(f"device: got {device!r}, which is for backend='opencl'")
    if backend == "opencl" and (fallback != "auto" or choices is not None):
        raise ValueError("fallback, choices: are for backend='cpu'; on a device nothing is timed")
    arguments = call_arguments(example_inputs)
    replay = None if choices is None else Choices(choices)
    original = deep_copy(model).eval()
    names = {module: name for name, module in original.named_modules() if isinstance(module, _ConvNd)}
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.random.fork_rng(devices=[]):
        if backend == "opencl":
            from .opencl_convert import convert_layers  # pyopencl only where it is asked for

            return convert_layers(original, arguments, device)
        if arguments is None:
            return _without_example(original, names, fallback, replay)
        return _Conversion(original, arguments, Judge(fallback, replay)).run()


def _check(model: Any, backend: Any, fallback: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    own = getattr(type(model), "report", None)
    if any("report" in held for held in (model._modules, model._parameters, model._buffers)):
        raise ValueError("model: has a submodule, parameter or buffer named 'report', the name of the ConvertReport")
    if isinstance(own, property) and own.fset is None:
        raise ValueError("model: has a read-only property named 'report', the name of the ConvertReport")
    check_backend(backend)
    if fallback not in FALLBACKS:
        raise ValueError(f"fallback: got {fallback!r}, allowed: {', '.join(FALLBACKS)}")


def check_backend(backend: Any) -> None:
    """TypeError: no name. BackendUnavailable: a backend that is not there."""
    if not isinstance(backend, str):
        raise TypeError(f"backend: expected a name, got {type(backend).__name__}")
    if backend not in BACKENDS:
        raise BackendUnavailable(f"backend: '{backend}' is not there; there are {', '.join(BACKENDS)}")


def call_arguments(example_inputs: Any) -> Arguments | None:
    """(positional, keyword) arguments of a call of the model; None without an example."""
    if example_inputs is None:
        return None
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    if isinstance(example_inputs, Mapping) and all(isinstance(key, str) for key in example_inputs):
        return (), dict(example_inputs)
    raise TypeError(
        "example_inputs: expected a tensor, a tuple of arguments or a dict of keyword arguments, got"
        f" {type(example_inputs).__name__}"
    )


def deep_copy(model: nn.Module) -> nn.Module:
    """copy.deepcopy, also of modules that hold a computed weight, as torch.nn.utils.prune and weight_norm leave it:
    torch refuses to copy those, and their hooks compute it again."""
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in held if not value.is_leaf})


def _twin(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares the parameters; buffers and plain tensors are its own, since a forward may
    write to them."""
    memo = {id(tensor): tensor for tensor in model.parameters()}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and id(value) not in memo:
                memo[id(value)] = value if isinstance(value, nn.Parameter) else value.detach().clone()
    return copy.deepcopy(model, memo)


def _without_example(
    original: nn.Module, names: dict[nn.Module, str], fallback: str, replay: Choices | None
) -> nn.Module:
    """Replaces layers one by one, in place; a module that is used in several places stays shared."""
    plan = WalkedPlan(original, [original], names, set())
    rows, layers = [], {}
    possible = {name: dense_row(name, conv, obstacle(conv)) for conv, name in names.items()}
    if replay is not None:
        replay.check(row if row.reason else replace(row, chosen="pconv") for row in possible.values())
    for conv, name in names.items():
        row = possible[name]
        if not row.reason:
            reason, ours = _unmeasured(conv, name, fallback, replay)  # type: ignore[arg-type]
            row = replace(row, chosen="pconv" if ours else "dense", reason=reason)
            if ours:
                layers[conv] = PatternConv2d.from_dense(conv).eval()  # type: ignore[arg-type]
        rows.append(row)
    for conv, layer in layers.items():
        plan.replace(conv, layer)
    judge = Judge(fallback, replay)
    pools = {pool: name for pool, name in plan.pools.items() if judge.wants_pool(name)}
    if replay is not None:
        replay.check_pools(plan.pools.values())
    for pool in pools:
        plan.replace(pool, NativeMaxPool2d.of(pool))  # type: ignore[arg-type]
    result = layers.get(original, original)
    result.report = ConvertReport(rows, notes=[_UNSEEN], pools=list(pools.values()))
    return result


def _unmeasured(conv: nn.Conv2d, name: str, fallback: str, replay: Choices | None) -> tuple[str, bool]:
    """(reason, whether the layer is replaced) where there is no example."""
    if replay is not None:
        return "as in choices", replay.wanted(name, ())
    if fallback != "auto":
        return f"fallback='{fallback}'", fallback == "never"
    reason = unmeasured_obstacle(conv)
    if reason:
        return f"{reason}; not measured", False
    return f"pruned: {dense_row(name, conv, '').density:.0%} of the weights are left; not measured", True


class _Conversion:
    """One conversion with an example, step by step."""

    def __init__(self, original: nn.Module, arguments: Arguments, judge: Judge) -> None:
        self.original, self.arguments, self.judge = original, arguments, judge
        self.notes: list[str] = []
        self.state = saved(original)
        self.expected = self._output(original)

    def _output(self, model: Callable[..., Any]) -> Any:
        return seeded_output(model, self.arguments)

    def run(self) -> nn.Module:
        traced, walked = self._plans()
        groups: list[Group] = [*(traced.groups if traced else ()), *walked.groups]
        stays = self._staying(traced, walked)
        if self.judge.choices is not None:
            open_rows = [replace(dense_row(group.name, group.conv, ""), chosen="pconv") for group in groups]
            self.judge.choices.check([*open_rows, *stays])
            self.judge.choices.check_pools([*(traced.pools.values() if traced else ()), *walked.pools.values()])
        if traced is not None:
            walked.survey(lambda: traced.survey(self.arguments, self.judge), self.judge)
            walked.apply(self.judge)
            result = traced.build(self.judge)
        else:
            walked.survey(lambda: self._output(walked.model), self.judge)
            result = walked.apply(self.judge)
        order = {name: i for i, (name, _) in enumerate(self.original.named_modules())}
        rows = [*stays, *(self.judge.rows[group] for group in groups)]
        rows.sort(key=lambda row: order.get(row.name, order.get(row.name.rpartition("__")[0], len(order))))
        return self._finished(result, ConvertReport(rows, notes=self.notes, pools=list(self.judge.pools)))

    def _plans(self) -> tuple[TracedPlan | None, WalkedPlan]:
        """A plan for what can be traced, if anything can, and one for the rest."""
        traced = None
        try:
            traced = TracedPlan(_twin(self.original), self.arguments, self.expected)
        except UntraceableModel as reason:
            self.notes.append(f"not traced, so only neighbours inside nn.Sequential are fused: {reason}")
        model = _twin(self.original) if traced is None else traced.model  # a failed trace leaves its marks on a model
        names = {module: name for name, module in model.named_modules() if isinstance(module, _ConvNd)}
        if traced is None:
            walked = WalkedPlan(model, [model], names, set())
            walked.watch(lambda: self._output(model))
        else:
            roots = [traced.modules[target] for target in traced.regions]
            walked = WalkedPlan(model, roots, names, traced.used())
            if roots:
                walked.watch(lambda: traced.run_once(self.arguments))
        return traced, walked

    def _staying(self, traced: TracedPlan | None, walked: WalkedPlan) -> list[LayerConversion]:
        """Rows of the convolutions that are in no group."""
        modules = {name: module for name, module in self.original.named_modules() if isinstance(module, _ConvNd)}
        rows = [dense_row(name, modules[name], reason) for name, reason in walked.reasons.items()]
        known = set(walked.reasons) | {group.name for group in walked.groups}
        if traced is not None:
            for node, name in traced.calls.items():
                known |= {name, str(node.target)}
                reason = traced.obstacle_of(node)
                if reason:
                    rows.append(dense_row(name, modules[str(node.target)], reason))
        return rows + [dense_row(name, conv, UNUSED) for name, conv in modules.items() if name not in known]

    def _finished(self, result: nn.Module, report: ConvertReport) -> nn.Module:
        """Checks and times the network; the original comes back where nothing was replaced or nothing won."""
        if not self.judge.layers and not self.judge.pools:
            self.notes.append("nothing was replaced: this is a copy of the model")
            result = self.original
        elif error := self._error(result):
            self.notes.append(f"the original came back: with layers replaced the model fails: {error}")
            result = self._as_it_was(report, "the model fails with layers replaced")
        else:
            report.deviation = self._checked_deviation(result)
            if self.judge.fallback == "auto" and self.judge.choices is None:
                result = self._faster(result, report)
        restore(result, self.state)  # counters and the like: no trace of our runs
        result.report = report
        return result

    def _error(self, result: nn.Module) -> str:
        """What keeps the result from running on the example, as code that looks into its own layers does; '' if
        nothing. The generated code of a traced model does not look."""
        if isinstance(result, ConvertedModule):
            return ""
        try:
            self._output(result)
        except Exception as error:  # the original ran
            return first_line(error)
        return ""

    def _as_it_was(self, report: ConvertReport, why: str) -> nn.Module:
        """The original; the report says so of each layer."""
        report.pools = []
        report.layers = [
            replace(row, chosen="dense", reason=f"{why}; this layer: {row.reason}") if row.chosen == "pconv" else row
            for row in report.layers
        ]
        return self.original

    def _checked_deviation(self, result: nn.Module) -> float | None:
        off = output_deviation(self._output(result), self.expected)
        reason = incomparable(self.expected)
        if reason and off <= LOUD:
            self.notes.append(f"outputs not compared, or not all: {reason}")
            return None
        if off <= LOUD:
            return off
        # Twice: a model that counts its calls may take turns.
        again = [output_deviation(self._output(self.original), self.expected) for _ in range(2)]
        if not max(again) <= LOUD:
            self.notes.append("outputs not compared: the model itself gives different ones for equal inputs")
            return None
        raise ConversionError(
            f"model: outputs of the converted and the original model differ by {off:.3g} of the largest value, though"
            " each layer agrees; this is a bug of pconv_ops, please report it"
        )

    def _faster(self, result: nn.Module, report: ConvertReport) -> nn.Module:
        """The converted model, or the original where that is faster by the rule or in the median."""
        mine, theirs = fresh(self.arguments), fresh(self.arguments)
        timed = choosing.race(
            "network", lambda: result(*mine[0], **mine[1]), lambda: self.original(*theirs[0], **theirs[1])
        )
        report.ms_ours, report.ms_dense = timed.ms
        if not (timed.lost or timed.slower):  # a layer stays by the rule; a network must not be slower in any way
            return result
        self.notes.append(
            f"the original came back: as a network it takes {report.ms_dense:.2f} ms, converted {report.ms_ours:.2f} ms"
        )
        return self._as_it_was(report, "the network is faster dense")
