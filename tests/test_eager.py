"""_eager.pyx, the compiled call: what it remembers of earlier calls never decides a later one that differs."""

import threading

import pytest
import torch
from torch import nn

import pconv_ops
from pconv_ops import _eager, torch_op
from pconv_ops.handles import HANDLES


@pytest.fixture(autouse=True)
def copies_reported(monkeypatch):
    monkeypatch.setattr("pconv_ops.packing._copy_reported", True)


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def conv():
    conv = nn.Conv2d(6, 8, 3, padding=1).requires_grad_(False)
    conv.weight.copy_(random(8, 6, 3, 3))
    conv.weight[:, ::2, 0] = 0
    return conv


@pytest.fixture
def layer(conv):
    return pconv_ops.PatternConv2d.from_dense(conv)


@pytest.fixture
def compiled_calls(monkeypatch):
    """Whether each call was taken by the compiled path, in order."""
    taken, call = [], _eager.call

    def spy(*arguments):
        y = call(*arguments)
        taken.append(y is not None)
        return y

    monkeypatch.setattr(torch_op._eager, "call", spy)
    return taken


def close(y, want):
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)


def test_a_known_layout_is_taken_and_a_new_one_is_not(conv, layer, compiled_calls):
    first, second = random(1, 6, 5, 7), random(2, 6, 9, 4)
    last = first.contiguous(memory_format=torch.channels_last)
    for x in (first, first, second, first, second, last, last):
        close(layer(x), conv(x))
        assert layer(x).stride() == conv(x).stride()
    assert [i for i, taken in enumerate(compiled_calls) if not taken] == [0, 4, 10]  # each met for the first time


def test_equal_shapes_with_other_strides_are_other_layouts(layer):
    """With one pixel or one channel both memory formats are contiguous, and the output follows the strides."""
    plain = random(2, 6, 1, 1)
    last = plain.as_strided((2, 6, 1, 1), (6, 1, 6, 6))
    for x in (plain, last, plain, last):
        assert layer(x).stride() == torch_op._layout_of(x, layer.packed_conv).output_strides
    gaps = random(1, 6, 5, 8)[..., :7]
    dense = gaps.contiguous()
    expected = layer(dense)
    assert torch.equal(layer(gaps), expected) and torch.equal(layer(gaps), layer(dense))


def test_what_the_core_cannot_read_is_left_alone(layer, compiled_calls):
    x = random(1, 6, 5, 7)
    expected = layer(x)
    compiled_calls.clear()
    raw = torch.zeros(4 * x.numel() + 2, dtype=torch.uint8)
    off = torch.frombuffer(memoryview(raw.numpy())[2:], dtype=torch.float32).view(1, 6, 5, 7).copy_(x)
    assert off.data_ptr() & 3 and torch.equal(layer(off), expected)
    assert torch.equal(layer(x[0]), expected[0]) and torch.equal(layer(x[0]), expected[0])
    assert layer(x[:0]).shape == layer(x[:0]).shape == (0, 8, 5, 7)
    with pytest.raises(TypeError, match="float32"):
        layer(x.double())
    assert not any(compiled_calls)


def test_residuals_of_other_kinds_get_the_rules(layer, compiled_calls):
    x, residual = random(1, 6, 5, 7), random(1, 8, 5, 7)
    expected = layer(x) + residual
    compiled_calls.clear()
    close(layer(x, residual), expected)
    assert compiled_calls == [True]
    close(layer(x, residual.contiguous(memory_format=torch.channels_last)), expected)
    for wrong, error in ((residual.double(), TypeError), (residual[..., :6], ValueError), (residual[0], ValueError)):
        with pytest.raises(error, match="residual"):
            layer(x, wrong)
    assert compiled_calls == [True] + 4 * [False]


def test_gradients_modes_and_autocast_are_seen_after_plain_calls(layer, compiled_calls):
    x = random(1, 6, 5, 7)
    layer(x), layer(x)
    parameter = nn.Parameter(x)
    assert layer(parameter).requires_grad
    with torch.no_grad():
        assert not layer(parameter).requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype is torch.bfloat16
    with torch.inference_mode():
        assert layer(x).is_inference() and layer(x.clone()).is_inference()
    assert not layer(x).is_inference()
    assert compiled_calls == [False, True, False, True, False, True, True, True]


def test_the_default_dtype_does_not_matter(layer):
    x = random(1, 6, 5, 7)
    expected = layer(x)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(layer(x), expected) and torch.equal(pconv_ops.conv2d(x, layer.packed_conv), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_forced_isa_is_seen_by_a_layer_that_ran(layer, monkeypatch):
    x = random(1, 6, 5, 7)
    expected = layer(x)
    assert torch.equal(layer(x), expected)
    monkeypatch.setenv("PCONV_FORCE_ISA", "scalar")
    forced = layer(x)
    close(forced, expected)
    assert layer.packed_conv.plan_info(1, 5, 7)["isa"] == "scalar"
    monkeypatch.setenv("PCONV_FORCE_ISA", "no such")
    with pytest.raises(pconv_ops.BackendUnavailable):
        layer(x)
    monkeypatch.delenv("PCONV_FORCE_ISA")
    assert torch.equal(layer(x), expected)


def test_more_shapes_than_are_kept(conv, layer):
    images = [random(1, 6, 4 + size, 5) for size in range(40)]
    for x in (*images, *images[::-1], images[3], images[0]):
        close(layer(x), conv(x))
    assert len(layer.packed_conv.memo) <= 32


def test_plans_of_the_callers_own_choice_do_not_become_the_usual_one(layer):
    packed = layer.packed_conv
    usual = packed.plan_info(1, 5, 7)
    assert packed.plan_info(1, 5, 7, isa="scalar")["isa"] == "scalar"
    assert packed.plan_info(1, 5, 7) == usual
    assert packed.plan_info(1, 5, 7, isa=usual["isa"])["ukernel"] == usual["ukernel"]
    assert packed.plan_info(1, 5, 7) == packed.plan_info(1, 5, 7) == usual


def test_bytes_that_are_no_plain_tensor_are_left_alone(layer, compiled_calls):
    x = random(1, 6, 5, 7)
    expected = layer(x)
    assert torch.equal(torch_op.call(x, layer.packed[:], None, layer._call_text), expected)
    assert _eager.call(x, layer.packed[:-8], None, (0.0, 1.0), HANDLES) is None
    assert _eager.call(x, layer.packed.to("meta"), None, (0.0, 1.0), HANDLES) is None
    assert _eager.call(x, None, None, (0.0, 1.0), HANDLES) is None
    assert _eager.call(None, layer.packed, None, (0.0, 1.0), HANDLES) is None
    with pytest.raises(pconv_ops.PConvFormatError):
        torch_op.call(x, layer.packed[:-8], None, layer._call_text)


def test_threads_share_a_layer(conv, layer):
    images = [random(1, 6, 4 + size, 5, seed=size) for size in range(4)]
    expected = [conv(x) for x in images]
    failures = []

    def run(start):
        for i in range(300):
            k = (start + i) % 4
            if not torch.allclose(layer(images[k]), expected[k], rtol=1e-4, atol=1e-4):
                failures.append((start, i))

    workers = [threading.Thread(target=run, args=(start,)) for start in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
