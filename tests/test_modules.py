"""PatternConv2d: from and to dense, state_dict, pickle, deepcopy, what it refuses."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import pconv_ops
from pconv_ops import PatternConv2d
from pconv_ops.patterns import SCP4


def pruned_conv(in_channels=6, out_channels=8, keep=0.6, seed=0, **arguments):
    """nn.Conv2d with SCP patterns and a share `keep` of its kernels."""
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(in_channels, out_channels, 3, **({"padding": 1} | arguments))
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        pick = torch.randint(4, conv.weight.shape[:2], generator=generator)
        conv.weight *= torch.from_numpy(SCP4.masks.copy())[pick]
        conv.weight[torch.rand(conv.weight.shape[:2], generator=generator) > keep] = 0
    return conv


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def layer():
    return PatternConv2d.from_dense(pruned_conv(), "relu")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"bias": False},
        {"padding": 0},
        {"padding": (2, 1)},
        {"padding": "same"},
        {"padding": "valid"},
        {"groups": 2},
        {"groups": 6, "out_channels": 6},
    ],
    ids=str,
)
@pytest.mark.parametrize("activation", [None, "relu", "relu6", (-1, 1)], ids=str)
def test_from_dense_computes_the_same(arguments, activation):
    conv = pruned_conv(**arguments)
    layer = PatternConv2d.from_dense(conv, activation)
    x = random(2, 6, 11, 9)
    limits = {None: (None, None), "relu": (0, None), "relu6": (0, 6)}.get(activation, (-1, 1))
    with torch.no_grad():
        expected = conv(x) if activation is None else conv(x).clamp(*limits)
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer(x[0]), expected[0])


def test_to_dense_gives_the_weights_back():
    conv = pruned_conv(groups=2, padding=(2, 1)).eval()
    dense = PatternConv2d.from_dense(conv).eval().to_dense()
    assert type(dense) is nn.Conv2d and not dense.training
    assert torch.equal(dense.weight, conv.weight) and torch.equal(dense.bias, conv.bias)
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    assert [getattr(dense, name) for name in names] == [getattr(conv, name) for name in names]
    assert dense.weight.requires_grad
    assert PatternConv2d.from_dense(pruned_conv(bias=False)).to_dense().bias is None


def test_to_dense_refuses_uneven_padding():
    layer = PatternConv2d(pconv_ops.pack(pruned_conv().weight, padding=((0, 1), (1, 1))))
    assert layer(random(1, 6, 5, 5)).shape == (1, 8, 4, 5)
    with pytest.raises(ValueError, match="padding"):
        layer.to_dense()


def test_from_dense_leaves_the_convolution_alone():
    conv = pruned_conv()
    before = copy.deepcopy(conv.state_dict())
    PatternConv2d.from_dense(conv)
    assert conv.weight.requires_grad and all(torch.equal(conv.state_dict()[key], before[key]) for key in before)


def test_weights_with_nan_run():
    conv = pruned_conv()
    with torch.no_grad():
        conv.weight[3, :, 1, 1] = float("nan")
    y = PatternConv2d.from_dense(conv)(random(1, 6, 5, 5))
    assert torch.isnan(y[0, 3]).all() and not torch.isnan(y[0, :3]).any() and not torch.isnan(y[0, 4:]).any()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.Conv2d(4, 8, 3, stride=(1, 2)),
        nn.Conv2d(4, 12, 1),
        nn.Conv2d(4, 8, 1, stride=2),
        nn.Conv2d(4, 8, 5, padding="same"),
        nn.Conv2d(4, 8, (3, 1), padding=(1, 0)),
        nn.Conv2d(4, 8, 3, dilation=2, padding=2, groups=2),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.Conv2d(3, 20, 7, stride=2, padding=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_any_geometry_equals_dense(conv, layout):
    with torch.no_grad():
        for pruned in (False, True):
            if pruned:
                conv.weight *= torch.rand_like(conv.weight) < 0.4
            x = random(2, conv.in_channels, 19, 23).to(memory_format=layout)
            y, want = PatternConv2d.from_dense(conv)(x), conv(x)
            assert y.shape == want.shape and y.is_contiguous(memory_format=layout)
            torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("conv", "error"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), ValueError),
        (nn.ConvTranspose2d(4, 4, 3), TypeError),
        (nn.Conv1d(4, 4, 3), TypeError),
        (nn.Linear(4, 4), TypeError),
        (nn.Conv2d(4, 4, 3).double(), TypeError),
        (nn.Conv2d(4, 4, 3).half(), TypeError),
        (nn.Conv2d(4, 4, 3, device="meta"), TypeError),
        (None, TypeError),
    ],
    ids=lambda value: str(value)[:60],
)
def test_from_dense_refuses_what_cannot_run(conv, error):
    with pytest.raises(error):
        PatternConv2d.from_dense(conv)


def test_constructor_wants_a_packed_layer():
    with pytest.raises(TypeError, match="packed"):
        PatternConv2d(torch.zeros(3))
    with pytest.raises(ValueError, match="activation"):
        PatternConv2d.from_dense(pruned_conv(), "gelu")


def test_state_dict_holds_the_packed_bytes(layer):
    state = layer.state_dict()
    assert list(state) == ["packed"] and state["packed"].dtype == torch.uint8
    assert bytes(state["packed"].tolist()) == layer.packed_conv.to_bytes()
    assert not list(layer.parameters())


def saved_and_loaded(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=not isinstance(value, nn.Module))


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded],
    ids=["deepcopy", "copy", "pickle", "torch.save"],
)
def test_duplicates_compute_the_same(layer, duplicate):
    x = random(1, 6, 5, 7)
    other = duplicate(layer)
    assert other is not layer and torch.equal(other(x), layer(x))
    assert repr(other) == repr(layer)


def test_a_deep_copy_owns_its_bytes(layer):
    x, other = random(1, 6, 5, 7), copy.deepcopy(layer)
    before = layer(x)
    other.load_state_dict(PatternConv2d.from_dense(pruned_conv(seed=9)).state_dict())
    assert torch.equal(layer(x), before) and not torch.equal(other(x), before)


@pytest.mark.parametrize("keep", [0.6, 0.2], ids=["other weights", "other length"])
@pytest.mark.parametrize("assign", [False, True])
def test_load_state_dict(layer, keep, assign):
    x = random(1, 6, 5, 7)
    layer(x)
    source = PatternConv2d.from_dense(pruned_conv(keep=keep, seed=2), "relu")
    target = nn.Sequential(nn.ReLU(), layer)
    result = target.load_state_dict(saved_and_loaded({"1.packed": source.packed}), assign=assign)
    assert not result.missing_keys and not result.unexpected_keys
    assert torch.equal(layer(x), source(x))
    assert "density" in repr(layer) and layer.packed_conv == source.packed_conv


def test_load_state_dict_may_change_the_bias(layer):
    source = PatternConv2d.from_dense(pruned_conv(bias=False), "relu")
    layer.load_state_dict(source.state_dict())
    assert not layer.packed_conv.has_bias


def test_load_state_dict_reports_missing_and_unexpected_keys(layer):
    with pytest.raises(RuntimeError, match="Missing key.*packed"):
        layer.load_state_dict({})
    with pytest.raises(RuntimeError, match="Unexpected key.*weight"):
        layer.load_state_dict(layer.state_dict() | {"weight": torch.zeros(1)})
    assert layer.load_state_dict({}, strict=False).missing_keys == ["packed"]


def bad_states(layer):
    flipped = layer.packed.clone()
    flipped[200] ^= 1
    other_geometry = PatternConv2d.from_dense(pruned_conv(6, 7)).packed
    other_padding = PatternConv2d.from_dense(pruned_conv(padding=0)).packed
    return {
        "flipped": (flipped, pconv_ops.PConvFormatError),
        "truncated": (layer.packed[:-8], pconv_ops.PConvFormatError),
        "empty": (layer.packed[:0], pconv_ops.PConvFormatError),
        "zeros": (torch.zeros(500, dtype=torch.uint8), pconv_ops.PConvFormatError),
        "other channels": (other_geometry, ValueError),
        "other padding": (other_padding, ValueError),
        "float": (layer.packed.float(), TypeError),
        "list": ([1, 2], TypeError),
        "column": (layer.packed[:, None], ValueError),
        "row": (layer.packed[None], ValueError),
    }


@pytest.mark.parametrize("kind", list(bad_states(PatternConv2d.from_dense(pruned_conv()))))
def test_bad_state_changes_nothing(layer, kind):
    x = random(1, 6, 5, 7)
    before, bytes_before = layer(x), layer.packed.clone()
    value, error = bad_states(layer)[kind]
    with pytest.raises(error) as caught:
        layer.load_state_dict({"packed": value})
    assert error is not ValueError or not isinstance(caught.value, pconv_ops.PConvFormatError)
    assert torch.equal(layer.packed, bytes_before) and torch.equal(layer(x), before)


@pytest.mark.parametrize("change", ["half", "double", "bfloat16", "train", "eval"])
def test_conversions_leave_the_bytes_alone(layer, change):
    x = random(1, 6, 5, 7)
    before = layer(x)
    model = getattr(nn.Sequential(layer, nn.BatchNorm2d(8)), change)()
    assert model[0].packed.dtype == torch.uint8
    assert torch.equal(layer(x), before)
    with pytest.raises(TypeError, match="x: expected float32"):
        layer(x.half())


def test_another_device_is_an_error_at_the_call(layer):
    meta = copy.deepcopy(layer).to("meta")
    repr(meta)
    with pytest.raises(TypeError, match="CPU"):
        layer(random(1, 6, 5, 7).to("meta"))
    with pytest.raises(TypeError, match="CPU"):
        meta(random(1, 6, 5, 7))


def test_residual_and_activation():
    conv = pruned_conv()
    layer = PatternConv2d.from_dense(conv, "relu")
    x, residual = random(2, 6, 5, 7), random(2, 8, 5, 7)
    torch.testing.assert_close(layer(x, residual), torch.relu(conv(x) + residual).detach())


def test_activation_is_fixed(layer):
    assert layer.activation == "relu" and PatternConv2d.from_dense(pruned_conv()).activation == ""
    assert PatternConv2d.from_dense(pruned_conv(), (-1, 1)).activation == "clamp(-1.0,1.0)"
    with pytest.raises(AttributeError):
        layer.activation = ""
    assert pickle.loads(pickle.dumps(layer)).activation == "relu"


def test_repr_says_what_it_is(layer):
    text = repr(layer)
    for part in ("6, 8", "kernel_size=(3, 3)", "activation='relu'", "density=0."):
        assert part in text
