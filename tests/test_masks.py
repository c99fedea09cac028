"""Frozen masks: weights stay zero under any optimizer, for as long as the model lives."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from training_cases import OPTIMIZERS, batches, small_net, train_epoch

from pconv_ops import masks, prune_
from pconv_ops.masks import clear_masked, freeze, hold_zeros, kept, thaw

pytestmark = pytest.mark.usefixtures("one_thread")


def frozen_net(seed=0):
    model = small_net(seed)
    conv = model.get_submodule("3")
    keep = torch.rand(conv.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    freeze(conv, "weight", keep)
    return model, conv, keep


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weights_stay_zero_after_every_step(optimizer):
    """The optimizer has momentum for the weights from the time before they were masked."""
    model = small_net()
    conv = model.get_submodule("3")
    steps = OPTIMIZERS[optimizer](model.parameters())
    train_epoch(model, steps, None, 0)
    keep = torch.rand(conv.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    freeze(conv, "weight", keep)
    before = conv.weight.detach().clone()

    def check():
        assert not conv.weight[~keep].any()
        assert not conv.weight.grad[~keep].any()

    check_at_once = conv.weight[~keep]
    assert not check_at_once.any()
    for epoch in range(1, 4):
        train_epoch(model, steps, None, epoch, check)
    assert (conv.weight != before)[keep].all()


def test_gradients_are_masked_after_each_backward():
    """So that clipping by norm does not count what is pruned; added up over micro-batches too."""
    model, conv, keep = frozen_net()
    for images, labels in batches(0, n=3):
        nn.functional.cross_entropy(model(images), labels).backward()
        assert conv.weight.grad[keep].all() and not conv.weight.grad[~keep].any()


def test_gradients_written_by_hand_are_masked_before_the_step():
    """As DistributedDataParallel does, after the hooks of backward."""
    model, conv, keep = frozen_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    conv.weight.grad = torch.ones_like(conv.weight)
    optimizer.step()
    assert not conv.weight[~keep].any()
    assert not optimizer.state[conv.weight]["momentum_buffer"][~keep].any()


def test_nan_under_a_mask_becomes_zero():
    model, conv, keep = frozen_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    conv.weight.grad = torch.full_like(conv.weight, float("nan"))
    optimizer.step()
    assert not conv.weight[~keep].any() and conv.weight[keep].isnan().all()


def test_other_optimizers_leave_the_layer_alone():
    model, conv, keep = frozen_net()
    other = nn.Linear(2, 2)
    with torch.no_grad():
        conv.weight.fill_(1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert conv.weight.all()
    clear_masked([conv])
    assert not conv.weight[~keep].any() and conv.weight[keep].all()


def test_state_dict_and_copies_are_as_ever():
    plain = small_net()
    model, conv, keep = frozen_net()
    assert list(model.state_dict()) == list(plain.state_dict())
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    train_epoch(twin, optimizer, None, 0)
    assert twin.get_submodule("3").weight[~keep].any()  # a copy has no masks
    assert not conv.weight[~keep].any()


def test_mask_follows_a_parameter_that_is_replaced():
    model, conv, keep = frozen_net()
    state = {name: value.clone() for name, value in small_net(1).state_dict().items()}
    model.load_state_dict(state, assign=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train_epoch(model, optimizer, None, 0)
    assert not conv.weight[~keep].any()


def test_mask_follows_the_dtype():
    model, conv, keep = frozen_net()
    model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train_epoch(model, optimizer, None, 0)
    assert conv.weight.dtype == torch.float64 and not conv.weight[~keep].any()


def test_frozen_parameter_may_need_no_gradient():
    model = small_net()
    conv = model.get_submodule("3").requires_grad_(False)
    freeze(conv, "weight", torch.zeros(conv.weight.shape, dtype=torch.bool))
    assert not conv.weight.any()
    conv.requires_grad_(True)
    train_epoch(model, torch.optim.SGD(model.parameters(), lr=0.1), None, 0)
    assert not conv.weight.any()
    images, labels = next(batches(1))
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    assert not conv.weight.grad.any()


def test_hold_zeros_of_a_pruned_model():
    model = small_net()
    prune_(model, connectivity=2.0)
    zeros = {name: parameter == 0 for name, parameter in model.named_parameters()}
    hold_zeros(model)
    train_epoch(model, OPTIMIZERS["sgd"](model.parameters()), None, 0)
    for name in ("3.weight", "7.weight"):
        assert zeros[name].any() and not model.get_parameter(name)[zeros[name]].any()
    assert kept(model[0], "weight") is None


def test_wrong_masks_are_refused():
    conv = small_net()[3]
    for name, keep, message in (
        ("wieght", torch.ones(2, dtype=torch.bool), "no parameter 'wieght'"),
        ("weight", torch.ones(2, dtype=torch.bool), "keep: expected bool"),
        ("weight", torch.ones(conv.weight.shape), "keep: expected bool"),
    ):
        with pytest.raises(ValueError, match=message):
            freeze(conv, name, keep)
    with pytest.raises(TypeError, match="model"):
        hold_zeros({})


def test_thaw_lifts_the_mask():
    model, conv, keep = frozen_net()
    assert torch.equal(kept(conv, "weight"), keep)
    thaw(conv, "weight")
    assert kept(conv, "weight") is None
    train_epoch(model, torch.optim.SGD(model.parameters(), lr=0.1), None, 0)
    assert conv.weight[~keep].any()
    thaw(conv, "weight")  # nothing to lift


def test_a_second_mask_keeps_the_first():
    model, conv, keep = frozen_net()
    other = torch.rand(conv.weight.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    first = masks._frozen[conv]["weight"]
    second = freeze(conv, "weight", other)
    train_epoch(model, torch.optim.SGD(model.parameters(), lr=0.1), None, 0)
    assert torch.equal(conv.weight != 0, keep & other)
    thaw(conv, "weight", first)  # is not there any more
    assert torch.equal(kept(conv, "weight"), keep & other)
    thaw(conv, "weight", second)
    assert kept(conv, "weight") is None and conv not in masks._frozen


@pytest.mark.parametrize(
    "build",
    [
        lambda params: torch.optim.LBFGS(params, lr=0.1, max_iter=3),
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, foreach=True),
        lambda params: torch.optim.Adam(params, lr=0.01, fused=True),
    ],
    ids=["lbfgs", "foreach", "fused"],
)
def test_closures_and_other_forms_of_optimizers(build):
    model, conv, keep = frozen_net()
    optimizer = build(model.parameters())
    images, labels = next(batches(0))

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        assert not conv.weight[~keep].any() and conv.weight[keep].all()


def test_parameter_groups_and_other_optimizers_side_by_side():
    model, conv, keep = frozen_net()
    head = torch.optim.Adam(model[-1].parameters(), lr=0.1)
    body = torch.optim.SGD([{"params": [p]} for p in model[:-1].parameters()], lr=0.1)
    images, labels = next(batches(0))
    nn.functional.cross_entropy(model(images), labels).backward()
    head.step()
    body.step()
    assert not conv.weight[~keep].any()


def test_masked_models_pickle_without_their_masks():
    model, conv, keep = frozen_net()
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(twin[3].weight, conv.weight) and kept(twin[3], "weight") is None


def test_masks_die_with_their_model():
    gc.collect()
    before = len(masks._frozen)
    model, conv, _ = frozen_net()
    assert len(masks._frozen) == before + 1
    gone = weakref.ref(conv)
    del model, conv
    gc.collect()
    assert gone() is None and len(masks._frozen) == before
