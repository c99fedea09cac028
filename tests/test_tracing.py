"""What comes of a traced model: names, shared layers, arguments, in-place operators, copies and pickles."""

import copy
import pickle

import pytest
import torch
from networks import (
    Residual,
    X,
    converted,
    deviation,
    fused,
    net,
    prune,
    random,
)
from torch import nn
from torch.nn import functional as F

from pconv_ops import PatternConv2d, choosing, convert


def test_a_module_called_twice_has_an_epilogue_each():
    model = net(lambda m, x: m.relu(m.a(m.norm(m.a(x)))) + m.a(x))
    fast = converted(model, X)
    assert fused(fast) == {"a": ("norm",), "a__2": ("relu",), "a__3": ("add",)}
    packed = [fast.a.packed, fast.a__2.packed, fast.a__3.packed]
    assert packed[1] is packed[2] and packed[0] is not packed[1]  # the same bytes are there once


def test_equal_epilogues_share_the_layer():
    fast = converted(net(lambda m, x: m.relu(m.a(m.relu(m.a(x))))), X)
    assert fused(fast) == {"a": ("relu",), "a__2": ("relu",)}
    assert [name for name, _ in fast.named_modules()] == ["", "a"]


def test_a_shared_module_may_be_dense_in_one_place(monkeypatch):
    def race(label, ours, dense):
        slow = label == "a__2"
        return choosing.Race([2.0 if slow else 0.5] * 7, [1.0] * 7)

    monkeypatch.setattr(choosing, "race", race)
    model = net(lambda m, x: m.relu(m.a(m.relu(m.a(x)))) + m.a(x))
    fast = convert(model, X)
    assert {row.name: row.chosen for row in fast.report.layers if row.kind == "conv3x3"} == {
        "a": "pconv",
        "a__2": "dense",
        "a__3": "pconv",
    }
    assert type(fast.a__2) is nn.Conv2d and isinstance(fast.a, PatternConv2d)
    with torch.no_grad():
        assert deviation(fast(X), model(X)) < 1e-4


def test_convolutions_that_share_names_with_later_calls():
    model = net(lambda m, x: m.relu(m.a(x)) + m.a__2(m.a(x)), a__2=nn.Conv2d(8, 8, 1))
    assert fused(converted(model, X)) == {"a": ("relu",), "a__3": (), "a__2": ("add",)}


def test_buffers_that_a_forward_changes_are_as_before():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            return self.conv(x)

    model = prune(Counter()).eval()
    for fallback in ("never", "always"):
        fast = convert(model, X, fallback=fallback)
        assert model.calls == 0 and dict(fast.named_buffers()).get("calls", torch.zeros(1)) == 0


class Options(nn.Module):
    """Arguments that decide what is computed."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x, mask=None, double=False, *, mode="a"):
        y = self.conv(x)
        if mask is not None:
            y = y * mask
        if double:
            y = 2 * y
        return {"y": F.relu(y), "more": [y.shape[0], (y, mode)]}


def test_arguments_that_are_no_tensors_are_fixed():
    model = prune(Options()).eval()
    mask = random(2, 1, 9, 11)
    fast = convert(model, {"x": X, "mask": mask, "double": True}, fallback="never")
    assert fast.report.notes == []
    with torch.no_grad():
        expected, got = model(X, mask, double=True), fast(x=X, mask=mask, double=True)
    assert deviation(got["y"], expected["y"]) < 1e-4 and got["more"][0] == 2
    assert deviation(got["more"][1][0], expected["more"][1][0]) < 1e-4
    with pytest.raises(AssertionError, match="double"):
        fast(X, mask, double=False)
    plain = convert(model, X, fallback="never")
    with pytest.raises(AssertionError, match="mask"):
        plain(X, mask)


class Counting(nn.Module):
    """x += y on sizes, which are numbers, and on tensors, which have other names."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        n = x.size(0)
        m = n
        m += 1
        y = self.conv(x)
        other = y
        other += x
        return y * n + m + other.view(n, -1).mean()


def test_in_place_operators_keep_their_meaning():
    fast = converted(prune(Counting()).eval(), X)
    model = prune(Counting()).eval()
    for n in (1, 5):
        with torch.no_grad():
            assert deviation(fast(random(n, 8, 4, 4)), model(random(n, 8, 4, 4))) < 1e-4
    again = pickle.loads(pickle.dumps(fast))
    with torch.no_grad():
        assert torch.equal(again(X.clone()), fast(X.clone()))


class Noise(nn.Module):
    """Draws a constant: a trace would keep one draw for ever."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x) * torch.randn(1)


def test_a_trace_that_computes_something_else_is_not_used():
    fast = convert(prune(Noise()).eval(), X, fallback="never")
    assert any("something else" in note for note in fast.report.notes) and type(fast) is Noise
    assert fast.report.layers[0].chosen == "pconv"


def test_copies_pickles_and_state_dicts(tmp_path):
    model = prune(Residual()).eval()
    x = random(1, 3, 16, 16)
    fast = convert(model, x, fallback="never")
    torch.save(fast, tmp_path / "fast.pt")
    loaded = torch.load(tmp_path / "fast.pt", weights_only=False)
    for other in (loaded, copy.deepcopy(fast), copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert torch.equal(other(x), fast(x)) and not other.training
        assert other.report.to_json() == fast.report.to_json()
    other = convert(prune(Residual(), seed=5).eval(), x, fallback="never")
    assert not torch.equal(other(x), fast(x))
    other.load_state_dict(fast.state_dict())
    assert torch.equal(other(x), fast(x))
    assert torch.equal(fast.train()(x), loaded(x))


def test_converted_residual_model_compiles():
    torch._dynamo.reset()
    fast = convert(prune(Residual()).eval(), random(1, 3, 16, 16), fallback="never")
    x = random(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(fast, fullgraph=True)(x), fast(x), atol=1e-5, rtol=1e-5)
