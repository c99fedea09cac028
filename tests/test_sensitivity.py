"""Rates from a budget: uniform ones, and by a scan whose score is known."""

import json

import pytest
import torch
from torch import nn
from training_cases import small_net

from pconv_ops import SCP4, ADMMPruner, PatternSet, prune_
from pconv_ops.sensitivity import sensitivity_scan, uniform_rate

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:finalize\\(\\) without")]


def wide_net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 48, 3), nn.Conv2d(48, 16, 1)]
    return nn.Sequential(*layers)


def rate_reached(report, names=("1", "2")):
    layers = [layer for layer in report.layers if layer.name in names]
    return sum(layer.total for layer in layers) / sum(layer.nnz for layer in layers)


def energy(model):
    """A score that knows what it wants: the kept energy, where layer 1 counts a hundred times."""
    return (100 * model[1].weight.square().sum() + model[2].weight.square().sum()).item()


@pytest.mark.parametrize("total", [2.25, 3, 5, 8, 12, 100])
def test_uniform_rate_reaches_the_total(total):
    model = wide_net()
    rate = uniform_rate(model, total)
    assert rate == pytest.approx(total / 2.25)
    assert rate_reached(prune_(model, connectivity=rate)) == pytest.approx(total, rel=0.01)


def test_uniform_rate_of_other_sets_and_layers():
    model = wide_net()
    assert uniform_rate(model, 6, patterns=None) == pytest.approx(6)
    assert uniform_rate(model, 6, PatternSet([0x1FF, 0x010])) == pytest.approx(6)
    assert uniform_rate(model, 6, skip="1") == pytest.approx(6 / 2.25)
    mixed = nn.Sequential(nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 3, groups=32))
    rate = uniform_rate(mixed, 8)
    assert rate_reached(prune_(mixed, connectivity=rate), ("0", "1")) == pytest.approx(8, rel=0.01)


@pytest.mark.parametrize(("total", "message"), [(2, "2.25"), (0.5, "rate"), (300, "cannot")])
def test_uniform_rate_out_of_reach(total, message):
    mixed = nn.Sequential(nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 3, groups=32))
    with pytest.raises(ValueError, match=message):
        uniform_rate(mixed, total)


def test_uniform_rate_without_layers_or_kernels():
    with pytest.raises(ValueError, match="no layer"):
        uniform_rate(nn.Linear(2, 2), 8)
    with pytest.raises(ValueError, match="too high for layer '3'"):
        uniform_rate(small_net(), 300)


@pytest.mark.parametrize("total", [3, 5, 8, 12])
def test_scan_gives_more_to_the_layer_that_bears_it(total):
    model = wide_net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scan = sensitivity_scan(model, energy)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert scan.dense == energy(model)
    assert [layer.name for layer in scan.layers] == ["1", "2"]
    rates = scan.rates(total)
    assert rates["2"] > rates["1"]
    assert rate_reached(prune_(model, connectivity=rates)) == pytest.approx(total, rel=0.01)


def test_scan_scores_are_those_of_the_pruned_model():
    model = wide_net()
    scan = sensitivity_scan(model, energy, rates=(4.0,))
    assert [sorted(layer.score) for layer in scan.layers] == [[1.0, 4.0], [1.0, 4.0]]
    for layer in scan.layers:
        twin = wide_net()
        other = {"1": "2", "2": "1"}[layer.name]
        report = prune_(twin, connectivity={layer.name: 4.0}, skip=other)
        assert layer.score[4.0] == energy(twin)
        assert layer.kept[4.0] == next(one.nnz for one in report.layers if one.name == layer.name)


def test_scan_looks_behind_a_dip():
    """Layer 1 loses more at 2 than at 4 (noise): its rate may still rise to 4."""

    def evaluate(model):
        halved = 9216 * 4 // 9 // 2  # what layer 1 keeps with patterns and half the kernels
        return -1.0 if torch.count_nonzero(model[1].weight) == halved else 0.0

    model = wide_net()
    rates = sensitivity_scan(model, evaluate, rates=(2.0, 4.0), skip="2").rates(9)
    assert rates["1"] == pytest.approx(4.0)


def test_scan_takes_tensors_and_leaves_modes_and_statistics():
    model = small_net().train()
    model[4].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]

    def accuracy(model):
        assert not any(module.training for module in model.modules())
        return model(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))).mean()

    scan = sensitivity_scan(model, accuracy, rates=(2.0,))
    assert isinstance(scan.dense, float)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_scan_leaves_out_rates_that_leave_no_kernel():
    scan = sensitivity_scan(small_net(), lambda model: 0.0, rates=(2.0, 95.0, 97.0))
    assert [sorted(layer.score) for layer in scan.layers] == [[1.0, 2.0, 95.0], [1.0, 2.0, 95.0]]


def test_scan_with_balance_and_groups():
    """A filter of three channels cannot lose five of six kernels: those rates are left out."""
    model = nn.Sequential(nn.Conv2d(12, 12, 3, groups=4))
    scan = sensitivity_scan(model, lambda model: 0.0, balance="filter")
    assert max(scan.layers[0].score) == 4.0
    assert len(sensitivity_scan(small_net(), lambda model: 0.0, balance="filter").layers) == 2


def test_rates_of_a_scan_fit_the_pruner():
    """Names of the model inside its wrapper; rate 1 included."""
    model = wide_net()
    rates = sensitivity_scan(nn.DataParallel(model), energy_of_wrapped, rates=(2.0, 16.0)).rates(4)
    assert 1.0 in rates.values()
    report = ADMMPruner(nn.DataParallel(model), connectivity=rates).finalize()
    assert rate_reached(report) == pytest.approx(4, rel=0.01)


def energy_of_wrapped(model):
    return energy(model.module)


def test_weights_come_back_when_the_score_fails():
    model = wide_net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = []

    def fails(model):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of data")
        return 0.0

    with pytest.raises(RuntimeError, match="out of data"):
        sensitivity_scan(model, fails)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_budget_beyond_the_scan_is_refused():
    scan = sensitivity_scan(wide_net(), energy, rates=(2.0,))
    with pytest.raises(ValueError, match="reach 4.5"):
        scan.rates(9)


def test_budget_that_patterns_alone_undercut_is_refused():
    with pytest.raises(ValueError, match="patterns alone give, 2.25"):
        sensitivity_scan(wide_net(), energy, rates=(2.0,)).rates(2)


@pytest.mark.parametrize("call", [uniform_rate, sensitivity_scan])
def test_wrong_models_and_sets(call):
    with pytest.raises(TypeError, match="model"):
        call([wide_net()], energy if call is sensitivity_scan else 8)
    with pytest.raises(TypeError, match="patterns"):
        call(wide_net(), energy if call is sensitivity_scan else 8, patterns="scp4")


def test_report_reads_and_saves(tmp_path):
    scan = sensitivity_scan(wide_net(), energy, rates=(2.0,))
    assert "nothing pruned" in scan.text() and "2x" in scan.text()
    scan.save(tmp_path / "scan.json")
    assert len(json.loads((tmp_path / "scan.json").read_text())["layers"]) == 2


@pytest.mark.parametrize(("arguments", "error"), [
    ({"rates": (0.5,)}, ValueError), ({"rates": ("2",)}, TypeError), ({"balance": "rows"}, ValueError),
    ({"block": 0}, ValueError), ({"evaluate": lambda model: None}, TypeError),
    ({"evaluate": lambda model: float("nan")}, ValueError), ({"evaluate": None}, TypeError),
    ({"rates": 3.0}, TypeError), ({"skip": 5}, TypeError), ({"skip": None}, TypeError),
])  # fmt: skip
def test_wrong_arguments(arguments, error):
    with pytest.raises(error):
        sensitivity_scan(wide_net(), **({"evaluate": energy, "patterns": SCP4} | arguments))
