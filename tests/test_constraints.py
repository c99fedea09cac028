"""Constraints: their projections are optimal by brute force, idempotent, and met one after another as in prune_."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from projection_cases import FIXED, random_weight

from pconv_ops.constraints import FewFilters, FewKernels, FewWeights, InPatterns, keep_all
from pconv_ops.patterns import SCP4, PatternSet


def kernel_supports(shape, block, count, balance):
    """Every way of keeping `count` rows of kernels, as masks of the weight's shape."""
    rows, channels = shape[0] // block, shape[1]
    places = [(row, channel) for row in range(rows) for channel in range(channels)]
    for chosen in combinations(places, count if balance is None else count * rows):
        if balance == "filter" and any(sum(r == row for r, _ in chosen) != count for row in range(rows)):
            continue
        mask = np.zeros(shape, dtype=bool)
        for row, channel in chosen:
            mask[row * block : (row + 1) * block, channel] = True
        yield mask


def pattern_supports(shape, patterns):
    """For one row of kernels of one block: every pattern."""
    for mask in patterns.masks:
        yield np.broadcast_to(mask.astype(bool), shape)


def axis_supports(shape, count, of_filters):
    n = shape[0] if of_filters else int(np.prod(shape))
    for chosen in combinations(range(n), count):
        mask = np.zeros(n, dtype=bool)
        mask[list(chosen)] = True
        yield np.broadcast_to(mask[:, None, None, None], shape) if of_filters else mask.reshape(shape)


CASES = {
    "patterns": (InPatterns(SCP4), (1, 1, 3, 3), lambda shape: pattern_supports(shape, SCP4)),
    "patterns in blocks": (
        InPatterns(PatternSet.random(12), block=4),
        (4, 1, 3, 3),
        lambda shape: pattern_supports(shape, PatternSet.random(12)),
    ),
    "kernels": (FewKernels(4), (3, 3, 2, 2), lambda shape: kernel_supports(shape, 1, 4, None)),
    "kernels, one": (FewKernels(1), (3, 3, 2, 2), lambda shape: kernel_supports(shape, 1, 1, None)),
    "kernels in blocks": (
        FewKernels(3, block=2),
        (4, 3, 2, 1),
        lambda shape: kernel_supports(shape, 2, 3, None),
    ),
    "kernels of a filter": (
        FewKernels(2, "filter"),
        (2, 4, 1, 2),
        lambda shape: kernel_supports(shape, 1, 2, "filter"),
    ),
    "weights": (FewWeights(3), (2, 2, 1, 2), lambda shape: axis_supports(shape, 3, False)),
    "filters": (FewFilters(2), (4, 2, 2, 1), lambda shape: axis_supports(shape, 2, True)),
    "all filters": (FewFilters(4), (4, 2, 2, 1), lambda shape: axis_supports(shape, 4, True)),
}


@pytest.mark.parametrize("case", CASES)
@FIXED
@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "few"]))
def test_projection_is_the_nearest_point_of_the_set(case, seed, values):
    """Of all supports that the set allows, none leaves less of |W - Z|^2 outside."""
    constraint, shape, supports = CASES[case]
    weight = random_weight(seed, *shape, values=values).astype(np.float64)
    keep = constraint.keep(weight)
    allowed = list(supports(shape))
    assert any(not (weight * keep)[~support].any() for support in allowed), "not in the set"
    missed = float(np.square(weight * ~keep).sum())
    best = min(float(np.square(weight * ~support).sum()) for support in allowed)
    assert missed <= best + 1e-12


@pytest.mark.parametrize("case", CASES)
@FIXED
@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "few"]))
def test_projection_is_idempotent(case, seed, values):
    constraint, shape, _ = CASES[case]
    once = random_weight(seed, *shape, values=values).astype(np.float64)
    once *= constraint.keep(once)
    assert np.array_equal(once * constraint.keep(once), once)


def test_keep_all_meets_constraints_in_their_order():
    """The kernel with the larger norm loses to the one whose pattern keeps more."""
    weight = np.zeros((1, 2, 3, 3))
    weight[0, 0, 0, 0], weight[0, 0, 1, 1] = 5, 1  # 5 lies in a corner, outside of every SCP
    weight[0, 1, 1, 1] = 2
    keep = keep_all(weight, [InPatterns(SCP4), FewKernels(1)])
    assert not keep[0, 0].any() and keep[0, 1, 1, 1]
    assert keep_all(weight, []).all()
    assert keep_all(weight, [FewKernels(1), InPatterns(SCP4)])[0, 0, 1, 1]
