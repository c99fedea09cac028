"""prune_: what stays, what is chosen, what is left alone, what is refused."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projection_cases import FIXED, SETS, kernels_kept, mixed_net, weights_3x3
from torch import nn
from torch.nn.utils import parametrizations

from pconv_ops.projections import project_connectivity, project_patterns
from pconv_ops.prune import prune_


def changed(model, prune):
    """Names of the state-dict entries that `prune` changed, and its report."""
    before = copy.deepcopy(model.state_dict())
    report = prune(model)
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}, report


# ---- prune_: which layers


def test_default_rules():
    model = mixed_net()
    names, report = changed(model, lambda m: prune_(m, connectivity=3.1))
    assert names == {"body.weight", "grouped.weight", "depthwise.weight"}
    assert kernels_kept(model.body.weight) == round(24 * 16 / 3.1)
    assert kernels_kept(model.grouped.weight) == round(24 * 24 / 2 / 3.1)
    assert kernels_kept(model.depthwise.weight) == 24
    assert torch.count_nonzero(model.depthwise.weight) == 24 * 4
    reasons = {layer.name: layer.reason for layer in report.layers}
    assert list(reasons) == ["stem", "body", "grouped", "depthwise", "pointwise", "wide"]
    assert reasons["body"] == "patterns, connectivity 3.1x"
    assert reasons["stem"].startswith("dense: stem") and reasons["depthwise"] == "depthwise: patterns only"
    assert "named" in reasons["wide"] and "connectivity_1x1" in reasons["pointwise"]


def test_kept_kernels_are_the_largest_after_the_pattern_cut():
    model = mixed_net()
    cut = project_patterns(model.body.weight.detach().numpy())
    prune_(model, connectivity=4)
    assert np.array_equal(model.body.weight.detach().numpy(), project_connectivity(cut, 4))


def test_patterns_alone_and_connectivity_alone():
    model = mixed_net()
    prune_(model, connectivity=None)
    assert torch.count_nonzero(model.body.weight) == 24 * 16 * 4
    model = mixed_net()
    names, _ = changed(model, lambda m: prune_(m, patterns=None, connectivity=2))
    assert names == {"body.weight", "grouped.weight"}
    assert torch.count_nonzero(model.body.weight) == 24 * 16 // 2 * 9


def test_connectivity_1x1_prunes_pointwise_layers():
    model = mixed_net()
    names, _ = changed(model, lambda m: prune_(m, None, None, connectivity_1x1=3))
    assert names == {"pointwise.weight"}
    assert torch.count_nonzero(model.pointwise.weight) == 24 * 32 // 3
    model = mixed_net()
    prune_(model, connectivity_1x1={"point*": 2})
    assert torch.count_nonzero(model.pointwise.weight) == 24 * 32 // 2


def test_dict_of_rates_exact_name_wins_then_first_match():
    model = mixed_net()
    report = prune_(model, connectivity={"*d*": 2, "body": 4, "g*": 8, "wide": 5})
    kept = {layer.name: layer.kernels_kept for layer in report.layers}
    assert kept["body"] == 24 * 16 // 4 and kept["grouped"] == 24 * 12 // 2
    assert kept["wide"] == round(32 * 16 / 5) and kept["pointwise"] == 24 * 32 and kept["stem"] == 48
    assert set(report.layers[5].patterns) == {2**25 - 1}  # a 5x5 layer never gets patterns


def test_layers_a_dict_does_not_name_get_patterns_only():
    model = mixed_net()
    report = prune_(model, connectivity={"grouped": 2})
    assert report.layers[1].reason == "patterns" and report.layers[1].kernels_kept == 24 * 16


@pytest.mark.parametrize(
    ("skip", "left_alone"),
    [
        ("body", {"body"}),
        (["b*", "depthwise"], {"body", "depthwise"}),
        (lambda name, module: module.groups == 2, {"grouped"}),
        (["body", lambda name, module: name == "grouped"], {"body", "grouped"}),
        (["linear", "no_such_*"], set()),
    ],
)
def test_skip(skip, left_alone):
    names, report = changed(mixed_net(), lambda m: prune_(m, skip=skip))
    assert names == {f"{n}.weight" for n in {"body", "grouped", "depthwise"} - left_alone}
    assert {layer.name for layer in report.layers if layer.reason == "dense: skipped"} == left_alone


def test_skip_by_the_name_of_a_module_covers_its_layers():
    model = nn.Sequential(OrderedDict(a=mixed_net(), ab=nn.Conv2d(8, 8, 3)))
    names, _ = changed(model, lambda m: prune_(m, skip="a"))
    assert names == {"ab.weight"}


def test_a_bare_convolution_is_pruned():
    conv = nn.Conv2d(8, 8, 3)
    assert prune_(conv, connectivity=2).layers[0].kernels_kept == 32


# ---- prune_: how


def test_balance_keeps_the_same_number_in_every_filter():
    model = mixed_net()
    report = prune_(model, connectivity=3.1, balance="filter")
    assert tuple(report.layers[1].kernels_per_filter) == (5, 5.0, 5)
    assert tuple(report.layers[2].kernels_per_filter) == (4, 4.0, 4)


@pytest.mark.parametrize("kwargs", [{}, {"balance": "filter"}, {"connectivity_1x1": 2, "connectivity": {"*": 5}}])
@pytest.mark.parametrize("patterns", SETS)
def test_pruning_again_changes_nothing(patterns, kwargs):
    model = mixed_net()
    first = prune_(model, patterns, **kwargs)
    names, second = changed(model, lambda m: prune_(m, patterns, **kwargs))
    assert names == set() and second == first


@settings(FIXED, max_examples=30)
@given(weights_3x3.filter(lambda w: w.shape[1] > 4), st.floats(1, 4), st.sampled_from([None, "filter"]))
def test_pruning_again_changes_nothing_with_ties(weight, rate, balance):
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3)
    conv.weight.data = torch.from_numpy(weight.copy())
    prune_(conv, connectivity=rate, balance=balance)
    once = conv.weight.detach().clone()
    prune_(conv, connectivity=rate, balance=balance)
    assert torch.equal(conv.weight, once)


def test_weights_that_are_zero_stay_zero():
    model = mixed_net()
    with torch.no_grad():
        model.body.weight[:, ::2] = 0
        model.body.weight[0, 1, 1] = 0
    zero = model.body.weight.detach() == 0
    prune_(model, connectivity=1.5)
    assert torch.all(model.body.weight[zero] == 0)
    assert kernels_kept(model.body.weight) == 24 * 8


def test_pruning_is_in_place_and_leaves_autograd_alone():
    model = mixed_net()
    weight, version = model.body.weight, model.body.weight._version
    stem_version = model.stem.weight._version
    prune_(model)
    assert model.body.weight is weight and weight.requires_grad and weight.is_leaf and weight.grad_fn is None
    assert weight._version > version  # caches that follow the version must notice
    assert model.stem.weight._version == stem_version


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_channels_last(dtype):
    model = mixed_net().to(dtype).to(memory_format=torch.channels_last)
    report = prune_(model, connectivity=3)
    assert model.body.weight.dtype == dtype and model.body.weight.is_contiguous(memory_format=torch.channels_last)
    assert report.layers[1].kernels_kept == 24 * 16 // 3 and report.layers[1].nnz == 4 * 24 * 16 // 3


# ---- shared modules and weights


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = self.a


def test_a_module_used_twice_is_pruned_once_under_any_of_its_names():
    report = prune_(Twice(), connectivity=2)
    assert [layer.name for layer in report.layers] == ["a"]
    assert prune_(Twice(), connectivity={"b": 4}).layers[0].kernels_kept == 16
    assert prune_(Twice(), skip="b").layers[0].reason == "dense: skipped"


def tied_pair(tie):
    model = nn.Sequential(OrderedDict(a=nn.Conv2d(8, 8, 3), b=nn.Conv2d(8, 8, 3)))
    tie(model)
    return model


def tie_parameter(model):
    model.b.weight = model.a.weight


def tie_memory(model):
    model.b.weight = nn.Parameter(model.a.weight.detach())


@pytest.mark.parametrize("tie", [tie_parameter, tie_memory])
def test_a_shared_weight_is_pruned_once_and_reported_twice(tie):
    model = tied_pair(tie)
    version = model.a.weight._version
    report = prune_(model, connectivity=2)
    assert [layer.kernels_kept for layer in report.layers] == [32, 32]
    assert report.layers[1].reason.endswith("(shares its weight with 'a')")
    assert model.a.weight._version == version + 1


@pytest.mark.parametrize("tie", [tie_parameter, tie_memory])
def test_a_shared_weight_stays_dense_when_one_owner_does(tie):
    model = tied_pair(tie)
    names, report = changed(model, lambda m: prune_(m, skip="b"))
    assert names == set()
    assert report.layers[0].reason == "dense: shares its weight with 'b.weight', which stays dense"


def test_a_weight_shared_with_another_kind_of_module_stays_dense():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 3))
    model[1].weight = model[0].weight
    assert changed(model, prune_)[0] == set()


def test_a_shared_weight_with_different_rates_is_refused():
    model = tied_pair(tie_parameter)
    with pytest.raises(ValueError, match="'a' and 'b' share one weight"):
        prune_(model, connectivity={"a": 2, "b": 3})


# ---- refusals: nothing changes


def spoil(model, value=float("nan")):
    model.grouped.weight.data[1, 2, 0, 0] = value
    return model


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"connectivity": 0.9}, ValueError, "connectivity: expected a finite rate >= 1, got 0.9"),
        ({"connectivity": float("nan")}, ValueError, "finite rate"),
        ({"connectivity": {"body": 0}}, ValueError, r"connectivity\['body'\]"),
        ({"connectivity": True}, TypeError, "bool"),
        ({"connectivity": "3.1"}, TypeError, "str"),
        ({"connectivity": {1: 2.0}}, TypeError, "layer names"),
        ({"connectivity": {"nobody": 2}}, ValueError, "'nobody' matches no layer.*: body, grouped, wide$"),
        ({"connectivity": {"body": 2, "x*": 2}}, ValueError, r"'x\*' matches no layer"),
        ({"connectivity": {"stem": 2}}, ValueError, "'stem' matches no layer"),
        ({"connectivity": {"depthwise": 2}}, ValueError, "'depthwise' matches no layer"),
        ({"connectivity": {"pointwise": 2}}, ValueError, "'pointwise' matches no layer"),
        ({"connectivity_1x1": {"body": 2}}, ValueError, "connectivity_1x1: 'body' matches no layer.*: pointwise$"),
        ({"connectivity": 1000}, ValueError, "layer 'body': rate: 1000 keeps none of the 384 kernels"),
        ({"connectivity": 40, "balance": "filter"}, ValueError, "layer 'body'.*16 kernels of each filter"),
        ({"block": 0}, ValueError, "block: expected 1..64, got 0"),
        ({"block": 65}, ValueError, "block: expected 1..64, got 65"),
        ({"block": 4.0}, TypeError, "block: expected an integer, got float"),
        ({"block": True}, TypeError, "block: expected an integer, got bool"),
        ({"block": None}, TypeError, "block: expected an integer, got NoneType"),
        ({"block": {"body": 0}}, ValueError, r"block\['body'\]: expected 1..64"),
        ({"block": {"stem": 4}}, ValueError, "block: 'stem' matches no layer.*: body, grouped, pointwise, wide$"),
        ({"block": 8, "connectivity": 100}, ValueError, "layer 'body'.*none of the 48 rows of 8 kernels"),
        ({"balance": "row"}, ValueError, "balance: expected None or 'filter', got 'row'"),
        ({"patterns": "scp4"}, TypeError, "patterns: expected a PatternSet"),
        ({"skip": ["bodi"]}, ValueError, "skip: no layer 'bodi'; layers: stem, body"),
        ({"skip": [3]}, TypeError, "skip"),
    ],
)
def test_bad_arguments_change_nothing(kwargs, error, text):
    model = mixed_net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=text):
        prune_(model, **kwargs)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_weights_name_the_layer_and_change_nothing(value):
    model = spoil(mixed_net(), value)
    body = model.body.weight.detach().clone()
    with pytest.raises(ValueError, match="layer 'grouped' contains NaN or Inf"):
        prune_(model)
    assert torch.equal(model.body.weight, body)
    prune_(model, skip="grouped")


def test_models_that_cannot_be_pruned_are_refused():
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module, got dict"):
        prune_({})
    with pytest.raises(ValueError, match="layer '0' has no weights yet"):
        prune_(nn.Sequential(nn.LazyConv2d(8, 3)))
    with pytest.raises(ValueError, match="layer '0' has no weights yet"):
        prune_(nn.Sequential(nn.Conv2d(8, 8, 3, device="meta")))
    normed = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(8, 8, 3)))
    with pytest.raises(ValueError, match="layer '0' computes its weight"):
        prune_(normed)
    assert prune_(normed, skip="0").layers[0].reason == "dense: skipped"


def test_a_model_without_convolutions_gives_an_empty_report():
    assert prune_(nn.Linear(3, 3)).layers == []
