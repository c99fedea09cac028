"""Deviations of tensors and nested outputs."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from pconv_ops.checking import deviation, fresh, incomparable, output_deviation, snapshot

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("got", "want", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, -2.0], 2.25),
        ([0.5, 0.0], [0.0, 0.0], 0.5),  # nothing to be relative to
        ([NAN, 2.0], [NAN, 2.0], 0.0),
        ([INF, 2.0], [INF, 1.0], 1.0),
        ([NAN, 2.0], [1.0, 2.0], INF),
        ([1.0, 2.0], [NAN, 2.0], INF),
        ([INF, 2.0], [1.0, 2.0], INF),
        ([INF], [-INF], INF),
        ([], [], 0.0),
        ([1.0], [1.0, 2.0], INF),
        ([1], [1.0], INF),
        ([1, 2, 3], [1, 2, 4], INF),
        ([0] * 99 + [1], [0] * 100, 0.0),
    ],
)
def test_deviation(got, want, expected):
    assert deviation(torch.tensor(got), torch.tensor(want)) == pytest.approx(expected)


def test_nested_outputs():
    x = torch.ones(3)
    assert output_deviation({"a": [x, (x, "b")]}, {"a": [x, (x + 1, "b")]}) == 0.5
    assert output_deviation([x, x], (x, x)) == INF
    assert output_deviation([x], [x, x]) == INF
    assert output_deviation([None], [x]) == INF
    assert output_deviation(None, None) == 0.0


@dataclass
class Output:
    y: object
    rest: object = None


@pytest.mark.parametrize("wrap", [Output, lambda y: SimpleNamespace(y=y), lambda y: [Output({"a": (y, 1)})]])
def test_objects_are_opened(wrap):
    x = torch.ones(3)
    assert output_deviation(wrap(x), wrap(x + 1)) == 0.5 and output_deviation(wrap(x), wrap(None)) == 0.0
    assert output_deviation(wrap(None), wrap(x)) == INF and output_deviation(wrap([x]), wrap(x)) == INF
    assert incomparable(wrap(x)) == "" and "no tensor" in incomparable(wrap(2.0))
    assert "set" in incomparable(wrap([x, {1}]))


def test_objects_that_hold_themselves():
    loop = SimpleNamespace(y=torch.ones(2))
    loop.me = loop
    assert output_deviation(loop, loop) == 0.0 and "SimpleNamespace" in incomparable(loop)


STRIDED = {
    "rows": lambda x: x[:, :, ::2],
    "channels": lambda x: x[:, 1:3],
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3),
    "expanded": lambda x: x[:, :1].expand(-1, 4, -1, -1),
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("case", STRIDED)
def test_snapshots_are_copies_with_the_same_strides(case):
    x = STRIDED[case](torch.randn(2, 4, 6, 5))
    copy = snapshot(x)
    assert torch.equal(copy, x) and (copy.stride() == x.stride() or case == "expanded")
    assert not x.numel() or copy.data_ptr() != x.data_ptr()


def test_fresh_copies_nested_tensors():
    x = torch.ones(2)
    (one, other), named = fresh(((x, 3), {"a": [x]}))
    assert torch.equal(one, x) and one is not x and other == 3 and named["a"][0] is not x
