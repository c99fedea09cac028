"""Unstructured and filter pruning: what stays, rates in kept weights, channels that go with their filters."""

import pytest
import torch
from torch import nn
from training_cases import OPTIMIZERS, small_net, train_epoch

from pconv_ops.baselines import FilterPruner, UnstructuredPruner
from pconv_ops.channels import channel_readers

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:finalize\\(\\) without")]


class Block(nn.Module):
    """A residual block: the channels of conv1 are its own, those of conv2 are added to others."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + x)


def residual_net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), Block(8), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


def kept(report):
    return sum(layer.nnz for layer in report.layers if "stem" not in layer.reason)


def weights(report):
    return sum(layer.total for layer in report.layers if "stem" not in layer.reason)


# ---- unstructured


def test_unstructured_keeps_the_largest_weights_of_each_layer():
    model = small_net()
    pruner = UnstructuredPruner(model, 8)
    before = {name: model.get_submodule(name).weight.detach().clone() for name in ("3", "7")}
    report = pruner.finalize()
    for name, weight in before.items():
        count = round(weight.numel() / 8)
        after = model.get_submodule(name).weight.detach()
        threshold = weight.abs().flatten().topk(count).values[-1]
        assert torch.equal(after != 0, weight.abs() >= threshold)
    assert weights(report) / kept(report) == pytest.approx(8, rel=0.01)


def test_unstructured_rates_by_name():
    report = UnstructuredPruner(small_net(), {"3": 4}).finalize()
    assert [layer.nnz for layer in report.layers[1:]] == [432 // 4, 432]
    with pytest.raises(ValueError, match="rate: 'nine'"):
        UnstructuredPruner(small_net(), {"nine": 4})


# ---- filters


@pytest.mark.parametrize("rate", [1, 2, 4, 7])
@pytest.mark.parametrize("net", [small_net, residual_net])
def test_filter_pruning_reaches_the_rate(net, rate):
    model = net()
    report = FilterPruner(model, rate).finalize()
    assert weights(report) / kept(report) == pytest.approx(rate, rel=0.15)
    if rate == 1:
        assert kept(report) == weights(report)


def test_a_dropped_filter_takes_its_channel_along():
    """The masked network computes what a smaller one would: the channel is zero behind BatchNorm and ReLU, whatever
    its statistics."""
    model = small_net()
    with torch.no_grad():
        for norm in (model[4], model[8]):
            norm.running_mean.uniform_(-1, 1)
            norm.bias.uniform_(-1, 1)
    pruner = FilterPruner(model, 3)
    pruner.finalize()
    dropped = ~model[3].weight.flatten(1).any(1)
    assert 0 < dropped.sum() < 8
    for tensor in (model[3].bias, model[4].weight, model[4].bias):
        assert not tensor[dropped].any() and tensor[~dropped].any()
    assert not model[7].weight[:, dropped].any()
    model.eval()
    y = model[:7](torch.randn(2, 1, 8, 8))
    assert not y[:, dropped].any() and y[:, ~dropped].any()


def test_filters_stay_dropped_in_training():
    model = small_net()
    pruner = FilterPruner(model, 3)
    steps = OPTIMIZERS["sgd"](model.parameters())
    train_epoch(model, steps, pruner, 0)
    pruner.step()
    pruner.finalize()
    dropped = ~model[3].weight.flatten(1).any(1)

    def check():
        for tensor in (model[3].weight, model[3].bias, model[4].weight, model[4].bias):
            assert not tensor[dropped].any()
        assert not model[7].weight[:, dropped].any()

    for epoch in range(1, 4):
        train_epoch(model, steps, pruner, epoch, check)
    assert model[4].weight[~dropped].all()


def test_channels_that_are_added_to_others_stay():
    model = residual_net()
    assert {name: (found.norms, found.convs) for name, found in channel_readers(model).items()} == {
        "1.conv1": (["1.bn1"], ["1.conv2"]),
        "2.conv1": (["2.bn1"], ["2.conv2"]),
    }
    FilterPruner(model, 4).finalize()
    for block in (model[1], model[2]):
        assert block.conv2.weight.flatten(1).any(1).all() and block.bn2.weight.all()
        assert not block.conv1.weight.flatten(1).any(1).all()


def test_readers_of_a_chain():
    found = channel_readers(small_net())
    assert {name: (readers.norms, readers.convs) for name, readers in found.items()} == {
        "0": (["1"], ["3"]),
        "3": (["4"], ["7"]),
        "7": (["8"], []),
    }


class Sliced(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 6, 3), nn.Conv2d(3, 6, 3)

    def forward(self, x):
        return self.b(self.a(x)[:, :3])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(6, 6, 3)

    def forward(self, x):
        return self.a(self.a(x)).mean()


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(6, 6, 3)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else x


class Means(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.a, self.b, self.dims = nn.Conv2d(6, 6, 3), nn.Linear(6, 3), dims

    def forward(self, x):
        return self.b(torch.relu(self.a(x)).mean(self.dims))


def shared():
    net = nn.Sequential(nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3))
    net[1].weight = net[0].weight
    return net


def computed():
    return nn.Sequential(nn.Conv2d(6, 6, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 1)))


def within_channels():
    return nn.Sequential(nn.Conv2d(6, 6, 3), nn.Flatten(2), nn.Linear(9, 5))


def last_axis():
    return nn.Sequential(nn.Conv2d(6, 6, 3), nn.Linear(3, 5))


def test_means_over_pixels_keep_channels_apart():
    assert list(channel_readers(Means((2, 3)))) == list(channel_readers(Means((-2, -1)))) == ["a"]
    assert channel_readers(Means((1, 2))) == channel_readers(Means(1)) == {}


def test_filters_that_a_skipped_layer_reads_stay():
    model = residual_net()
    before = {name: parameter.detach().clone() for name, parameter in model[1].named_parameters()}
    FilterPruner(model, 1.5, skip="1.conv2").finalize()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model[1].named_parameters())
    assert not model[2].conv1.weight.flatten(1).any(1).all()


@pytest.mark.parametrize("net", [Sliced, Twice, shared, computed, within_channels, last_axis])
def test_channels_that_somebody_else_sees_stay(net):
    assert channel_readers(net()) == {}


def test_a_model_that_cannot_be_traced_is_refused():
    with pytest.raises(ValueError, match="torch.fx"):
        FilterPruner(Branching(), 2)


@pytest.mark.filterwarnings("ignore:this pruner has nothing to prune")
def test_a_model_without_filters_that_can_go_is_refused():
    with pytest.raises(ValueError, match="no filters that can go"):
        FilterPruner(Sliced(), 2)
    assert FilterPruner(Sliced(), 1).finalize().layers


def test_reports_say_what_was_done():
    assert "single weights 8x" in UnstructuredPruner(small_net(), 8).finalize().text()
    text = FilterPruner(residual_net(), 4).finalize().text()
    assert "whole filters" in text and "channels of dropped filters" in text and "patterns, " not in text


def test_unnamed_layers_are_left_alone():
    model = small_net()
    pruner = UnstructuredPruner(model, {"3": 4})
    before = pruner.penalty().item()
    with torch.no_grad():
        model[7].weight.mul_(2)
    assert pruner.penalty().item() == before


def test_a_rate_beyond_one_filter_is_refused():
    with pytest.raises(ValueError, match="rate: one filter left"):
        FilterPruner(small_net(), 1000)


@pytest.mark.parametrize("kind", [UnstructuredPruner, FilterPruner])
@pytest.mark.parametrize(("arguments", "error"), [
    ({"rate": 0.5}, ValueError), ({"rate": "2"}, TypeError), ({"rate": 2, "rho": -1}, ValueError),
    ({"rate": 2, "skip": "nine"}, ValueError), ({"rate": 2, "ramp": -1}, ValueError), ({"rate": 1e9}, ValueError),
])  # fmt: skip
def test_wrong_arguments(kind, arguments, error):
    with pytest.raises(error):
        kind(small_net(), **arguments)


@pytest.mark.parametrize("kind", [UnstructuredPruner, FilterPruner])
def test_resume_equals_uninterrupted(kind):
    def go_on(model, steps, pruner, epochs):
        for epoch in epochs:
            train_epoch(model, steps, pruner, epoch)
            pruner.step()
            if epoch == 2:
                pruner.finalize()

    def begin(seed):
        model = small_net(seed)
        return model, OPTIMIZERS["adam"](model.parameters()), kind(model, 3, ramp=2)

    whole, first, second = begin(0), begin(0), begin(1)
    go_on(*whole, range(5))
    go_on(*first, range(4))
    for part, other in zip(second, first, strict=True):
        part.load_state_dict(other.state_dict())
    go_on(*second, range(4, 5))
    for ours, theirs in zip(second[0].state_dict().values(), whole[0].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
