"""Arithmetic of folding: float64 until the end, zeros, numbers that do not fit."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pconv_ops.folding import norm_scale_shift, scaled


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("affine", [True, False])
def test_norms(affine):
    mean, variance = draw(6), np.abs(draw(6, seed=1))
    weight, bias = (draw(6, seed=2), draw(6, seed=3)) if affine else (None, None)
    scale, shift = norm_scale_shift(mean, variance, 1e-3, weight, bias)
    x = torch.from_numpy(draw(2, 6, 3, 3, seed=4)).double()
    held = [None if a is None else torch.from_numpy(a).double() for a in (mean, variance, weight, bias)]
    expected = F.batch_norm(x, *held, eps=1e-3)
    assert scale.dtype == shift.dtype == np.float64
    assert np.allclose(x.numpy() * scale[:, None, None] + shift[:, None, None], expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 7)])
@pytest.mark.parametrize("size", [4, 1])
def test_scaled_weights_are_rounded_once(shape, size):
    weight, bias = draw(*shape), draw(4, seed=1)
    weight.flat[::3] = 0
    scale, shift = np.linspace(-0.7, 1.3, size), np.linspace(1.1, 0.3, size)
    for given in (bias, None):
        new_weight, new_bias = scaled(weight, given, scale, shift)
        factors = np.broadcast_to(scale, 4)
        exact = weight.astype(np.float64) * factors.reshape(-1, *[1] * (len(shape) - 1))
        assert np.array_equal(new_weight, exact.astype(np.float32))
        exact = np.broadcast_to(shift, 4) + (0 if given is None else given * factors)
        assert np.array_equal(new_bias, exact.astype(np.float32))
        assert (new_weight.flat[::3] == 0).all() and new_weight.dtype == new_bias.dtype == np.float32


@pytest.mark.parametrize(("scale", "shift"), [(1e39, 0.0), (np.inf, 0.0), (np.nan, 0.0), (1.0, 1e39), (1.0, np.nan)])
def test_what_is_not_finite_does_not_fold(scale, shift):
    assert scaled(np.ones((2, 2), np.float32), None, np.array([scale]), np.array([shift])) is None


def test_norms_without_variance_do_not_fold():
    zero = np.zeros(2, np.float32)
    scale, shift = norm_scale_shift(zero, zero, 0.0, zero, None)
    assert scaled(np.ones((2, 2), np.float32), None, scale, shift) is None
