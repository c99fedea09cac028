"""conv2d_reference against torch's float64 convolution, its special values, and the error bound against fp32."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pconv_ops.reference import conv2d_reference, error_bound

CASES = [
    # stride, dilation, groups, padding (top, left, bottom, right), kernel
    ((1, 1), (1, 1), 1, (0, 0, 0, 0), (3, 3)),
    ((1, 1), (1, 1), 1, (1, 1, 1, 1), (3, 3)),
    ((1, 1), (1, 1), 1, (0, 1, 2, 3), (3, 3)),
    ((1, 1), (1, 1), 2, (3, 0, 0, 1), (3, 3)),
    ((2, 2), (1, 1), 1, (1, 1, 1, 1), (3, 3)),
    ((2, 1), (1, 1), 6, (1, 1, 1, 1), (3, 3)),
    ((1, 2), (2, 3), 1, (2, 3, 2, 3), (3, 3)),
    ((3, 2), (1, 2), 3, (1, 2, 0, 4), (3, 2)),
    ((1, 1), (1, 1), 1, (0, 0, 0, 0), (1, 1)),
    ((2, 3), (1, 1), 2, (2, 2, 2, 2), (5, 1)),
    ((1, 1), (1, 1), 1, (0, 0, 0, 0), (7, 9)),
]


def case_arrays(kernel, groups, n=2, channels=6, h=8, w=9, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, channels, h, w))
    weight = rng.standard_normal((2 * groups, channels // groups, *kernel))
    weight *= rng.random(weight.shape) < 0.5
    return x, weight, rng.standard_normal(2 * groups)


def torch_conv(x, weight, bias, stride, padding, dilation, groups):
    top, left, bottom, right = padding
    padded = F.pad(torch.as_tensor(x), (left, right, top, bottom))
    return F.conv2d(
        padded, torch.as_tensor(weight), None if bias is None else torch.as_tensor(bias), stride, 0, dilation, groups
    )


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("stride", "dilation", "groups", "padding", "kernel"), CASES)
def test_equals_torch_in_float64(stride, dilation, groups, padding, kernel, with_bias):
    x, weight, bias = case_arrays(kernel, groups)
    bias = bias if with_bias else None
    y = conv2d_reference(x, weight, bias, stride, padding, dilation, groups)
    expected = torch_conv(x, weight, bias, stride, padding, dilation, groups).numpy()
    assert y.dtype == np.float64 and np.abs(expected).max() > 0.5
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_takes_any_batch(n):
    x, weight, bias = case_arrays((3, 3), 1, n=n)
    assert conv2d_reference(x, weight, bias).shape == (n, 2, 6, 7)


def test_integers_are_exact():
    rng = np.random.default_rng(1)
    x, weight = rng.integers(-8, 9, (2, 6, 8, 9)), rng.integers(-8, 9, (4, 3, 3, 3))
    y = conv2d_reference(x, weight, None, padding=(1, 1, 1, 1), groups=2)
    expected = torch_conv(x.astype(float), weight.astype(float), None, 1, (1, 1, 1, 1), 1, 2).numpy()
    assert np.array_equal(y, expected)


def test_residual_comes_before_the_clamp():
    x, weight, bias = case_arrays((3, 3), 1)
    plain = conv2d_reference(x, weight, bias)
    residual = np.random.default_rng(2).standard_normal(plain.shape) * 10
    y = conv2d_reference(x, weight, bias, clamp=(0.0, 6.0), residual=residual)
    assert np.array_equal(y, np.clip(plain + residual, 0, 6))
    assert 0 < np.count_nonzero(y == 6) < y.size


def test_clamp_lets_nan_through_as_torch_does():
    x = np.array([np.nan, -np.inf, np.inf, -1.0, 2.0]).reshape(1, 1, 1, 5)
    y = conv2d_reference(x, np.ones((1, 1, 1, 1)), clamp=(0.0, 1.0))
    expected = torch.clamp(torch.tensor(x), 0.0, 1.0).numpy()
    assert np.array_equal(y, expected, equal_nan=True) and np.isnan(y[0, 0, 0, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_inputs_reach_only_outputs_with_a_kept_tap_on_them(value):
    x = np.ones((1, 2, 5, 5))
    x[0, 0, 2, 2] = value
    x[0, 1] = value  # nothing keeps channel 1
    weight = np.zeros((2, 2, 3, 3))
    weight[0, 0, 1, 1] = weight[0, 0, 0, 1] = 1
    y = conv2d_reference(x, weight, [0.5, 0.25], padding=(1, 1, 1, 1))
    touched = np.argwhere(~np.isfinite(y)).tolist()
    assert touched == [[0, 0, 2, 2], [0, 0, 3, 2]]
    assert np.all(y[0, 1] == 0.25)


def test_nan_weights_are_taps():
    weight = np.zeros((1, 1, 3, 3))
    weight[0, 0, 1, 1] = np.nan
    assert np.isnan(conv2d_reference(np.ones((1, 1, 3, 3)), weight)).all()


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"x": np.ones((1, 5, 4, 4))}, "do not fit 1 groups"),
        ({"x": np.ones((4, 4, 4))}, "4 dimensions"),
        ({"groups": 4}, "do not fit 4 groups"),
        ({"x": np.ones((1, 4, 2, 9))}, "does not fit into the padded input"),
        ({"bias": np.ones(3)}, r"bias: expected shape \(2,\)"),
        ({"residual": np.ones((1, 2, 4, 4))}, "residual: expected shape"),
    ],
)
def test_refused(kwargs, text):
    with pytest.raises(ValueError, match=text):
        conv2d_reference(**{"x": np.ones((1, 4, 5, 5)), "weight": np.ones((2, 4, 3, 3))} | kwargs)


@pytest.mark.parametrize("seed", range(4))
def test_bound_holds_for_fp32_and_is_not_slack(seed):
    x, weight, bias = case_arrays((3, 3), 1, channels=32, seed=seed)
    x, weight, bias = (a.astype(np.float32) for a in (x, weight, bias))
    padding = (1, 1, 1, 1)
    bound = error_bound(x, weight, bias, padding=padding)
    y64 = conv2d_reference(x, weight, bias, padding=padding)
    y32 = torch_conv(x, weight, bias, 1, padding, 1, 1).numpy()
    assert np.all(np.abs(y32 - y64) <= bound)
    # One lost tap must show.
    kept = np.argwhere(weight)[0]
    wrong = weight.copy()
    wrong[tuple(kept)] = 0
    assert np.any(np.abs(conv2d_reference(x, wrong, bias, padding=padding) - y64) > bound)


def test_bound_is_the_formula():
    x, weight = np.full((1, 1, 3, 3), -2.0), np.zeros((1, 1, 3, 3))
    weight[0, 0, 1] = 3.0
    bound = error_bound(x, weight, [-1.0], padding=(1, 1, 1, 1))
    middle, left = 2.0**-24 * 5 * 19 + 3 * 2.0**-149, 2.0**-24 * 4 * 13 + 2 * 2.0**-149
    assert bound[0, 0, 1].tolist() == [left, middle, left]
    residual = np.full((1, 1, 3, 3), -7.0)
    with_residual = error_bound(x, weight, [-1.0], padding=(1, 1, 1, 1), residual=residual)
    assert with_residual[0, 0, 1, 1] == 2.0**-24 * 6 * 26 + 4 * 2.0**-149
