"""conv2d(out=...) off the fast path: under modes, autocast and tracing it obeys the rules of a plain call."""

import contextlib

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import pconv_ops


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


MODES = {
    "plain": contextlib.nullcontext,
    "function mode": FunctionMode,
    "dispatch mode": DispatchMode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def packed():
    weight = random(6, 6, 3, 3)
    weight[:, :, 0] = 0
    return pconv_ops.pack(weight, random(6), padding=1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_gets_the_fp32_result(packed, mode, layout):
    x = random(2, 6, 5, 7).contiguous(memory_format=LAYOUTS[layout])
    residual = random(2, 6, 5, 7, seed=2).contiguous(memory_format=LAYOUTS[layout])
    expected = pconv_ops.conv2d(x, packed, "relu", residual)
    out = torch.empty_like(expected)
    with MODES[mode]():
        assert pconv_ops.conv2d(x, packed, "relu", residual, out) is out
        assert pconv_ops.conv2d(x, packed, "relu", residual, residual) is residual
    assert torch.equal(out, expected) and torch.equal(residual, expected)


@pytest.mark.parametrize("mode", MODES)
def test_bad_out_is_refused_and_untouched(packed, mode):
    memory = random(3 * 6 * 5 * 7)
    before = memory.clone()

    def part(start):
        return memory[start : start + 210].view(1, 6, 5, 7)

    x, residual = part(0), part(420)
    cases = [
        (x, ValueError, "out: overlaps x"),
        (part(209), ValueError, "out: overlaps x"),
        (part(300), ValueError, "out: overlaps residual"),
        (torch.empty(1, 6, 5, 14)[..., ::2], ValueError, "out: expected .* like x"),
        (torch.empty(1, 5, 7, 6).permute(0, 3, 1, 2), ValueError, "out: expected .* like x"),
        (torch.empty(1, 6, 5, 6), ValueError, "out: expected the output's shape"),
        (torch.empty(6, 5, 7), ValueError, "out: expected the output's shape"),
        (torch.empty(1, 6, 5, 7, dtype=torch.float64), TypeError, "out: expected float32"),
        (torch.empty(1, 6, 5, 7, dtype=torch.bfloat16), TypeError, "out: expected float32"),
    ]
    for out, error, text in cases:
        with MODES[mode](), pytest.raises(error, match=text):
            pconv_ops.conv2d(x, packed, residual=residual, out=out)
    assert torch.equal(memory, before)


@pytest.mark.parametrize("mode", ["plain", "autocast"])
def test_out_of_an_unbatched_call(packed, mode):
    x = random(6, 5, 7)
    out = torch.empty(6, 5, 7)
    with MODES[mode]():
        pconv_ops.conv2d(x, packed, out=out)
    assert torch.equal(out, pconv_ops.conv2d(x, packed))


def test_autocast_widens_the_operands_for_out(packed):
    x, residual, out = random(1, 6, 5, 7).bfloat16(), random(1, 6, 5, 7).bfloat16(), torch.empty(1, 6, 5, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pconv_ops.conv2d(x, packed, None, residual, out)
    assert torch.equal(out, pconv_ops.conv2d(x.float(), packed, None, residual.float()))


# `out` has one size, so a trace with it has one too, and what the checks of `out` find while tracing stays so.
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python")
def test_out_while_tracing(packed):
    def run(x):
        return pconv_ops.conv2d(x + 1, packed, out=torch.empty(1, 6, 5, 7))

    x = random(1, 6, 5, 7)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(run)(x), run(x))
    assert torch.equal(torch.jit.trace(run, (x,), check_trace=False)(x), run(x))
    with pytest.raises(ValueError, match="out: overlaps x"):
        torch.jit.trace(lambda x: pconv_ops.conv2d(x, packed, out=x), (x,))


def test_out_of_fake_tensors(packed):
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        x, out = torch.empty(1, 6, 5, 7), torch.empty(1, 6, 5, 7)
        assert pconv_ops.conv2d(x, packed, out=out) is out
        with pytest.raises(ValueError, match="out: overlaps x"):
            pconv_ops.conv2d(x, packed, out=x)
        with pytest.raises(ValueError, match="out: expected"):
            pconv_ops.conv2d(x, packed, out=torch.empty(1, 6, 5, 14)[..., ::2])
