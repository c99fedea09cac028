"""Pruners in training loops of every kind: mixed precision, accumulation, several processes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from training_cases import OPTIMIZERS, batches, small_net, train_epoch

from pconv_ops import ADMMPruner

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:finalize\\(\\) without")]


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


def test_gradient_scaler():
    """Scaled, unscaled, clipped; a step that is left out for its infinite gradients; masks afterwards."""
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    steps, scaler = OPTIMIZERS["sgd"](model.parameters()), torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i, (images, labels) in enumerate(batches(0, n=8)):
        steps.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(images), labels) + pruner.penalty()
        scaler.scale(loss).backward()
        if i == 5:
            model[3].weight.grad.fill_(float("inf"))
        scaler.unscale_(steps)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = model[3].weight.detach().clone()
        scaler.step(steps)
        scaler.update()
        assert torch.equal(model[3].weight, before) == (i == 5)
        if i == 3:
            pruner.step()
            pruner.finalize()
            zeros = model[3].weight == 0
        if i > 3:
            assert not model[3].weight[zeros].any()


def test_half_precision_weights():
    model = small_net(norm=False).to(torch.bfloat16)
    pruner = ADMMPruner(model, connectivity=2.0)
    assert pruner.penalty().dtype == torch.float32
    pruner.penalty().backward()
    pruner.step()
    pruner.finalize()
    zeros = model[3].weight == 0
    assert zeros.sum() == 8 * 6 * 9 - 24 * 4
    steps = OPTIMIZERS["sgd"](model.parameters())
    for images, labels in batches(0):
        cross_entropy(model(images.bfloat16()), labels).backward()
        steps.step()
    assert model[3].weight.dtype == torch.bfloat16 and not model[3].weight[zeros].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and a build of torch with CUDA")
def test_model_that_moves_after_the_pruner_was_made():
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    before = pruner.penalty().item()
    model.cuda()
    assert pruner.penalty().device.type == "cuda" and pruner.penalty().item() == pytest.approx(before)
    pruner.step()
    pruner.finalize()
    zeros = model[3].weight == 0
    train_epoch(model.cpu(), OPTIMIZERS["sgd"](model.parameters()), None, 0)
    assert not model[3].weight[zeros.cpu()].any()


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrapped_models_keep_their_names(wrap):
    model = small_net()
    pruner = ADMMPruner(wrap(model), connectivity={"3": 2.0})
    assert pruner.model is model
    pruner.finalize()
    assert pruner.state_dict()["masks"].keys() == {"3.weight", "7.weight"}


def test_compiled_training_keeps_the_masks():
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    compiled, steps = torch.compile(model, backend="eager"), OPTIMIZERS["adamw"](model.parameters())
    train_epoch(compiled, steps, pruner, 0)
    pruner.step()
    pruner.finalize()
    zeros = model[3].weight == 0
    train_epoch(compiled, steps, pruner, 1)
    assert not model[3].weight[zeros].any() and model[3].weight[~zeros].all()


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
