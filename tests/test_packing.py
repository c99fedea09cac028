"""pack(): argument checks, forms of padding, round trips of bytes."""

import pickle

import numpy as np
import pytest
import torch

import pconv_ops
from pconv_ops.packing import activation_text, parse_activation, parse_padding
from pconv_ops.patterns import SCP4


def pruned_weight(out_channels, in_channels, seed=0, keep=0.5, kernel=3):
    """float32 OIHW weights: SCP patterns for 3x3, a share `keep` of the kernels."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((out_channels, in_channels, kernel, kernel)).astype(np.float32)
    if kernel == 3:
        weight *= SCP4.masks[rng.integers(0, 4, (out_channels, in_channels))]
    weight *= (rng.random((out_channels, in_channels)) < keep)[:, :, None, None]
    return weight


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_to_dense_round_trip(kernel):
    weight = pruned_weight(6, 5, seed=kernel, kernel=kernel)
    bias = np.arange(6, dtype=np.float32)
    packed = pconv_ops.pack(weight, bias)
    dense, dense_bias = packed.to_dense()
    np.testing.assert_array_equal(dense, weight)
    np.testing.assert_array_equal(dense_bias, bias)
    assert packed.nnz == np.count_nonzero(weight)
    assert packed.density == packed.nnz / weight.size


def test_torch_and_numpy_weights_pack_alike():
    weight = pruned_weight(8, 4)
    bias = np.ones(8, np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(weight))
    assert pconv_ops.pack(parameter, torch.from_numpy(bias)).to_bytes() == pconv_ops.pack(weight, bias).to_bytes()


def test_bytes_and_pickle_round_trip():
    packed = pconv_ops.pack(pruned_weight(8, 4), padding=1, groups=2)
    for copy in (pconv_ops.PackedConv.from_bytes(packed.to_bytes()), pickle.loads(pickle.dumps(packed))):
        assert copy.to_bytes() == packed.to_bytes()
        assert (copy.out_channels, copy.in_channels, copy.groups) == (8, 8, 2)


def test_weights_without_c_order_pack():
    weight = pruned_weight(8, 4)
    fortran = np.asfortranarray(weight)
    readonly = weight.copy()
    readonly.flags.writeable = False
    expected = pconv_ops.pack(weight).to_bytes()
    assert pconv_ops.pack(fortran).to_bytes() == expected
    assert pconv_ops.pack(readonly).to_bytes() == expected


def test_special_weights_survive():
    weight = np.zeros((2, 1, 3, 3), np.float32)
    weight[0, 0, 1, 1], weight[0, 0, 0, 1], weight[1, 0, 2, 2] = np.nan, np.inf, -0.0
    packed = pconv_ops.pack(weight)
    assert packed.nnz == 2
    np.testing.assert_array_equal(packed.to_dense()[0], weight)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (0, (0, 0, 0, 0)),
        (2, (2, 2, 2, 2)),
        ((1, 2), (1, 2, 1, 2)),
        ([1, 2], (1, 2, 1, 2)),
        ("valid", (0, 0, 0, 0)),
        ("same", (1, 1, 1, 1)),
        (((1, 2), (3, 4)), (1, 3, 2, 4)),
        (np.int64(1), (1, 1, 1, 1)),
    ],
)
def test_padding_forms(padding, expected):
    assert pconv_ops.pack(pruned_weight(2, 2), padding=padding).padding == expected


@pytest.mark.parametrize(("kernel", "dilation"), [(2, 1), (4, 1), (3, 2), (2, 3)])
def test_same_padding_matches_torch(kernel, dilation):
    torch.manual_seed(0)
    weight, x = torch.randn(1, 1, kernel, kernel), torch.randn(1, 1, 9, 8)
    top, left, bottom, right = parse_padding("same", (kernel, kernel), (1, 1), (dilation, dilation))
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    expected = torch.nn.functional.conv2d(x, weight, padding="same", dilation=dilation)
    torch.testing.assert_close(torch.nn.functional.conv2d(padded, weight, dilation=dilation), expected)


def test_geometry_is_kept():
    packed = pconv_ops.pack(pruned_weight(4, 2, kernel=5), stride=(2, 3), padding=(1, 0), dilation=(1, 2), groups=2)
    assert packed.kernel_size == (5, 5)
    assert (packed.stride, packed.dilation, packed.groups) == ((2, 3), (1, 2), 2)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"weight": [[1.0]]}, "weight"),
        ({"weight": np.zeros((1, 1, 3, 3))}, "weight"),
        ({"weight": np.zeros((1, 1, 3, 3), ">f4")}, "weight"),
        ({"weight": np.zeros((1, 1, 3, 3), np.float16)}, "weight"),
        ({"weight": torch.zeros(1, 1, 3, 3, dtype=torch.float64)}, "weight"),
        ({"weight": torch.zeros(1, 1, 3, 3, device="meta")}, "weight"),
        ({"weight": torch.zeros(1, 1, 3, 3).to_sparse()}, "weight"),
        ({"bias": [1.0, 2.0]}, "bias"),
        ({"bias": np.zeros(2)}, "bias"),
        ({"stride": 1.0}, "stride"),
        ({"stride": True}, "stride"),
        ({"stride": "1"}, "stride"),
        ({"padding": None}, "padding"),
        ({"padding": 0.5}, "padding"),
        ({"dilation": (1, 1.5)}, "dilation"),
        ({"groups": 2.0}, "groups"),
    ],
)
def test_wrong_kinds_raise_type_error(arguments, name):
    with pytest.raises(TypeError, match=name):
        pconv_ops.pack(**({"weight": pruned_weight(2, 2)} | arguments))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"weight": np.zeros((2, 3, 3), np.float32)}, "weight"),
        ({"weight": np.zeros((0, 2, 3, 3), np.float32)}, "weight"),
        ({"weight": np.zeros((2, 2, 3, 0), np.float32)}, "weight"),
        ({"weight": np.zeros((1, 1, 33, 3), np.float32)}, "weight"),
        ({"bias": np.zeros(3, np.float32)}, "bias"),
        ({"bias": np.zeros((2, 1), np.float32)}, "bias"),
        ({"stride": 0}, "stride"),
        ({"stride": (1, 1, 1)}, "stride"),
        ({"stride": 65536}, "stride"),
        ({"padding": -1}, "padding"),
        ({"padding": "full"}, "padding"),
        ({"padding": "same", "stride": 2}, "padding"),
        ({"padding": ((1, 1), 1)}, "padding"),
        ({"padding": ((1, 1), (1, 1, 1))}, "padding"),
        ({"padding": 2**40}, "padding"),
        ({"dilation": 0}, "dilation"),
        ({"groups": 0}, "groups"),
        ({"groups": 3}, "groups"),
    ],
)
def test_wrong_values_raise_value_error(arguments, name):
    with pytest.raises(ValueError, match=name):
        pconv_ops.pack(**({"weight": pruned_weight(2, 2)} | arguments))


def test_every_truncation_and_flip_is_refused_or_equal():
    packed = pconv_ops.pack(pruned_weight(3, 2), np.ones(3, np.float32), padding=1)
    good = packed.to_bytes()
    for length in range(len(good)):
        with pytest.raises(pconv_ops.PConvFormatError):
            pconv_ops.PackedConv.from_bytes(good[:length])
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x41
        with pytest.raises(pconv_ops.PConvFormatError):
            pconv_ops.PackedConv.from_bytes(bytes(bad))
    with pytest.raises(pconv_ops.PConvFormatError):
        pconv_ops.PackedConv.from_bytes(good + b"\0")


@pytest.mark.parametrize(
    ("activation", "limits", "text"),
    [
        (None, (-np.inf, np.inf), ""),
        ("", (-np.inf, np.inf), ""),
        ("relu", (0, np.inf), "relu"),
        ("relu6", (0, 6), "relu6"),
        ((0, 6), (0, 6), "relu6"),
        ((-1, 1), (-1, 1), "clamp(-1.0,1.0)"),
        ("clamp(-1, 0.1)", (-1, 0.1), "clamp(-1.0,0.1)"),
        ("clamp(-inf,2)", (-np.inf, 2), "clamp(-inf,2.0)"),
    ],
)
def test_activation_forms(activation, limits, text):
    assert parse_activation(activation) == limits
    assert activation_text(activation) == text
    assert parse_activation(text) == limits


@pytest.mark.parametrize("activation", ["gelu", "clamp(1,0)", "clamp(a,b)", "clamp(1)", (1, 0), (np.nan, 1), (1, 2, 3)])
def test_bad_activation_values(activation):
    with pytest.raises(ValueError, match="activation"):
        parse_activation(activation)


def test_unknown_activation_lists_every_form():
    with pytest.raises(
        ValueError, match=r"None, 'relu', 'relu6', 'clamp\(min,max\)' or a pair \(min, max\), got 'gelu'"
    ):
        parse_activation("gelu")


@pytest.mark.parametrize("activation", [1, torch.relu, (None, 1)])
def test_bad_activation_kinds(activation):
    with pytest.raises(TypeError, match="activation"):
        parse_activation(activation)
