"""Max pooling: equal to torch's for whatever torch takes, natively where it may run natively."""

import copy
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random
from torch import fx, nn
from torch.nn import functional as F

from pconv_ops import _eager, _native, pooling
from pconv_ops.pooling import NativeMaxPool2d, max_pool2d


@pytest.fixture
def native(monkeypatch):
    """Counts the calls that reach the core."""
    calls = []
    _eager.forget_poolings()

    def count(module, name):
        function = getattr(module, name)

        def counted(*args):
            result = function(*args)
            calls.extend([name] if result is not None else [])
            return result

        monkeypatch.setattr(module, name, counted)

    count(_eager, "max_pool")
    count(pooling, "_pooling")
    return calls


def same(got, want):
    return (
        got.shape == want.shape
        and torch.equal(got.isnan(), want.isnan())
        and torch.equal(got.nan_to_num(nan=0.0), want.nan_to_num(nan=0.0))
    )


GEOMETRIES = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": 2, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": (1, 3), "stride": (2, 1), "padding": (0, 1)},
    {"kernel_size": [3, 2], "stride": [1, 3], "padding": [1, 0], "dilation": [2, 3]},
    {"kernel_size": 3, "padding": 1, "dilation": 2},
    {"kernel_size": (5,), "stride": (), "padding": (1,)},
    {"kernel_size": 5, "stride": 3, "padding": 2, "ceil_mode": True, "dilation": 1},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 13, "stride": 1, "padding": 6},
]


@pytest.mark.parametrize("shape", [(2, 3, 17, 38), (3, 16, 13), (1, 1, 40, 15), (5, 1, 14, 14)])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_pooling_is_torchs(geometry, shape, native):
    x = random(*shape)
    x.view(-1)[::7] = torch.tensor(float("-inf"))
    x.view(-1)[::11] = torch.tensor(float("nan"))
    expected = F.max_pool2d(x, **geometry)
    y = max_pool2d(x, **geometry)
    assert native and same(y, expected) and y.is_contiguous()
    if geometry["kernel_size"] != (5,):  # nn.MaxPool2d prints it
        pool = nn.MaxPool2d(**geometry)
        assert same(NativeMaxPool2d.of(pool)(x), expected)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_window_is_torchs(data):
    def pair(low, high):
        return tuple(data.draw(st.integers(low, high)) for _ in range(2))

    h, w = pair(1, 30)
    kernel, stride, dilation, padding = pair(1, 5), pair(1, 4), pair(1, 3), pair(0, 5)
    ceil_mode = data.draw(st.booleans())
    x = random(2, h, w, seed=h * 31 + w)
    try:
        expected = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
    except RuntimeError as error:
        with pytest.raises(RuntimeError) as ours:
            max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
        assert str(ours.value) == str(error)
    else:
        assert torch.equal(max_pool2d(x, kernel, stride, padding, dilation, ceil_mode), expected)


def channels_last(*shape):
    return random(*shape).contiguous(memory_format=torch.channels_last)


OTHERS = {
    "channels_last": lambda: channels_last(2, 3, 8, 8),
    "channels_last of one channel": lambda: random(2, 8, 8, 1).permute(0, 3, 1, 2),
    "strided": lambda: random(2, 3, 8, 16)[..., ::2],
    "float64": lambda: random(2, 3, 8, 8).double(),
    "bfloat16": lambda: random(2, 3, 8, 8).bfloat16(),
    "int": lambda: random(2, 3, 8, 8).mul(9).int(),
    "no images": lambda: random(0, 3, 8, 8),
    "a gradient": lambda: random(2, 3, 8, 8).requires_grad_(),
    "a conjugate view": lambda: torch._neg_view(random(2, 3, 8, 8)),
    "unaligned": lambda: torch.frombuffer(bytearray(4 * 192 + 1), dtype=torch.float32, offset=1).view(1, 3, 8, 8),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_the_core_cannot_read_goes_to_torch(kind, native):
    x = OTHERS[kind]()
    expected = F.max_pool2d(x, 3, 2, 1)
    y = max_pool2d(x, 3, 2, 1)
    assert not native and torch.equal(y, expected)
    assert y.dtype == expected.dtype and y.stride() == expected.stride() and y.requires_grad == expected.requires_grad


def test_gradients_are_torchs(native):
    x = random(1, 2, 6, 6).requires_grad_()
    NativeMaxPool2d(2)(x).square().sum().backward()
    grad, x.grad = x.grad, None
    F.max_pool2d(x, 2).square().sum().backward()
    assert torch.equal(grad, x.grad) and not native
    with torch.no_grad():
        max_pool2d(x, 2)
    assert len(native) == 1


def test_repeated_calls_take_the_compiled_path(native):
    x, other, last = random(1, 3, 8, 8), random(1, 3, 6, 8), channels_last(1, 3, 8, 8)
    pool = NativeMaxPool2d((2, 2))
    for value in (x, x, other, x, last, x.double()):
        assert same(pool(value), F.max_pool2d(value, 2))
    assert native == ["_pooling", "max_pool", "_pooling", "max_pool"]
    pool.kernel_size, pool.stride = 3, 1
    assert same(pool(x), F.max_pool2d(x, 3, 1))
    assert native[4:] == ["_pooling"]


@pytest.mark.parametrize("like", [2.0, True, "2", [2, 2], (2.0, 2.0)], ids=repr)
def test_remembered_arguments_admit_no_others(like, native):
    """2.0 and True equal remembered numbers, but torch refuses them; a list may change."""
    x = random(1, 2, 7, 9)
    for kernel in (1, 2, (2, 2)):
        for _ in range(2):
            max_pool2d(x, kernel, 1)
    native.clear()
    try:
        expected = F.max_pool2d(x, like, 1)
    except (RuntimeError, TypeError) as error:
        with pytest.raises(type(error)):
            max_pool2d(x, like, 1)
        assert not native
    else:
        assert same(max_pool2d(x, like, 1), expected)
        assert native == ["_pooling"]
        if isinstance(like, list):
            like[:] = [3, 3]
            assert same(max_pool2d(x, like, 1), F.max_pool2d(x, 3, 1))


def test_remembered_calls_are_bounded():
    _eager.forget_poolings()
    for h in range(2, 700):
        assert max_pool2d(random(1, 1, h, 2), 2).shape == (1, 1, h // 2, 1)
    x = random(1, 1, 4, 4)
    assert same(max_pool2d(x, 2), F.max_pool2d(x, 2))
    assert 0 < _eager.forget_poolings() <= 256


def test_indices_are_torchs(native):
    x = random(1, 2, 6, 6)
    for got in (max_pool2d(x, 2, return_indices=True), NativeMaxPool2d(2, return_indices=True)(x)):
        for one, other in zip(got, F.max_pool2d(x, 2, return_indices=True), strict=True):
            assert torch.equal(one, other)
    assert not native


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 0},
        {"kernel_size": 9},
        {"kernel_size": 2, "stride": 0},
        {"kernel_size": 2, "padding": -1},
        {"kernel_size": 2, "padding": 2},
        {"kernel_size": 2, "dilation": 0},
        {"kernel_size": (1, 2, 3)},
        {"kernel_size": True},
        {"kernel_size": 2.0},
        {"kernel_size": "2"},
        {"kernel_size": ()},
        {"kernel_size": 2, "padding": None},
        {"kernel_size": 2, "ceil_mode": 1},
        {"kernel_size": 2, "ceil_mode": None},
        {"kernel_size": 2, "ceil_mode": torch.tensor(True)},
    ],
    ids=str,
)
def test_bad_arguments_raise_as_in_torch(arguments, native):
    x = random(1, 2, 6, 6)
    with pytest.raises((RuntimeError, TypeError)) as theirs:
        F.max_pool2d(x, **arguments)
    with pytest.raises(theirs.type):
        max_pool2d(x, **arguments)
    assert not native


def test_other_inputs_raise_as_in_torch():
    for x in (random(6), random(6, 6), random(1, 1, 2, 6, 6), None, random(1, 0, 6, 6), random(1, 2, 0, 6)):
        with pytest.raises((RuntimeError, TypeError)) as theirs:
            F.max_pool2d(x, 2)
        with pytest.raises(theirs.type):
            max_pool2d(x, 2)


def test_results_do_not_depend_on_threads():
    x = random(8, 64, 57, 57)
    expected = F.max_pool2d(x, 3, 2, 1)
    pairs = {"size": (57, 57), "output": (29, 29), "kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}
    for isa in [row["name"] for row in _native.isas() if row["supported"]]:
        for n_threads in (1, 2, 7):
            y = torch.full_like(expected, 99.0)
            windows = _native.MaxPool(8 * 64, **pairs, dilation=(1, 1), isa=isa)
            windows.run(x.data_ptr(), y.data_ptr(), n_threads)
            assert torch.equal(y, expected)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(y, expected) for y in pool.map(lambda _: max_pool2d(x, 3, 2, 1), range(16)))


def test_binding_refuses():
    x, pairs = random(8, 8), {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}
    with pytest.raises(ValueError, match="overlaps"):
        _native.MaxPool(1, (8, 8), (4, 4), **pairs).run(x.data_ptr(), x.data_ptr())
    with pytest.raises(ValueError, match="out_h"):
        _native.MaxPool(1, (8, 8), (0, 4), **pairs).run(x.data_ptr(), 64)
    with pytest.raises(_native.BackendUnavailable):
        _native.MaxPool(1, (8, 8), (4, 4), **pairs, isa="none").run(x.data_ptr(), 64)


def test_compiles_exports_and_traces(native):
    pool, x = NativeMaxPool2d(3, 2, 1).eval(), random(1, 2, 9, 9)
    expected = F.max_pool2d(x, 3, 2, 1)
    assert torch.equal(torch.compile(pool, fullgraph=True, backend="aot_eager")(x), expected)
    assert torch.equal(torch.export.export(pool, (x,)).module()(x), expected)
    assert torch.equal(torch.jit.trace(pool, x, check_trace=False)(x), expected)
    assert torch.equal(fx.symbolic_trace(pool)(x), expected)
    assert torch.equal(torch.vmap(pool)(x), expected)
    assert not native


def test_modes_see_torchs_operator(native):
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen = []
    with Log(), FlopCounterMode(display=False):
        max_pool2d(random(1, 2, 9, 9), 2)
    assert any("max_pool2d" in name for name in seen) and not native


def test_module_prints_copies_and_pickles():
    pool = NativeMaxPool2d.of(nn.MaxPool2d(3, 2, 1, ceil_mode=True).eval())
    assert not pool.training and not pool.state_dict()
    assert repr(pool) == "NativeMaxPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=True)"
    file = io.BytesIO()
    torch.save(pool, file)
    file.seek(0)
    x = random(1, 2, 8, 8)
    for other in (copy.deepcopy(pool), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), pool(x))
