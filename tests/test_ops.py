"""conv2d() on numpy arrays, and what numpy and torch calls have in common."""

import numpy as np
import pytest
import torch

import pconv_ops
from pconv_ops import packing
from pconv_ops.patterns import SCP4
from pconv_ops.reference import conv2d_reference, error_bound

INF = float("inf")


def integers(rng, shape, low=-4, high=5):
    return rng.integers(low, high, shape).astype(np.float32)


def pruned_integers(rng, out_channels, group_channels, keep=0.6):
    """Small-integer weights in SCP patterns; every sum stays below 2^24, so results are exact."""
    weight = integers(rng, (out_channels, group_channels, 3, 3))
    weight *= SCP4.masks[rng.integers(0, 4, (out_channels, group_channels))]
    return weight * (rng.random((out_channels, group_channels)) < keep)[:, :, None, None]


def in_layout(x, layout):
    """x [N, C, H, W] (or [C, H, W]) in contiguous or channels_last memory."""
    if layout == "nchw" or x.ndim == 3:
        return np.ascontiguousarray(x)
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.fixture
def layer():
    rng = np.random.default_rng(7)
    return pconv_ops.pack(pruned_integers(rng, 8, 6), integers(rng, 8), padding=1)


@pytest.fixture
def silent_copies(monkeypatch):
    monkeypatch.setattr(packing, "_copy_reported", True)


# n, in_channels, out_channels, groups, h, w, padding
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1),
    (1, 3, 5, 1, 2, 3, 1),
    (2, 17, 9, 1, 15, 16, 1),
    (3, 8, 8, 2, 17, 33, 1),
    (1, 6, 6, 6, 9, 31, 1),
    (1, 4, 4, 1, 3, 3, 0),
    (2, 5, 3, 1, 40, 7, 0),
    (1, 5, 3, 1, 8, 12, 2),
    (1, 7, 4, 1, 6, 5, ((0, 2), (3, 1))),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s[:6])))
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("activation", [None, "relu", "relu6", (-3.0, 5.0)], ids=str)
def test_exact_against_the_reference(shape, layout, activation):
    n, in_channels, out_channels, groups, h, w, padding = shape
    rng = np.random.default_rng(sum(shape[:6]))
    weight = pruned_integers(rng, out_channels, in_channels // groups, keep=0.8)
    bias = integers(rng, out_channels)
    x = in_layout(integers(rng, (n, in_channels, h, w)), layout)
    packed = pconv_ops.pack(weight, bias, padding=padding, groups=groups)
    clamp = packing.parse_activation(activation)
    plain = conv2d_reference(x, weight, bias, padding=packed.padding, groups=groups)
    residual = in_layout(integers(rng, plain.shape), layout)
    expected = conv2d_reference(x, weight, bias, padding=packed.padding, groups=groups, clamp=clamp, residual=residual)
    out = in_layout(np.full(plain.shape, np.nan, np.float32), layout)
    y = pconv_ops.conv2d(x, packed, activation, residual, out)
    assert y is out
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(pconv_ops.conv2d(x, packed, activation, residual), expected)
    from_torch = pconv_ops.conv2d(torch.from_numpy(x), packed, activation, torch.from_numpy(residual))
    np.testing.assert_array_equal(from_torch.numpy(), expected)
    if activation is None and plain.size > 8:
        assert np.count_nonzero(expected) >= 0.3 * expected.size


def test_real_numbers_within_the_bound():
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((32, 24, 3, 3)).astype(np.float32) * SCP4.masks[rng.integers(0, 4, (32, 24))]
    bias, x = rng.standard_normal(32).astype(np.float32), rng.standard_normal((2, 24, 19, 21)).astype(np.float32)
    y = pconv_ops.conv2d(x, pconv_ops.pack(weight, bias, padding=1))
    geometry = {"padding": (1, 1, 1, 1)}
    error = np.abs(y - conv2d_reference(x, weight, bias, **geometry))
    assert np.all(error <= error_bound(x, weight, bias, **geometry))


def test_layout_of_the_input_is_kept(layer):
    x = integers(np.random.default_rng(0), (2, 6, 5, 7))
    assert pconv_ops.conv2d(x, layer).flags.c_contiguous
    assert pconv_ops.conv2d(in_layout(x, "channels_last"), layer).transpose(0, 2, 3, 1).flags.c_contiguous


def test_unbatched_equals_a_batch_of_one(layer):
    x = integers(np.random.default_rng(0), (6, 5, 7))
    y = pconv_ops.conv2d(x, layer)
    assert y.shape == (8, 5, 7)
    np.testing.assert_array_equal(y, pconv_ops.conv2d(x[None], layer)[0])
    tensor = torch.from_numpy(x)
    np.testing.assert_array_equal(pconv_ops.conv2d(tensor, layer).numpy(), y)
    np.testing.assert_array_equal(pconv_ops.conv2d(tensor, layer, None, torch.from_numpy(y)).numpy(), 2 * y)
    np.testing.assert_array_equal(pconv_ops.conv2d(x, layer, None, y), 2 * y)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_unbatched_channels_last_is_read_in_place(layer, monkeypatch, recwarn, convert):
    monkeypatch.setattr(packing, "_copy_reported", False)
    rng = np.random.default_rng(0)
    batch = in_layout(integers(rng, (2, 6, 5, 7)), "channels_last")
    residual, out = (in_layout(integers(rng, (2, 8, 5, 7)), "channels_last") for _ in range(2))
    expected = pconv_ops.conv2d(batch, layer, None, residual)[1]
    y = pconv_ops.conv2d(convert(batch)[1], layer, None, convert(residual)[1])
    np.testing.assert_array_equal(np.asarray(y), expected)
    assert np.asarray(y).transpose(1, 2, 0).flags.c_contiguous
    pconv_ops.conv2d(convert(batch)[1], layer, None, convert(residual)[1], convert(out)[1])
    np.testing.assert_array_equal(out[1], expected)
    assert not recwarn.list


def test_empty_batch(layer):
    assert pconv_ops.conv2d(np.zeros((0, 6, 5, 7), np.float32), layer).shape == (0, 8, 5, 7)
    y = pconv_ops.conv2d(torch.zeros(0, 6, 5, 7), layer)
    assert y.shape == (0, 8, 5, 7) and y.dtype == torch.float32


def test_read_only_input(layer):
    x = integers(np.random.default_rng(0), (1, 6, 5, 7))
    expected = pconv_ops.conv2d(x, layer)
    x.flags.writeable = False
    np.testing.assert_array_equal(pconv_ops.conv2d(x, layer), expected)
    np.testing.assert_array_equal(pconv_ops.conv2d(x, layer, residual=expected), 2 * expected)


def other_strides(x):
    """The same values in memory that is neither contiguous nor channels_last."""
    bytes_off = np.frombuffer(bytearray(x.nbytes + 1), np.uint8)[1:].view(np.float32).reshape(x.shape)
    bytes_off[...] = x
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), np.float32)
    wide[..., ::2] = x
    return {
        "transposed": np.ascontiguousarray(x.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2),
        "strided": wide[..., ::2],
        "reversed": np.ascontiguousarray(x[..., ::-1])[..., ::-1],
        "unaligned": bytes_off,
        "fortran": np.asfortranarray(x),
    }


@pytest.mark.parametrize("kind", ["transposed", "strided", "reversed", "unaligned", "fortran"])
def test_other_strides_are_copied(layer, silent_copies, kind):
    rng = np.random.default_rng(0)
    x, residual = integers(rng, (2, 6, 5, 7)), integers(rng, (2, 8, 5, 7))
    expected = pconv_ops.conv2d(x, layer, None, residual)
    y = pconv_ops.conv2d(other_strides(x)[kind], layer, None, other_strides(residual)[kind])
    np.testing.assert_array_equal(y, expected)


def test_broadcast_input_is_copied(layer, silent_copies):
    x = np.broadcast_to(np.float32(1), (2, 6, 5, 7))
    np.testing.assert_array_equal(pconv_ops.conv2d(x, layer), pconv_ops.conv2d(np.ones(x.shape, np.float32), layer))
    y = pconv_ops.conv2d(torch.ones(1).expand(2, 6, 5, 7), layer)
    np.testing.assert_array_equal(y.numpy(), pconv_ops.conv2d(np.ones(x.shape, np.float32), layer))


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_copies_are_reported_once(layer, monkeypatch, convert):
    monkeypatch.setattr(packing, "_copy_reported", False)
    x = np.zeros((1, 6, 7, 5), np.float32)
    with pytest.warns(UserWarning, match="copied") as record:
        for _ in range(3):
            pconv_ops.conv2d(convert(x).swapaxes(2, 3), layer)
    assert len(record) == 1


@pytest.mark.parametrize("call", ["numpy", "torch", "module", "model", "dispatcher"])
def test_report_of_a_copy_names_the_callers_file(layer, monkeypatch, call):
    monkeypatch.setattr(packing, "_copy_reported", False)
    module = pconv_ops.PatternConv2d(layer)
    x = np.zeros((1, 6, 7, 5), np.float32).swapaxes(2, 3)
    tensor = torch.from_numpy(x)
    calls = {
        "numpy": lambda: pconv_ops.conv2d(x, layer),
        "torch": lambda: pconv_ops.conv2d(tensor, layer),
        "module": lambda: module(tensor),
        "model": lambda: torch.nn.Sequential(module)(tensor),
        "dispatcher": lambda: torch.ops.pconv.conv2d(tensor, module.packed, None, ""),
    }
    with pytest.warns(UserWarning, match="copied") as record:
        calls[call]()
    assert [warning.filename for warning in record] == [__file__]


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_dense_layouts_are_not_reported(layer, monkeypatch, recwarn, layout):
    monkeypatch.setattr(packing, "_copy_reported", False)
    x = in_layout(np.zeros((2, 6, 5, 7), np.float32), layout)
    y = pconv_ops.conv2d(x, layer)
    pconv_ops.conv2d(x, layer, "relu", y)
    pconv_ops.conv2d(torch.from_numpy(x), layer, "relu", torch.from_numpy(y))
    assert not recwarn.list


def test_out_may_be_the_residual(layer):
    rng = np.random.default_rng(0)
    x, residual = integers(rng, (1, 6, 5, 7)), integers(rng, (1, 8, 5, 7))
    expected = pconv_ops.conv2d(x, layer, "relu", residual)
    tensor = torch.from_numpy(residual.copy())
    assert pconv_ops.conv2d(torch.from_numpy(x), layer, "relu", tensor, tensor) is tensor
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert pconv_ops.conv2d(x, layer, "relu", residual, residual) is residual
    np.testing.assert_array_equal(residual, expected)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("size", [(5, 0), (0, 5), (2, 5)])
def test_maps_that_are_too_small_are_named_with_their_shape(convert, size):
    packed = pconv_ops.pack(np.ones((6, 6, 3, 3), np.float32))
    x = convert(np.zeros((1, 6, *size), np.float32))
    with pytest.raises(ValueError, match=rf"^x: shape \[1, 6, {size[0]}, {size[1]}\]: "):
        pconv_ops.conv2d(x, packed)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_overlaps_are_refused(convert):
    packed = pconv_ops.pack(np.ones((6, 6, 3, 3), np.float32), padding=1)
    size = 6 * 5 * 7
    memory = np.zeros(3 * size, np.float32)

    def part(start):
        return convert(memory[start : start + size].reshape(1, 6, 5, 7))

    x = part(0)
    for start in (0, 1, size - 1):
        with pytest.raises(ValueError, match="out: overlaps x"):
            pconv_ops.conv2d(x, packed, out=part(start))
    for start in (size + 1, 2 * size - 1):
        with pytest.raises(ValueError, match="out: overlaps residual"):
            pconv_ops.conv2d(x, packed, residual=part(size), out=part(start))
    pconv_ops.conv2d(x, packed, residual=part(2 * size), out=part(size))
    pconv_ops.conv2d(x, packed, residual=x, out=part(size))


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_bad_out(layer, convert):
    x = convert(np.zeros((2, 6, 5, 7), np.float32))
    for shape in ((2, 8, 5, 6), (1, 8, 5, 7), (8, 5, 7)):
        with pytest.raises(ValueError, match="out"):
            pconv_ops.conv2d(x, layer, out=convert(np.zeros(shape, np.float32)))
    with pytest.raises(TypeError, match="out"):
        pconv_ops.conv2d(x, layer, out=convert(np.zeros((2, 8, 5, 7))))
    with pytest.raises(TypeError, match="out"):
        pconv_ops.conv2d(x, layer, out=[0.0])
    with pytest.raises(ValueError, match="out"):  # channels_last out for a contiguous x
        pconv_ops.conv2d(x, layer, out=convert(in_layout(np.zeros((2, 8, 5, 7), np.float32), "channels_last")))
    with pytest.raises(ValueError, match="out"):
        pconv_ops.conv2d(x, layer, out=convert(np.zeros((2, 8, 5, 14), np.float32))[..., ::2])


def test_read_only_out(layer):
    out = np.zeros((1, 8, 5, 7), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: is read-only"):
        pconv_ops.conv2d(np.zeros((1, 6, 5, 7), np.float32), layer, out=out)


@pytest.mark.parametrize(
    "x",
    [
        [[1.0]],
        None,
        np.zeros((1, 6, 5, 7)),
        np.zeros((1, 6, 5, 7), ">f4"),
        np.zeros((1, 6, 5, 7), np.float16),
        np.zeros((1, 6, 5, 7), np.int32),
        torch.zeros(1, 6, 5, 7, dtype=torch.float64),
        torch.zeros(1, 6, 5, 7, dtype=torch.bfloat16),
        torch.zeros(1, 6, 5, 7, device="meta"),
        torch.zeros(1, 6, 5, 7).to_sparse(),
        torch.zeros(1, 6, 5, 7, dtype=torch.complex64),
    ],
    ids=lambda x: f"{type(x).__module__}-{getattr(x, 'dtype', None)}-{getattr(x, 'device', '')}",
)
def test_wrong_inputs_raise_type_error(layer, x):
    with pytest.raises(TypeError, match="x:"):
        pconv_ops.conv2d(x, layer)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("shape", [(5, 7), (1, 1, 6, 5, 7), (1, 5, 5, 7), (7, 5, 7), (1, 6, 0, 7), (1, 6, 5, 0), ()])
def test_wrong_shapes_raise_value_error(layer, convert, shape):
    with pytest.raises(ValueError):
        pconv_ops.conv2d(convert(np.zeros(shape, np.float32)), layer)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_wrong_residual(layer, convert):
    x = convert(np.zeros((1, 6, 5, 7), np.float32))
    with pytest.raises(ValueError, match="residual"):
        pconv_ops.conv2d(x, layer, None, convert(np.zeros((1, 8, 5, 1), np.float32)))
    with pytest.raises(TypeError, match="residual"):
        pconv_ops.conv2d(x, layer, None, convert(np.zeros((1, 8, 5, 7))))
    with pytest.raises(TypeError, match="residual"):
        pconv_ops.conv2d(x, layer, None, 1.0)


def test_numpy_and_torch_do_not_mix(layer):
    x, residual = np.zeros((1, 6, 5, 7), np.float32), torch.zeros(1, 8, 5, 7)
    with pytest.raises(TypeError, match="residual"):
        pconv_ops.conv2d(x, layer, None, residual)
    with pytest.raises(TypeError, match="residual"):
        pconv_ops.conv2d(torch.from_numpy(x), layer, None, residual.numpy())


@pytest.mark.parametrize("packed", [None, b"", np.zeros((1, 1, 3, 3), np.float32), torch.zeros(3, dtype=torch.uint8)])
def test_packed_must_be_packed(packed):
    with pytest.raises(TypeError, match="packed"):
        pconv_ops.conv2d(np.zeros((1, 1, 3, 3), np.float32), packed)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_a_geometry_that_needs_too_much_memory_says_so(convert):
    packed = pconv_ops.pack(np.ones((2, 2, 3, 3), np.float32), dilation=60000, padding=60000)
    x = np.zeros((1, 2, 9, 9), np.float32)
    assert pconv_ops.conv2d(convert(x), packed).shape == (1, 2, 9, 9)
    pixels_first = np.zeros((1, 9, 9, 2), np.float32).transpose(0, 3, 1, 2)
    with pytest.raises(ValueError, match="takes more than"):
        pconv_ops.conv2d(convert(pixels_first), packed)


def test_nan_passes_the_clamp_and_stays_in_its_window():
    weight = np.zeros((2, 2, 3, 3), np.float32)
    weight[0, 0] = SCP4.masks[0]
    weight[1, 1] = SCP4.masks[0]
    x = np.ones((1, 2, 12, 20), np.float32)
    x[0, 0, 6, 10] = np.nan
    y = pconv_ops.conv2d(x, pconv_ops.pack(weight, padding=1), "relu6")
    rows, columns = np.nonzero(np.isnan(y[0, 0]))
    assert np.isnan(y[0, 0, 6, 10])  # the centre tap reads it
    assert np.all(np.abs(rows - 6) <= 1) and np.all(np.abs(columns - 10) <= 1)
    assert not np.isnan(y[0, 1]).any()


@pytest.mark.parametrize("channels_last", [False, True])
def test_numpy_outputs_start_at_a_cache_line(channels_last):
    packed = pconv_ops.pack(np.ones((5, 3, 3, 3), np.float32), padding=1)
    x = np.ones((2, 3, 7, 9), np.float32)
    if channels_last:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for _ in range(5):
        y = pconv_ops.conv2d(x, packed)
        assert y.ctypes.data % 64 == 0
        assert y.flags.writeable
