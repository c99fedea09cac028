"""A pruner's state: resuming bit for bit, and what is refused."""

import pytest
import torch
from training_cases import OPTIMIZERS, same_state, small_net, train_epoch

from pconv_ops import SCP4, ADMMPruner, PatternSet
from pconv_ops.baselines import UnstructuredPruner

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:finalize\\(\\) without")]


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


def near(state):
    return state["splits"]["3"]["FewKernels"]


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.update(version=9), "version"),
    (lambda s: s.pop("rho"), "rho"),
    (lambda s: s.pop("arguments"), "other arguments: pruner"),
    (lambda s: s["arguments"].update(ramp=7), "other arguments: ramp"),
    (lambda s: s["splits"].pop("3"), "fit each other"),
    (lambda s: s["splits"].update(other={}), "other"),
    (lambda s: s.update(splits=3), "does not fit"),
    (lambda s: near(s).pop("near"), "near"),
    (lambda s: near(s).update(near=3), "does not fit"),
    (lambda s: near(s).update(near=torch.zeros(2, 2, 3, 3)), "layer '3' has another shape"),
    (lambda s: s["masks"].update({"3.weight": torch.ones(2, 2, 3, 3, dtype=torch.bool)}), "mask of '3.weight'"),
    (lambda s: s["masks"].update({"3.weight": None}), "does not fit"),
    (lambda s: s["masks"].update({"nine.weight": torch.ones(8, 4, 3, 3, dtype=torch.bool)}), "nine"),
    (lambda s: s.update(rho=-1.0), "rho"), (lambda s: s.update(rho="high"), "high"),
    (lambda s: s.update(steps="abc"), "does not fit"), (lambda s: s.update(steps=-5), "steps"),
    (lambda s: s.update(finalized=True), "fit each other"),
])  # fmt: skip
@pytest.mark.parametrize("finalized", [False, True])
def test_state_of_something_else_is_refused(change, message, finalized):
    """And nothing is changed, masks included."""
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    if finalized:
        pruner.finalize()
    before = pruner.state_dict()
    with pytest.raises(ValueError, match=message):
        pruner.load_state_dict(spoilt(change))
    same_state(before, pruner.state_dict())
    if finalized:
        train_epoch(model, OPTIMIZERS["sgd"](model.parameters()), None, 0)
        assert not model[3].weight[~before["masks"]["3.weight"]].any()


@pytest.mark.parametrize(("ours", "theirs"), [
    ({"connectivity": 2.0}, {"connectivity": 3.0}), ({"connectivity": 2.0}, {"connectivity": 2.0, "block": 2}),
    ({"patterns": SCP4}, {"patterns": PatternSet.random(8)}), ({"patterns": SCP4}, {"patterns": 4}),
    ({"patterns": 5}, {"patterns": 4}), ({}, {"rho_growth": 1.3}), ({}, {"ramp": 2}), ({}, {"balance": "filter"}),
    ({}, {"skip": "3"}),
])  # fmt: skip
def test_state_of_other_arguments_is_refused(ours, theirs):
    with pytest.raises(ValueError, match="other arguments"):
        ADMMPruner(small_net(), **ours).load_state_dict(ADMMPruner(small_net(), **theirs).state_dict())


def test_state_of_another_kind_of_pruner_is_refused():
    with pytest.raises(ValueError, match="other arguments: pruner"):
        ADMMPruner(small_net(), connectivity=None).load_state_dict(UnstructuredPruner(small_net(), 2).state_dict())


def test_damaged_learnt_patterns_are_refused():
    pruner = ADMMPruner(small_net(), 4)
    before = pruner.patterns
    with pytest.raises(ValueError, match="patterns"):
        pruner.load_state_dict(ADMMPruner(small_net(1), 4).state_dict() | {"learnt": [0]})
    assert pruner.patterns == before


def test_state_holds_copies():
    model = small_net()
    pruner = ADMMPruner(model, connectivity=2.0)
    state = pruner.state_dict()
    expected = near(state)["near"].clone()
    train_epoch(model, OPTIMIZERS["sgd"](model.parameters()), pruner, 0)
    pruner.step()
    assert torch.equal(near(state)["near"], expected)


def test_no_state_at_all_is_refused():
    with pytest.raises(ValueError, match="state"):
        ADMMPruner(small_net()).load_state_dict([])
