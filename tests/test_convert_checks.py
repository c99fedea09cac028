"""Models whose outputs, state or attributes convert must not take on trust."""

import copy
from dataclasses import dataclass

import pytest
import torch
from networks import X, deviation, prune, random
from torch import nn
from torch.nn import functional as F

from pconv_ops import PatternConv2d, convert


@dataclass
class Output:
    y: torch.Tensor


class Opaque:
    __slots__ = ("y",)

    def __init__(self, y):
        self.y = y


class Model(nn.Module):
    """Two convolutions, used as the function given says."""

    def __init__(self, forward, **more):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        for name, value in more.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def model(forward, **more):
    torch.manual_seed(0)
    return prune(Model(forward, **more)).eval()


def reasons(fast):
    return {row.name: row.reason for row in fast.report.layers}


def packed(fast):
    return [name for name, module in fast.named_modules() if isinstance(module, PatternConv2d)]


@pytest.mark.parametrize("wrap", [lambda y: y, Output, lambda y: [Output(y)]])
def test_frozen_random_numbers_are_found_in_objects(wrap):
    fast = convert(model(lambda m, x: wrap(m.a(x) + torch.randn(8, 1, 1))), X, fallback="never")
    assert any("not traced" in note for note in fast.report.notes)
    assert fast.report.deviation is not None and packed(fast) == ["a"]


def test_outputs_that_cannot_be_compared():
    fast = convert(model(lambda m, x: Opaque(m.a(x))), X, fallback="never")
    assert fast.report.deviation is None and any("Opaque" in note for note in fast.report.notes)


def autocast(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = m.a(x)
    return m.b(y.float())


def test_layers_under_autocast_stay_dense():
    fast = convert(model(autocast), X, fallback="never")
    assert reasons(fast)["a"] == "gives bfloat16: runs under autocast" and packed(fast) == ["b"]


def test_layers_that_are_not_called_in_every_run():
    counts = {"n": 0}

    def forward(m, x):
        counts["n"] += 1
        return m.b(m.a(x) if counts["n"] % 2 and float(x.sum()) < 1e9 else x)

    for first in (0, 1):  # whichever run is the one that skips the layer
        counts["n"] = first
        fast = convert(model(forward), X, fallback="never")
        assert "not called" in reasons(fast)["a"] and packed(fast) == ["b"]


def by_hand(m, x):
    y = m.b(x.to(m.b.weight.dtype))
    return F.conv_transpose2d(m.a(x), m.a.weight, padding=1) + y if float(x.sum()) < 1e9 else y


@pytest.mark.parametrize("name", ["a", "b"])
def test_layers_whose_weights_the_model_reads_stay_dense(name):
    model_ = model(lambda m, x: by_hand(m, x) if name == "b" else m.b(F.conv2d(m.a(x), m.a.weight * float(x.sum()))))
    fast = convert(model_, X, fallback="never")
    assert "reads its weight" in reasons(fast)["a"] and packed(fast) == ([] if name == "b" else ["b"])
    assert all(type(module) is nn.Conv2d for module in model_.children())


def test_weights_read_beside_a_hooked_container():
    m = model(lambda m, x: m.a(F.conv2d(m.box(x), m.box[0].weight)), box=nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)))
    m.box.register_forward_hook(lambda module, args, y: y * 2)
    fast = convert(m, X, fallback="never")
    assert type(fast.box[0]) is nn.Conv2d and packed(fast) == ["a"] and fast.report.deviation < 1e-5


def test_the_original_comes_back_where_the_converted_model_fails():
    def forward(m, x):
        assert type(m.a) is not PatternConv2d
        return m.a(x) if float(x.sum()) < 1e9 else x

    fast = convert(model(forward), X, fallback="never")
    assert not packed(fast) and "fails" in reasons(fast)["a"]
    assert any("AssertionError" in note for note in fast.report.notes)


def test_weights_can_be_read_without_an_example():
    m = model(by_hand)
    fast = convert(m)
    assert packed(fast) == ["a", "b"] and not {"a.weight", "a.bias"} & set(fast.state_dict())
    assert torch.equal(fast.a.weight, m.a.weight) and torch.equal(fast.a.bias, m.a.bias)
    with torch.no_grad():
        assert deviation(fast(X), m(X)) < 1e-4


def counting(m, x):
    m.n = m.n + 1
    return m.a(x)


def inplace(m, x):
    m.n += 1
    return m.a(x)


def keeping(m, x):
    m.seen.append(x.shape)
    return m.a(x)


@pytest.mark.parametrize(
    ("forward", "more"),
    [
        (counting, {"n": torch.zeros(1)}),
        (inplace, {"n": torch.zeros(1)}),
        (counting, {"n": 0}),
        (keeping, {"seen": []}),
    ],
)
def test_updates_of_state_survive(forward, more):
    (name,) = more
    fast = convert(model(forward, **more), X, fallback="never")
    assert packed(fast) == ["a"] and any(f"changes '{name}'" in note for note in fast.report.notes)
    before = fast.n if name == "n" else len(fast.seen)
    before = before.clone() if isinstance(before, torch.Tensor) else before
    with torch.no_grad():
        fast(X)
    assert (fast.n if name == "n" else len(fast.seen)) == before + 1


@pytest.mark.parametrize("fallback", ["never", "always"])
@pytest.mark.parametrize("form", ["buffer", "attribute", "expanded"])
def test_tensors_that_a_forward_changes_are_as_before(form, fallback):
    value = torch.zeros(1).expand(4) if form == "expanded" else torch.zeros(1)
    m = model(counting if form == "expanded" else inplace, **({} if form == "attribute" else {"n": value}))
    if form == "attribute":
        m.n = value
    fast = convert(m, X, fallback=fallback)
    assert torch.equal(fast.n, value) and m.n is value and not value.any()


def test_buffers_that_are_expanded():
    m = model(lambda m, x: m.a(x) * m.n, n=torch.ones(1, 1, 1).expand(8, 1, 1))
    assert packed(convert(m, X, fallback="never")) == ["a"]


class Reporting(nn.Conv2d):
    report = property(lambda self: "read-only")


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("report", torch.zeros(1))


@pytest.mark.parametrize("example", [None, X])
@pytest.mark.parametrize("factory", [lambda: model(None, report=nn.Linear(2, 2)), Buffered, lambda: Reporting(8, 8, 3)])
def test_models_with_something_named_report(factory, example):
    with pytest.raises(ValueError, match="named 'report'"):
        convert(factory(), example)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_residuals_of_another_dtype(dtype):
    m = model(lambda m, x: torch.relu(m.a(x) + m.other(x)), other=nn.Identity())
    fast = convert(m, X, fallback="never")
    assert fast.report.layers[0].fused == ("other", "relu") or "add" in fast.report.layers[0].fused
    residual = random(2, 8, 9, 11, seed=3).mul(9).to(dtype)
    with torch.no_grad():
        want, got = torch.relu(m.a(X) + residual), fast.a(X, residual)
    assert got.dtype is want.dtype and deviation(got, want) < 1e-4


def test_data_parallel_is_named():
    fast = convert(nn.DataParallel(prune(nn.Sequential(nn.Conv2d(8, 8, 3)))).eval(), X, fallback="never")
    assert any("DataParallel" in note and ".module" in note for note in fast.report.notes)


def test_weights_that_a_traced_model_reads():
    m = model(lambda m, x: F.conv_transpose2d(m.a(x), m.a.weight, m.a.bias, padding=1))
    fast = convert(m, X, fallback="never")
    assert packed(fast) == ["a"] and fast.report.notes == []
    with torch.no_grad():
        assert deviation(copy.deepcopy(fast)(X), m(X)) < 1e-4
