"""ADMMPruner: the equations, what finalize leaves, schedules, state, processes."""

import copy
import gc

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from training_cases import OPTIMIZERS, PRUNED, batches, small_net, train_epoch, weights_of

import pconv_ops
from pconv_ops import SCP4, ADMMPruner, PatternSet, prune_
from pconv_ops.projections import project_connectivity, project_patterns

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_penalty_is_zero_after_finalize():
    model = small_net()
    pruner = ADMMPruner(model)
    pruner.finalize()
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


# ---- rates that rise, sets that are learnt


def test_ramp_raises_rates_geometrically():
    model = small_net()
    pruner = ADMMPruner(model, patterns=None, connectivity=8.0, ramp=2)
    counts = []
    for _ in range(4):
        counts.append(
            [int((s["near"].flatten(2) != 0).any(2).sum()) for (s,) in pruner.state_dict()["splits"].values()]
        )
        pruner.step()
    assert counts == [[round(n / 8 ** (k / 3)) for n in (48, 48)] for k in (1, 2, 3, 3)]
    assert [layer.kernels_kept for layer in pruner.finalize().layers[1:]] == [6, 6]


def test_finalize_during_the_ramp_gives_what_was_asked():
    pruner = ADMMPruner(small_net(), connectivity=8.0, ramp=5)
    assert [layer.kernels_kept for layer in pruner.finalize().layers[1:]] == [6, 6]


def test_number_of_patterns_learns_the_set():
    model = small_net()
    pruner = ADMMPruner(model, patterns=3, connectivity=None)
    assert pruner.patterns == PatternSet.from_model(model, 3)
    with torch.no_grad():  # training that turns every kernel upside down
        for name in PRUNED:
            weight = model.get_submodule(name).weight
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    pruner.step()
    learnt = PatternSet.from_model(model, 3)
    assert pruner.patterns == learnt
    report = pruner.finalize()
    assert set().union(*(layer.patterns for layer in report.layers[1:])) <= set(learnt.bits)


# ---- state


@pytest.mark.parametrize("patterns", [SCP4, 4], ids=["fixed", "learnt"])
@pytest.mark.parametrize("stop", [2, 5], ids=["before finalize", "after finalize"])
def test_resume_equals_uninterrupted(stop, patterns, tmp_path):
    def begin(seed):
        model = small_net(seed)
        return model, OPTIMIZERS["adamw"](model.parameters()), ADMMPruner(model, patterns, connectivity=2.0, ramp=3)

    def go_on(model, steps, pruner, epochs):
        for epoch in epochs:
            train_epoch(model, steps, pruner, epoch)
            pruner.step()
            if epoch == 3:
                pruner.finalize()

    whole = begin(0)
    go_on(*whole, range(8))
    first = begin(0)
    go_on(*first, range(stop))
    torch.save([part.state_dict() for part in first], tmp_path / "state.pt")
    second = begin(1)
    for part, state in zip(second, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    go_on(*second, range(stop, 8))
    for (name, ours), theirs in zip(second[0].state_dict().items(), whole[0].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert second[2].patterns == whole[2].patterns and second[2].finalized


def test_model_keys_do_not_change():
    model = small_net()
    keys = list(model.state_dict())
    pruner = ADMMPruner(model)
    pruner.step()
    pruner.finalize()
    assert list(model.state_dict()) == keys


def spoilt(change):
    state = ADMMPruner(small_net(), connectivity=2.0).state_dict()
    change(state)
    return state


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.update(version=9), "version"),
    (lambda s: s.pop("rho"), "lacks rho"),
    (lambda s: s["splits"].pop("3"), "layer '3' has other constraints"),
    (lambda s: s["splits"].update(other=[]), "no layer 'other'"),
    (lambda s: s["splits"]["3"].pop(), "layer '3' has other constraints"),
    (lambda s: s["splits"]["3"][0].update(near=torch.zeros(2, 2, 3, 3)), "layer '3' has another shape"),
    (lambda s: s["masks"].update({"3.weight": torch.ones(2, 2, 3, 3, dtype=torch.bool)}), "mask of '3.weight'"),
    (lambda s: s["masks"].update({"nine.weight": torch.ones(8, 4, 3, 3, dtype=torch.bool)}), "mask of 'nine.weight'"),
    (lambda s: s.update(rho=-1.0), "rho"),
])  # fmt: skip
def test_state_of_something_else_is_refused(change, message):
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    before = pruner.state_dict()
    with pytest.raises(ValueError, match=message):
        pruner.load_state_dict(spoilt(change))
    after = pruner.state_dict()
    assert after["rho"] == before["rho"] and not pruner.finalized
    assert torch.equal(after["splits"]["3"][0]["near"], before["splits"]["3"][0]["near"])


def test_no_state_at_all_is_refused():
    with pytest.raises(ValueError, match="state"):
        ADMMPruner(small_net()).load_state_dict([])


# ---- arguments


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"rho": 0}, ValueError, "rho"), ({"rho": "1"}, TypeError, "rho"), ({"rho": float("nan")}, ValueError, "rho"),
    ({"rho_growth": 0.5}, ValueError, "rho_growth"), ({"rho": 1.0, "rho_max": 0.1}, ValueError, "rho_max"),
    ({"ramp": -1}, ValueError, "ramp"), ({"ramp": 1.5}, TypeError, "ramp"), ({"patterns": 57}, ValueError, "1..56"),
    ({"patterns": "scp4"}, TypeError, "patterns"), ({"connectivity": 0.5}, ValueError, "connectivity"),
    ({"connectivity": {"nine": 2}}, ValueError, "nine"), ({"connectivity": 100}, ValueError, "layer '3'"),
    ({"balance": "rows"}, ValueError, "balance"), ({"block": 0}, ValueError, "block"),
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
    assert torch.equal(pruner.state_dict()["splits"]["3"][0]["dual"], before["splits"]["3"][0]["dual"])


def test_nothing_to_prune_is_no_error():
    model = nn.Linear(2, 2)
    pruner = ADMMPruner(model)
    (model(torch.ones(1, 2)).sum() + pruner.penalty()).backward()
    assert pruner.step().largest == 0
    assert pruner.finalize().layers == []


# ---- ways of training


def test_bfloat16_autocast():
    """Weights are float32 there; the penalty is too."""
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    steps = OPTIMIZERS["sgd"](model.parameters())
    plain = pruner.penalty().item()
    for images, labels in batches(0):
        with torch.autocast("cpu", torch.bfloat16):
            penalty = pruner.penalty()
            loss = cross_entropy(model(images), labels) + penalty
        assert penalty.dtype == torch.float32
        steps.zero_grad()
        loss.backward()
        steps.step()
    pruner.step()
    pruner.finalize()
    zeros = model.get_submodule("3").weight == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert plain == pytest.approx(ADMMPruner(small_net(), connectivity=2.0).penalty().item(), rel=1e-6)
        loss = cross_entropy(model(images), labels)
    loss.backward()
    steps.step()
    assert not model.get_submodule("3").weight[zeros].any()


def test_gradient_scaler_with_penalty():
    """The scaled loss carries the penalty: unscaled gradients are those of an unscaled run."""
    gradients = []
    for scale in (1.0, 1024.0):
        model = small_net()
        pruner = ADMMPruner(model, connectivity=2.0)
        images, labels = next(batches(0))
        (scale * (cross_entropy(model(images), labels) + pruner.penalty())).backward()
        gradients.append(model.get_submodule("3").weight.grad / scale)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_half_precision_weights():
    model = small_net(norm=False).to(torch.bfloat16)
    pruner = ADMMPruner(model, connectivity=2.0)
    assert pruner.penalty().dtype == torch.float32
    pruner.penalty().backward()
    pruner.step()
    pruner.finalize()
    assert model.get_submodule("3").weight.dtype == torch.bfloat16


def test_gradient_accumulation_equals_one_batch():
    """k micro-batches with (loss + penalty) / k each: the gradient of the whole batch."""
    whole, parts = small_net(norm=False, dtype=torch.float64), small_net(norm=False, dtype=torch.float64)
    images, labels = next(batches(0, dtype=torch.float64))
    for model, k in ((whole, 1), (parts, 4)):
        pruner = ADMMPruner(model, connectivity=2.0)
        for x, y in zip(images.chunk(k), labels.chunk(k), strict=True):
            ((cross_entropy(model(x), y) + pruner.penalty()) / k).backward()
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-8)


def _distributed_worker(rank, world, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)
    model = nn.parallel.DistributedDataParallel(small_net(seed=rank, norm=False, dtype=torch.float64))
    pruner = _distributed_run(model, rank, world)
    torch.save((model.module.state_dict(), pruner.state_dict()), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def _distributed_run(model, rank=0, world=1):
    """Four epochs, cut after the second; each process takes its part of every batch."""
    pruner = ADMMPruner(model, connectivity={"3": 2.0, "7": 3.0})
    steps = OPTIMIZERS["sgd"](model.parameters())
    for epoch in range(4):
        for images, labels in batches(epoch, dtype=torch.float64):
            steps.zero_grad()
            loss = cross_entropy(model(images[rank::world]), labels[rank::world]) + pruner.penalty()
            loss.backward()
            steps.step()
        pruner.step()
        if epoch == 1:
            pruner.finalize()
    return pruner


def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.spawn(_distributed_worker, (2, str(tmp_path)), nprocs=2)
    (model0, state0), (model1, state1) = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert all(torch.equal(model0[name], model1[name]) for name in model0)
    assert all(torch.equal(state0["masks"][name], state1["masks"][name]) for name in state0["masks"])
    alone = small_net(seed=0, norm=False, dtype=torch.float64)
    state = _distributed_run(alone).state_dict()
    assert all(torch.equal(state0["masks"][name], state["masks"][name]) for name in state["masks"])
    for name, ours in alone.state_dict().items():
        # The penalty is summed in float32.
        np.testing.assert_allclose(model0[name], ours, rtol=1e-4, atol=1e-6)
    for key, keep in state["masks"].items():
        assert not alone.get_parameter(key)[~keep].any() and not model0[key][~keep].any()
