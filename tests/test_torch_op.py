"""torch.ops.pconv.conv2d: registration, fake kernel, compile, export, autograd, autocast, the cache of handles."""

import gc
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.library import opcheck

import pconv_ops
from pconv_ops import handles, torch_op

ALL_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def pruned_conv(in_channels=6, out_channels=8, seed=0, **arguments):
    """nn.Conv2d with the upper row of each kernel and a third of the kernels zero."""
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(in_channels, out_channels, 3, **({"padding": 1} | arguments))
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        conv.weight[:, :, 0] = 0
        conv.weight[torch.rand(conv.weight.shape[:2], generator=generator) < 0.3] = 0
    return conv


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def layer():
    return pconv_ops.PatternConv2d.from_dense(pruned_conv())


def negated_copy(layer):
    """A layer of the same geometry and length with every weight and bias negated."""
    conv = layer.to_dense()
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.neg_()
    return pconv_ops.PatternConv2d.from_dense(conv)


def test_schema_is_the_settled_one():
    expected = "pconv::conv2d(Tensor x, Tensor packed_uint8, Tensor? residual, str activation) -> Tensor"
    assert str(torch.ops.pconv.conv2d.default._schema) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("geometry", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (1, 6, 4, 4), (0, 6, 5, 7)], ids=str)
def test_opcheck(layer, layout, with_residual, geometry, shape):
    memory_format = LAYOUTS[layout]
    x = random(*shape).contiguous(memory_format=memory_format)
    residual = random(shape[0], 8, *shape[2:]).contiguous(memory_format=memory_format) if with_residual else None
    text = layer._call_text if geometry else "relu"
    result = opcheck(torch.ops.pconv.conv2d.default, (x, layer.packed, residual, text), test_utils=ALL_CHECKS)
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("strides", ["transposed", "unbatched", "unbatched_last", "one_channel", "one_pixel"])
def test_opcheck_of_unusual_strides(strides, monkeypatch):
    channels = 1 if strides == "one_channel" else 6
    layer = pconv_ops.PatternConv2d.from_dense(pruned_conv(channels, 1 if strides == "one_channel" else 8))
    x = {
        "transposed": random(2, channels, 7, 5).transpose(2, 3),
        "unbatched": random(channels, 5, 7),
        "unbatched_last": random(5, 7, channels).permute(2, 0, 1),
        "one_channel": random(2, 1, 5, 7).contiguous(memory_format=torch.channels_last),
        "one_pixel": random(2, channels, 1, 1).contiguous(memory_format=torch.channels_last),
    }[strides]
    monkeypatch.setattr("pconv_ops.packing._copy_reported", True)
    opcheck(torch.ops.pconv.conv2d.default, (x, layer.packed, None, layer._call_text), test_utils=ALL_CHECKS)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", [None, "relu", (-0.5, 0.5)], ids=str)
def test_dispatcher_and_fast_path_agree(layout, activation, monkeypatch):
    conv = pruned_conv()
    layer = pconv_ops.PatternConv2d.from_dense(conv, activation)
    x = random(2, 6, 9, 7).contiguous(memory_format=LAYOUTS[layout])
    residual = random(2, 8, 9, 7, seed=2).contiguous(memory_format=LAYOUTS[layout])
    fast = layer(x, residual)
    assert torch.equal(layer(x, residual), fast)  # now compiled: the layout is known
    monkeypatch.setattr(torch_op._eager, "call", lambda *arguments: None)
    assert torch.equal(layer(x, residual), fast)
    monkeypatch.setattr(torch_op, "is_plain", lambda *tensors: False)
    slow = layer(x, residual)
    assert torch.equal(fast, slow) and fast.stride() == slow.stride()
    low, high = {None: (None, None), "relu": (0, None)}.get(activation, (-0.5, 0.5))
    expected = conv(x) + residual
    torch.testing.assert_close(fast, expected if low is None else expected.clamp(low, high))
    assert torch.equal(pconv_ops.conv2d(x, layer.packed_conv, activation, residual), fast)
    out = torch.empty_like(fast)
    assert pconv_ops.conv2d(x, layer.packed_conv, activation, residual, out) is out
    assert torch.equal(out, fast)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(layer, layout, dynamic):
    torch._dynamo.reset()
    x = random(2, 6, 9, 7).contiguous(memory_format=LAYOUTS[layout])
    model = nn.Sequential(nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(8, 4, 1))
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for images in (x, x[:1], random(3, 6, 6, 6)):
        with torch.no_grad():
            torch.testing.assert_close(compiled(images), model(images))


def test_compile_of_the_function_form(layer):
    torch._dynamo.reset()
    packed = layer.packed_conv
    x = random(1, 6, 5, 7)
    compiled = torch.compile(lambda x: pconv_ops.conv2d(x + 1, packed, "relu") * 2)
    torch.testing.assert_close(compiled(x), pconv_ops.conv2d(x + 1, packed, "relu") * 2)


def test_compiled_model_in_grad_mode_runs_forward_and_refuses_backward(layer):
    """A dense stem makes the activations require a gradient; only the backward pass may complain."""
    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv2d(3, 6, 1), layer)
    x = random(1, 3, 5, 7)
    y = torch.compile(model, fullgraph=True)(x)
    torch.testing.assert_close(y, model(x))
    with pytest.raises(RuntimeError, match="no backward pass"):
        y.sum().backward()


LOAD_AND_RUN = """
import sys, torch, pconv_ops
from pconv_ops import PatternConv2d
program = torch.export.load(sys.argv[1])
x, expected = torch.load(sys.argv[2])
y = program.module()(x)
assert torch.equal(y, expected), (y - expected).abs().max()
assert sum("pconv.conv2d" in str(node.target) for node in program.graph.nodes) == 1
print("same")
"""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_round_trip_in_a_fresh_process(layer, layout, tmp_path):
    x = random(2, 6, 9, 7).contiguous(memory_format=LAYOUTS[layout])
    model = nn.Sequential(layer, nn.ReLU()).eval()
    program = torch.export.export(model, (x,))
    torch.export.save(program, tmp_path / "model.pt2")
    torch.save((x, model(x)), tmp_path / "values.pt")
    command = [sys.executable, "-c", LOAD_AND_RUN, tmp_path / "model.pt2", tmp_path / "values.pt"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and result.stdout.strip() == "same", result.stderr


def test_export_with_a_dynamic_batch(layer):
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (random(2, 6, 9, 7),), dynamic_shapes={"x": {0: batch}})
    program = program.run_decompositions({})
    x = random(5, 6, 9, 7)
    assert torch.equal(program.module()(x), layer(x))


def test_jit_trace_records_the_operator(layer):
    x = random(1, 6, 5, 7)
    traced = torch.jit.trace(layer, (x,))
    other = random(1, 6, 5, 7, seed=5)
    assert torch.equal(traced(other), layer(other))


def test_gradients_are_refused_in_backward_only(layer):
    x = random(1, 6, 5, 7).requires_grad_()
    residual = random(1, 8, 5, 7)
    for y in (layer(x), pconv_ops.conv2d(x, layer.packed_conv), layer(x.detach(), residual.requires_grad_())):
        assert y.requires_grad
        with pytest.raises(RuntimeError, match="pconv::conv2d has no backward pass"):
            y.sum().backward()
    assert x.grad is None
    with torch.no_grad():
        assert not layer(x).requires_grad
    assert torch.equal(layer(x), layer(x.detach()))


def test_out_with_a_gradient_is_refused(layer):
    x = random(1, 6, 5, 7).requires_grad_()
    with pytest.raises(ValueError, match="out"):
        pconv_ops.conv2d(x, layer.packed_conv, out=torch.empty(1, 8, 5, 7))
    out = torch.empty(1, 8, 5, 7)
    version = out._version
    with torch.no_grad():
        pconv_ops.conv2d(x, layer.packed_conv, out=out)
    assert out._version > version  # autograd would notice that a saved tensor changed


def test_forward_mode_and_vmap_do_not_pass_silently(layer):
    x = random(3, 1, 6, 5, 7)
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(layer, (x[0],), (x[0],))
    with pytest.raises(RuntimeError):
        torch.func.grad(lambda x: layer(x).sum())(x[0])
    torch.testing.assert_close(torch.func.vmap(layer)(x), torch.stack([layer(image) for image in x]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16])
def test_autocast_returns_the_type_of_nn_conv2d(layer, dtype, input_dtype):
    x, residual = random(1, 6, 9, 7).to(input_dtype), random(1, 8, 9, 7).to(input_dtype)
    conv = layer.to_dense()
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        y = layer(x, residual)
        assert y.dtype == conv(x).dtype == dtype
        assert pconv_ops.conv2d(x, layer.packed_conv).dtype == dtype
        with torch.autocast("cpu", enabled=False):
            assert layer(x.float()).dtype == torch.float32
    exact = layer(x.float(), residual.float())  # computed in fp32, rounded once
    assert torch.equal(y, exact.to(dtype))


def test_autocast_under_compile(layer):
    x = random(1, 6, 9, 7)

    @torch.compile(fullgraph=True)
    def run(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x)

    with torch.no_grad():
        y = run(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer(x).to(torch.bfloat16))


def test_inference_mode(layer):
    with torch.inference_mode():
        x = random(1, 6, 5, 7)
        y = layer(x)
        assert y.is_inference()
        built_inside = pconv_ops.PatternConv2d.from_dense(pruned_conv())
        assert not built_inside.packed.is_inference()
        cloned = built_inside.packed.clone()
        assert cloned.is_inference()
        first = handles.read_packed(cloned)  # without a version counter, yet not read again at each call
        assert handles.read_packed(cloned) is first
        negated = negated_copy(layer)
        built_inside.packed.copy_(negated.packed)
        cloned.copy_(negated.packed)
        assert torch.equal(torch.ops.pconv.conv2d(x, cloned, None, ""), -y)
    assert torch.equal(y, layer(x.clone()))


def test_lazy_negation_is_resolved(layer):
    complex_x = torch.complex(random(1, 6, 5, 7), random(1, 6, 5, 7, seed=4)).conj()
    lazy = complex_x.imag
    assert lazy.is_neg()
    real = torch.empty(lazy.shape).copy_(lazy)
    torch.testing.assert_close(layer(lazy), layer(real))


class Tagged(torch.Tensor):
    """A subclass: its calls must reach __torch_function__."""

    seen: list = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_subclasses_and_modes_see_the_operator(layer):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    seen: list = []
    x = random(1, 6, 5, 7)
    with Recorder():
        y = layer(x)
    assert torch.ops.pconv.conv2d.default in seen
    Tagged.seen.clear()
    assert torch.equal(layer(x.as_subclass(Tagged)).as_subclass(torch.Tensor), y)
    assert torch.ops.pconv.conv2d.default in Tagged.seen


def test_raw_operator_checks_its_arguments(layer):
    x, op = random(1, 6, 5, 7), torch.ops.pconv.conv2d
    with pytest.raises(pconv_ops.PConvFormatError):
        op(x, torch.zeros(256, dtype=torch.uint8), None, "")
    with pytest.raises(TypeError, match="packed"):
        op(x, layer.packed.float(), None, "")
    with pytest.raises(ValueError, match="packed"):
        op(x, layer.packed.reshape(-1, 8).t(), None, "")
    with pytest.raises(ValueError, match="activation"):
        op(x, layer.packed, None, "gelu")
    with pytest.raises(ValueError, match="activation"):
        op(x, layer.packed, None, "relu@1,2")
    other = pconv_ops.PatternConv2d.from_dense(pruned_conv(6, 4))
    with pytest.raises(ValueError, match="packed"):
        op(x, layer.packed, None, other._call_text)


def test_fake_tensors_without_real_bytes_need_the_geometry(layer):
    with torch._subclasses.FakeTensorMode():
        x, packed = torch.empty(2, 6, 5, 7), torch.empty(512, dtype=torch.uint8)
        assert torch.ops.pconv.conv2d(x, packed, None, layer._call_text).shape == (2, 8, 5, 7)
        with pytest.raises(ValueError, match="geometry"):
            torch.ops.pconv.conv2d(x, packed, None, "relu")
        with pytest.raises(ValueError, match="channels"):
            torch.ops.pconv.conv2d(torch.empty(2, 5, 5, 7), packed, None, layer._call_text)


# ---- handles


def test_handle_is_kept_while_the_bytes_stay(layer):
    first = handles.read_packed(layer.packed)
    assert handles.read_packed(layer.packed) is first
    assert handles.read_packed(layer.packed[:]) is first
    assert handles.read_packed(layer.packed.detach()) is first


def test_handle_follows_every_counted_change(layer):
    x = random(1, 6, 5, 7)
    before, original = layer(x), layer.packed.clone()
    negated = negated_copy(layer)
    assert negated.packed.shape == layer.packed.shape
    layer.packed.copy_(negated.packed)
    assert torch.equal(layer(x), -before)
    layer.packed.data = original
    assert torch.equal(layer(x), before)
    layer.packed.set_(negated.packed.clone())
    assert torch.equal(layer(x), -before)
    layer.packed = original
    assert torch.equal(layer(x), before)


def test_handle_goes_with_the_storage():
    gc.collect()
    before = len(handles.HANDLES)
    layers = [pconv_ops.PatternConv2d.from_dense(pruned_conv(seed=seed)) for seed in range(5)]
    view = layers[0].packed[:8]
    assert len(handles.HANDLES) == before + 5
    del layers
    gc.collect()
    assert len(handles.HANDLES) == before + 1  # the view keeps its storage
    del view
    gc.collect()
    assert len(handles.HANDLES) == before


def test_reused_address_is_another_layer():
    """Layers of equal size come and go, so that the allocator hands the same address out again."""
    x = random(1, 6, 5, 7)
    addresses = []
    for seed in range(40):
        conv = pruned_conv(seed=0)
        with torch.no_grad():
            conv.weight *= seed + 1
            layer = pconv_ops.PatternConv2d.from_dense(conv)
            packed = layer.packed.clone()
            addresses.append(packed.data_ptr())
            y = torch.ops.pconv.conv2d(x, packed, None, "")
            torch.testing.assert_close(y, conv(x), atol=1e-3, rtol=1e-5)
        del packed, layer
    assert len(set(addresses)) < len(addresses)  # else this test shows nothing


def test_zero_copy_of_dense_inputs(layer, monkeypatch):
    """The core gets the tensor's own address, and the output's."""
    seen = []

    class Spy:
        in_channels, out_channels = 6, 8
        output_shape = staticmethod(layer.packed_conv.output_shape)

        def __init__(self):
            self.memo = {}

        def run(self, x, y, *rest):
            seen.append((x, y))

    for memory_format in LAYOUTS.values():
        x = random(2, 6, 5, 7).contiguous(memory_format=memory_format)
        y = torch_op._run(x, Spy(), None, -np.inf, np.inf, None)
        assert seen.pop() == (x.data_ptr(), y.data_ptr())
        assert y.is_contiguous(memory_format=memory_format)
