"""prune_ in blocks: g consecutive filters keep the same kernels with the same patterns."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projection_cases import FIXED, SETS, kernels_kept, mixed_net, weights_3x3
from torch import nn

from pconv_ops.prune import prune_


def block_keep(weight, patterns, rate, block, balance=None):
    """Which weights stay, [OC, IC, kh, kw] -> bool, as slow and obvious as can be."""
    filters, channels = weight.shape[:2]
    keep, rows = np.zeros(weight.shape, dtype=bool), []
    for start in range(0, filters, block):
        for channel in range(channels):
            kernels = weight[start : start + block, channel].astype(np.float64)
            masks = [np.ones(kernels.shape[1:])] if patterns is None else patterns.masks
            norms = [float((kernels**2 * mask).sum()) for mask in masks]
            best = int(np.argmax(norms))
            keep[start : start + block, channel] = masks[best]
            rows.append((start, channel, norms[best]))
    units = {start: [row for row in rows if row[0] == start] for start, _, _ in rows}
    for group in units.values() if balance else [rows]:
        dropped = sorted(group, key=lambda row: -row[2])[round(len(group) / rate) :]
        for start, channel, _ in dropped:
            keep[start : start + block, channel] = False
    return keep


@pytest.mark.parametrize("balance", [None, "filter"])
@pytest.mark.parametrize("patterns", [None, *SETS])
@pytest.mark.parametrize("block", [2, 4, 8])
def test_blocks_against_a_slow_reference(block, patterns, balance):
    model = mixed_net()
    before = {name: layer.weight.detach().numpy().copy() for name, layer in model.named_children() if name != "norm"}
    report = prune_(model, patterns, 3, connectivity_1x1=2, block=block, balance=balance)
    for name, rate in (("body", 3), ("grouped", 3), ("pointwise", 2)):
        layer_patterns = None if name == "pointwise" else patterns
        size = 4 if (name, block) == ("grouped", 8) else block  # 12 filters a group
        keep = block_keep(before[name], layer_patterns, rate, size, balance)
        assert np.array_equal(getattr(model, name).weight.detach().numpy(), before[name] * keep), name
        (row,) = [layer for layer in report.layers if layer.name == name]
        assert row.block == size and f"blocks of {size}" in row.reason
    depthwise = report.layers[3]
    assert depthwise.block == 1 and depthwise.reason in ("depthwise: patterns only", "dense: depthwise")


def test_the_filters_of_a_block_keep_the_same_weights():
    model = mixed_net()
    prune_(model, connectivity=3.1, connectivity_1x1=3.1, block=4)
    for layer in (model.body, model.grouped, model.pointwise):
        kept = (layer.weight.detach() != 0).numpy().reshape(layer.out_channels // 4, 4, -1)
        assert (kept == kept[:, :1]).all()
    assert kernels_kept(model.body.weight) == 4 * round(24 * 16 / 4 / 3.1)
    assert kernels_kept(model.grouped.weight) == 4 * round(24 * 12 / 4 / 3.1)


def test_block_that_divides_no_group_falls_to_a_common_divisor():
    model = mixed_net()
    report = prune_(model, connectivity=2, connectivity_1x1=2, block=10)
    found = {layer.name: layer.block for layer in report.layers}
    assert found == {"stem": 1, "body": 2, "grouped": 2, "depthwise": 1, "pointwise": 2, "wide": 1}
    assert report.layers[2].reason == "patterns, connectivity 2x, blocks of 2 (10 does not divide 12 filters)"
    assert prune_(mixed_net(), connectivity=2, block=7).layers[1].block == 1


def test_block_one_is_the_default():
    one, default = mixed_net(), mixed_net()
    assert prune_(one, block=1) == prune_(default)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), default.parameters(), strict=True))


def test_dict_of_blocks_exact_name_wins_then_first_match():
    model = mixed_net()
    rates = {"connectivity": {"*": 2}, "connectivity_1x1": 2}
    report = prune_(model, **rates, block={"*d*": 2, "body": 8, "g*": 4, "[po]*": np.int64(16)})
    assert [layer.block for layer in report.layers] == [1, 8, 2, 1, 16, 2]
    assert "blocks" not in report.layers[0].reason
    assert report.to_json()["layers"][4]["block"] == 16


def test_layers_that_lose_no_kernels_have_no_blocks():
    model, plain = mixed_net(), mixed_net()
    report = prune_(model, connectivity=None, block=4)
    prune_(plain, connectivity=None)
    assert torch.equal(model.body.weight, plain.body.weight) and report.layers[1].block == 1


@settings(FIXED, max_examples=30)
@given(weights_3x3, st.floats(1, 3), st.sampled_from([None, "filter"]), st.sampled_from([None, *SETS]))
def test_blocks_with_ties_are_idempotent_and_follow_the_reference(weight, rate, balance, patterns):
    weight = np.concatenate([weight, weight[::-1]])[:, [*range(weight.shape[1])] * 5]
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3)
    conv.weight.data = torch.from_numpy(weight.copy())
    prune_(conv, patterns, rate, block=2, balance=balance)
    once = conv.weight.detach().clone()
    # Small integers have exact norms, whatever the order of the sum.
    if np.array_equal(weight, np.round(weight)):
        assert np.array_equal(once.numpy(), weight * block_keep(weight, patterns, rate, 2, balance))
    prune_(conv, patterns, rate, block=2, balance=balance)
    assert torch.equal(conv.weight, once)


def tied_pair():
    model = nn.Sequential(OrderedDict(a=nn.Conv2d(8, 8, 3), b=nn.Conv2d(8, 8, 3)))
    model.b.weight = model.a.weight
    return model


def test_a_shared_weight_with_different_blocks_is_refused():
    with pytest.raises(ValueError, match="'a' and 'b' share one weight.*blocks of 4"):
        prune_(tied_pair(), connectivity=2, block={"a": 4})
    report = prune_(tied_pair(), connectivity=2, block=4)
    assert [layer.block for layer in report.layers] == [4, 4]
    left_dense = prune_(tied_pair(), connectivity=2, block=4, skip="b")
    assert [layer.block for layer in left_dense.layers] == [1, 1]
