"""The projections: what stays, ties, kinds of arrays, what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from projection_cases import FIXED, SETS, kernels_kept, random_weight, weights_3x3

from pconv_ops.patterns import SCP4, PatternSet
from pconv_ops.projections import project_connectivity, project_patterns


@FIXED
@given(weights_3x3, st.sampled_from(SETS))
def test_project_patterns_keeps_the_most_energy_inside_the_set(weight, patterns):
    result = project_patterns(weight, patterns)
    assert result.dtype == weight.dtype and result.shape == weight.shape
    squares = weight.astype(np.float64) ** 2
    best = np.einsum("oiyx,pyx->oip", squares, patterns.masks).max(axis=2)
    np.testing.assert_allclose((result.astype(np.float64) ** 2).sum(axis=(2, 3)), best, rtol=1e-12)
    assert np.all((result == weight) | (result == 0))
    outside = [(result != 0) & (mask == 0) for mask in patterns.masks]
    assert np.all(np.any([~o.any(axis=(2, 3)) for o in outside], axis=0))


@FIXED
@given(weights_3x3, st.sampled_from(SETS))
def test_project_patterns_is_idempotent(weight, patterns):
    once = project_patterns(weight, patterns)
    assert np.array_equal(project_patterns(once, patterns), once)


def test_project_patterns_is_idempotent_when_rounding_hides_a_tap():
    # 1 + 1e-20 == 1 in float64: the pattern with the tiny tap ties with the ones without it.
    weight = np.zeros((1, 1, 3, 3), dtype=np.float32)
    weight[0, 0, 1, 1], weight[0, 0, 2, 1], weight[0, 0, 0, 1] = 1, 1e-10, 1e-10
    once = project_patterns(weight)
    assert np.count_nonzero(once) == 2  # the first of the tied patterns has no tap below
    assert np.array_equal(project_patterns(once), once)


def test_project_patterns_breaks_ties_by_the_sets_order():
    weight = np.ones((1, 1, 3, 3), dtype=np.float32)
    for patterns in (SCP4, PatternSet(SCP4.bits[::-1])):
        assert np.array_equal(project_patterns(weight, patterns)[0, 0], patterns.masks[0])


@FIXED
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 8), st.integers(1, 8), st.sampled_from([(1, 1), (3, 3), (5, 2)])),
    st.floats(1, 12),
    st.sampled_from([None, "filter"]),
    st.sampled_from(["normal", "few"]),
)
def test_project_connectivity_keeps_the_count_with_the_largest_norms(seed, shape, rate, balance, values):
    weight = random_weight(seed, shape[0], shape[1], *shape[2], values=values)
    expected = round(shape[1] / rate) if balance else round(shape[0] * shape[1] / rate)
    if expected == 0:
        with pytest.raises(ValueError, match="keeps none"):
            project_connectivity(weight, rate, balance)
        return
    result = project_connectivity(weight, rate, balance)
    kept = (result != 0).any(axis=(2, 3))
    norms = (weight.astype(np.float64) ** 2).sum(axis=(2, 3))
    rows = zip(kept, norms, strict=True) if balance else [(kept.ravel(), norms.ravel())]
    for row_kept, row_norms in rows:
        assert row_kept.sum() == min(expected, np.count_nonzero(row_norms))
        # Larger norms first, and of equal norms the lowest index.
        order = sorted(range(row_norms.size), key=lambda i: (-row_norms[i], i))[:expected]
        assert {i for i in order if row_norms[i]} == set(np.flatnonzero(row_kept))
    assert np.array_equal(result, weight * kept[:, :, None, None])
    assert np.array_equal(project_connectivity(result, rate, balance), result)


@FIXED
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, 8]), st.integers(1, 8), st.floats(1, 6))
def test_project_connectivity_in_blocks_is_the_projection_of_longer_kernels(seed, block, channels, rate):
    """A row of `block` kernels is one longer kernel, as in a layer with so many fewer filters."""
    weight = random_weight(seed, 8, channels, 3, 2)
    stacked = weight.reshape(8 // block, block, channels, 6).transpose(0, 2, 1, 3).reshape(-1, channels, block, 6)
    for balance in (None, "filter"):
        if round((channels if balance else stacked.shape[0] * channels) / rate) == 0:
            continue
        result = project_connectivity(weight, rate, balance, block)
        want = project_connectivity(stacked, rate, balance).reshape(-1, channels, block, 6).transpose(0, 2, 1, 3)
        assert np.array_equal(result, want.reshape(weight.shape))


def test_project_patterns_in_blocks_lets_all_filters_vote():
    weight = np.zeros((4, 1, 3, 3), dtype=np.float32)
    weight[:, 0] = SCP4.masks[0]
    weight[1, 0] = 2 * SCP4.masks[3]
    alone, pairs, all_four = (project_patterns(weight, block=block) for block in (1, 2, 4))
    assert np.array_equal(alone, weight)
    assert np.array_equal(pairs[:2, 0], weight[:2, 0] * SCP4.masks[3]) and np.array_equal(pairs[2:], weight[2:])
    assert np.array_equal(all_four[:, 0], weight[:, 0] * SCP4.masks[3])
    for block, once in ((2, pairs), (4, all_four)):
        assert np.array_equal(project_patterns(once, block=block), once)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_projections_of_torch_weights_return_torch(dtype):
    weight = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    before = weight.detach().clone()
    cut = project_patterns(weight)
    assert cut.dtype == dtype and not cut.requires_grad
    assert torch.count_nonzero(cut) == 6 * 8 * 4
    assert np.array_equal(cut.double().numpy(), project_patterns(weight.detach().double().numpy()))
    assert kernels_kept(project_connectivity(weight, 4)) == 12
    assert torch.equal(weight.detach(), before)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: project_patterns(np.ones((2, 2, 5, 5))), ValueError, r"got \[2, 2, 5, 5\]"),
        (lambda: project_patterns(np.ones((2, 3, 3))), ValueError, "expected shape"),
        (lambda: project_patterns(np.ones((2, 2, 3, 3), dtype=int)), TypeError, "int64"),
        (lambda: project_patterns(torch.ones(2, 2, 3, 3, dtype=torch.int32)), TypeError, "int32"),
        (lambda: project_patterns([[1.0]]), TypeError, "list"),
        (lambda: project_patterns(np.full((2, 2, 3, 3), np.inf)), ValueError, "NaN or Inf"),
        (lambda: project_connectivity(np.full((2, 2, 3, 3), np.nan), 2), ValueError, "NaN or Inf"),
        (lambda: project_connectivity(np.ones((2, 2, 3, 3)), 0.5), ValueError, "rate: expected a finite rate >= 1"),
        (lambda: project_connectivity(np.ones((2, 2, 3, 3)), float("inf")), ValueError, "rate"),
        (lambda: project_connectivity(np.ones((2, 2, 3, 3)), "3"), TypeError, "rate"),
        (lambda: project_connectivity(np.ones((2, 2, 3, 3)), 9), ValueError, "none of the 4 kernels of the layer"),
        (lambda: project_connectivity(np.ones((2, 2, 3, 3)), 2, "row"), ValueError, "balance"),
        (
            lambda: project_connectivity(np.ones((6, 2, 3, 3)), 2, block=4),
            ValueError,
            "4 does not divide the 6 filters",
        ),
        (
            lambda: project_connectivity(np.ones((4, 2, 3, 3)), 9, block=2),
            ValueError,
            "4 rows of 2 kernels of the layer",
        ),
        (lambda: project_connectivity(np.ones((2, 2, 3, 3)), 2, block=65), ValueError, "block: expected 1..64, got 65"),
        (lambda: project_patterns(np.ones((6, 2, 3, 3)), block=4), ValueError, "4 does not divide the 6 filters"),
        (lambda: project_patterns(np.ones((6, 2, 3, 3)), block="2"), TypeError, "block: expected an integer, got str"),
    ],
)
def test_projections_refuse(call, error, text):
    with pytest.raises(error, match=text):
        call()
