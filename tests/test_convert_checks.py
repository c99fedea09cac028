"""Models whose outputs, state or attributes convert must not take on trust."""

from dataclasses import dataclass

import pytest
import torch
from networks import deviation, prune, random
from torch import nn
from torch.nn import functional as F

from pconv_ops import PatternConv2d, convert

X = random(2, 8, 9, 11)


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
