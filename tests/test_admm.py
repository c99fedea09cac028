"""ADMMPruner: the equations, what finalize leaves, schedules, state, processes."""

import copy
import gc

import pytest
import torch
from projection_cases import mixed_net
from torch import nn
from training_cases import OPTIMIZERS, PRUNED, batches, small_net, train_epoch, weights_of

import pconv_ops
from pconv_ops import SCP4, ADMMPruner, PatternSet, prune_
from pconv_ops.projections import project_connectivity, project_patterns

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:finalize\\(\\) without")]


def trained(pruner, model, epochs=3, optimizer="sgd"):
    steps = OPTIMIZERS[optimizer](model.parameters())
    for epoch in range(epochs):
        train_epoch(model, steps, pruner, epoch)
        pruner.step()
    return steps


# ---- the equations


def test_penalty_and_step_are_the_equations():
    """Z, Y, U and V by hand, in float32, over three epochs with a growing rho."""
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0, rho=0.03, rho_growth=2.0, rho_max=0.1)
    projections = (project_patterns, lambda w: project_connectivity(w, 2.0))
    splits = {
        name: [[project(w), torch.zeros_like(w)] for project in projections] for name, w in weights_of(model).items()
    }
    rho = 0.03
    steps = OPTIMIZERS["adam"](model.parameters())
    for epoch in range(3):
        train_epoch(model, steps, pruner, epoch)
        weights = weights_of(model)
        expected = sum(
            rho / 2 * (weights[name] - z + u).double().square().sum() for name in PRUNED for z, u in splits[name]
        )
        assert pruner.penalty().item() == pytest.approx(float(expected), rel=1e-5)
        found = pruner.step()
        for name, w in weights.items():
            residual = max(float((w - z).norm() / w.norm()) for z, _ in splits[name])
            assert found.residual[name] == pytest.approx(residual, rel=1e-4)
            for split, project in zip(splits[name], projections, strict=True):
                split[0] = project(w + split[1])
                split[1] = (split[1] + w - split[0]) * (rho / min(rho * 2, 0.1))
        rho = min(rho * 2, 0.1)
        assert pruner.rho == found.rho == rho and pruner.steps == found.step == epoch + 1
        assert found.largest == max(found.residual.values())


def test_penalty_has_the_gradient_of_the_equations():
    model = small_net()
    pruner = ADMMPruner(model, connectivity=None, rho=0.5)
    pruner.penalty().backward()
    for name, w in weights_of(model).items():
        torch.testing.assert_close(model.get_submodule(name).weight.grad, 0.5 * (w - project_patterns(w)))
    assert model.get_submodule("0").weight.grad is None  # the stem is not drawn anywhere


def test_weights_are_drawn_to_their_constraints():
    """A convex loss, minimised well between steps: the splitting converges onto both sets, where W = Z = Y."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False))
    start = model[0].weight.detach().clone()
    pruner = ADMMPruner(model, connectivity=2.0, rho=0.5, rho_growth=1.5, rho_max=5.0)
    steps = torch.optim.SGD(model.parameters(), lr=0.05)
    residuals = []
    for _ in range(40):
        for _ in range(60):
            steps.zero_grad()
            (0.5 * (model[0].weight - start).square().sum() + pruner.penalty()).backward()
            steps.step()
        residuals.append(pruner.step().largest)
    assert residuals[-1] < 1e-3 < residuals[0]
    near = model[0].weight.detach().clone()
    pruner.finalize()
    assert (model[0].weight - near).norm() < 2e-3 * near.norm()


# ---- finalize


@pytest.mark.parametrize("arguments", [
    {}, {"connectivity": None}, {"patterns": None, "connectivity": 2.0}, {"patterns": PatternSet.random(12)},
    {"connectivity": {"3": 2.0, "7": 4.0}}, {"connectivity": 2.0, "block": 2}, {"skip": "3"},
    {"connectivity": 2.0, "balance": "filter"},
])  # fmt: skip
def test_finalize_cuts_as_prune_does(arguments):
    model = small_net()
    pruner = ADMMPruner(model, **arguments)
    trained(pruner, model)
    twin = copy.deepcopy(model)
    report = pruner.finalize()
    assert pruner.finalized
    expected = prune_(twin, **arguments)
    assert report.to_json() == expected.to_json()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masks_never_move_after_finalize(optimizer):
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    steps = trained(pruner, model, optimizer=optimizer)
    first = pruner.finalize().to_json()
    zeros = {name: weight == 0 for name, weight in weights_of(model).items()}
    cut = weights_of(model)

    def check():
        for name, zero in zeros.items():
            assert not model.get_submodule(name).weight[zero].any()

    for epoch in range(3, 6):
        train_epoch(model, steps, pruner, epoch, check)
        assert pruner.step().residual == {}
    assert pruner.steps == 3
    assert pruner.finalize().to_json() == first
    assert all((weights_of(model)[name] != cut[name])[~zero].any() for name, zero in zeros.items())


def test_a_cut_without_a_step_is_warned_of():
    with pytest.warns(UserWarning, match="without a step"):
        ADMMPruner(small_net()).finalize()


def test_a_layer_that_computes_its_weight_by_now_is_named():
    model = small_net()
    pruner = ADMMPruner(model)
    nn.utils.parametrizations.weight_norm(model[7])
    for call in (pruner.penalty, pruner.step, pruner.finalize):
        with pytest.raises(ValueError, match="layer '7' computes its weight now"):
            call()


def test_penalty_is_zero_after_finalize():
    model = small_net()
    pruner = ADMMPruner(model)
    pruner.finalize()
    pruner.penalty().backward()
    assert pruner.penalty().item() == 0 and pruner.penalty().dtype == torch.float32


def test_masks_outlive_the_pruner():
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    pruner.finalize()
    zeros = {name: weight == 0 for name, weight in weights_of(model).items()}
    del pruner
    gc.collect()
    train_epoch(model, OPTIMIZERS["adamw"](model.parameters()), None, 0)
    assert all(not model.get_submodule(name).weight[zero].any() for name, zero in zeros.items())


def test_apply_masks_and_release():
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    pruner.finalize()
    with torch.no_grad():
        model.get_submodule("3").weight.fill_(1)
    pruner.apply_masks()
    assert not model.get_submodule("3").weight.all()
    pruner.release()
    train_epoch(model, OPTIMIZERS["sgd"](model.parameters()), None, 0)
    assert model.get_submodule("3").weight.all()
    assert pruner.finalized and pruner.state_dict()["masks"] == {}


def test_a_second_pruner_keeps_what_the_first_one_cut():
    model = small_net()
    first = ADMMPruner(model, connectivity=None)
    first.finalize()
    zeros = model[3].weight == 0
    second = ADMMPruner(model, None, connectivity=2.0)
    second.finalize()
    first.release()
    train_epoch(model, OPTIMIZERS["sgd"](model.parameters()), None, 0)
    assert not model[3].weight[zeros].any()
    assert int((model[3].weight.flatten(2) != 0).any(2).sum()) == 24


def test_a_rate_that_keeps_every_kernel_draws_nowhere():
    """Without patterns the layer is free; with them, patterns alone draw it."""
    model = small_net()
    pruner = ADMMPruner(model, patterns=None, connectivity={"3": 1.0, "7": 2.0})
    alone = ADMMPruner(model, patterns=None, connectivity={"7": 2.0})
    patterns = ADMMPruner(model, connectivity=1.0)
    with torch.no_grad():
        model[3].weight.mul_(2)
    assert pruner.penalty().item() == alone.penalty().item()
    assert list(patterns.state_dict()["splits"]["3"]) == ["InPatterns"]
    pruner.finalize()
    assert model[3].weight.all()


def test_shared_weights_are_drawn_once():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    model[1].weight = model[0].weight
    pruner = ADMMPruner(model, connectivity=2.0, rho=1.0)
    single = ADMMPruner(nn.Sequential(model[0]), connectivity=2.0, rho=1.0)
    assert pruner.penalty().item() == single.penalty().item()
    assert [layer.nnz for layer in pruner.finalize().layers] == [32 * 4, 32 * 4]


def test_converted_network_gives_the_same():
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    trained(pruner, model)
    pruner.finalize()
    x, _ = next(batches(9))
    fast = pconv_ops.convert(model, x, fallback="never")
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model.eval()(x), rtol=1e-4, atol=1e-5)


def test_layers_of_every_kind():
    """1x1, grouped, depthwise and 5x5 layers end as prune_ leaves them."""
    arguments = {"connectivity": {"body": 2.0, "grouped": 3.0, "wide": 2.0}, "connectivity_1x1": 2.0, "block": 4}
    model = mixed_net()
    pruner = ADMMPruner(model, **arguments)
    pruner.penalty().backward()
    assert all(
        model.get_submodule(n).weight.grad is not None for n in ("body", "grouped", "depthwise", "pointwise", "wide")
    )
    pruner.step()
    report = pruner.finalize()
    assert report.to_json() == prune_(mixed_net(), **arguments).to_json()


# ---- rates that rise, sets that are learnt


def test_ramp_raises_rates_geometrically():
    model = small_net()
    pruner = ADMMPruner(model, patterns=None, connectivity=8.0, ramp=2)
    counts = []
    for _ in range(4):
        splits = pruner.state_dict()["splits"].values()
        counts.append([int((s["FewKernels"]["near"].flatten(2) != 0).any(2).sum()) for s in splits])
        pruner.step()
    assert counts == [[round(n / 8 ** (k / 3)) for n in (48, 48)] for k in (1, 2, 3, 3)]
    assert [layer.kernels_kept for layer in pruner.finalize().layers[1:]] == [6, 6]


def test_finalize_during_the_ramp_gives_what_was_asked():
    pruner = ADMMPruner(small_net(), connectivity=8.0, ramp=5)
    assert [layer.kernels_kept for layer in pruner.finalize().layers[1:]] == [6, 6]


def test_number_of_patterns_learns_the_set():
    model = small_net()
    pruner = ADMMPruner(model, patterns=3, connectivity=None)
    assert pruner.patterns == PatternSet.from_model(model[3:], 3)  # without the stem, which has no patterns
    with torch.no_grad():  # training that turns every kernel upside down
        for name in PRUNED:
            weight = model.get_submodule(name).weight
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    pruner.step()
    learnt = PatternSet.from_model(model[3:], 3)
    assert pruner.patterns == learnt
    report = pruner.finalize()
    assert set().union(*(layer.patterns for layer in report.layers[1:])) <= set(learnt.bits)


# ---- arguments


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"rho": 0}, ValueError, "rho"), ({"rho": "1"}, TypeError, "rho"), ({"rho": float("nan")}, ValueError, "rho"),
    ({"rho_growth": 0.5}, ValueError, "rho_growth"), ({"rho": 1.0, "rho_max": 0.1}, ValueError, "rho_max"),
    ({"ramp": -1}, ValueError, "ramp"), ({"ramp": 1.5}, TypeError, "ramp"), ({"patterns": 57}, ValueError, "1..56"),
    ({"patterns": "scp4"}, TypeError, "patterns"), ({"connectivity": 0.5}, ValueError, "connectivity"),
    ({"connectivity": {"nine": 2}}, ValueError, "nine"), ({"connectivity": 100}, ValueError, "layer '3'"),
    ({"balance": "rows"}, ValueError, "balance"), ({"block": 0}, ValueError, "block"),
    ({"patterns": 0}, ValueError, "1..56"), ({"patterns": True}, TypeError, "patterns"),
    ({"connectivity": 100, "ramp": 5}, ValueError, "layer '3'"), ({"ramp": True}, TypeError, "ramp"),
])  # fmt: skip
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ADMMPruner(small_net(), **arguments)


def test_wrong_model():
    with pytest.raises(TypeError, match="model"):
        ADMMPruner([small_net()])


@pytest.mark.parametrize("call", ["step", "finalize"])
def test_nan_weights_are_named_and_nothing_changes(call):
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    before = pruner.state_dict()
    with torch.no_grad():
        model.get_submodule("7").weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="layer '7'"):
        getattr(pruner, call)()
    assert pruner.steps == 0 and not pruner.finalized
    assert torch.equal(
        pruner.state_dict()["splits"]["3"]["FewKernels"]["dual"], before["splits"]["3"]["FewKernels"]["dual"]
    )


@pytest.mark.parametrize("patterns", [SCP4, 4, None])
def test_nothing_to_prune_is_no_error(patterns):
    model = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match="nothing to prune"):
        pruner = ADMMPruner(model, patterns)
    (model(torch.ones(1, 2)).sum() + pruner.penalty()).backward()
    assert pruner.step().largest == 0
    assert not pruner.finalized
    assert pruner.finalize().layers == []
    assert pruner.finalized
    pruner.penalty().backward()
    assert pruner.step().step == 1
