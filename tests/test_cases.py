"""What is benchmarked: seeded networks and layers, pruned by the options."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pconv_ops import cases
from pconv_ops.cases import BenchOptions, LayerSpec
from pconv_ops.zoo import NETS

BENCH = Path(__file__).parent.parent / "bench"
pytestmark = pytest.mark.usefixtures("one_thread")


def test_unknown_net_is_named():
    with pytest.raises(ValueError, match="vgg16_cifar"):
        cases.net_cases("vgg17", BenchOptions())


def test_seeded_net_repeats_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    first, second = cases.seeded_net("vgg16_cifar"), cases.seeded_net("vgg16_cifar")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.features[2].weight, second.features[2].weight)


def test_conv_cases_meet_the_inputs_of_the_model():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3)).eval()
    x = cases.random_input(1, 3, 12, 12)
    found = cases.conv_cases(model, x, "net.")
    assert [case.name for case in found] == ["net.0", "net.3"]
    assert [case.conv for case in found] == [model[0], model[3]]
    with torch.inference_mode():
        assert torch.equal(found[0].x, x) and torch.equal(found[1].x, model[:3](x))
    assert not model[0]._forward_pre_hooks


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_single_case_prunes_every_kernel_size(kernel):
    conv = cases.single_case(LayerSpec(16, 20, 8, 8, kernel=kernel), BenchOptions(connectivity=4.0)).conv
    kept = int(conv.weight.count_nonzero())
    assert kept == 80 * {1: 1, 3: 4, 5: 25}[kernel]


def test_shape_file_lists_every_pruned_shape_of_vgg16(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    from shape_list import read_shapes, shape_id

    with torch.device("meta"):
        model = NETS["vgg16"].factory().features
        found = cases.conv_cases(model, torch.empty(1, 3, 224, 224), "features.")
    shapes = {c.name: LayerSpec(c.conv.in_channels, c.conv.out_channels, *c.x.shape[-2:]) for c in found[1:]}
    listed = read_shapes("vgg16")
    assert set(listed.values()) == set(shapes.values()) and len(listed) == len(set(listed.values()))
    assert all(shapes[name] == spec for name, spec in listed.items())
    assert shape_id(listed["features.5"]) == "64x128x112x112"


# ---- blocks


@pytest.mark.parametrize(("kernel", "groups", "block"), [(1, 1, 4), (3, 1, 4), (5, 2, 2), (3, 16, 1)])
def test_single_case_has_the_options_block_whatever_its_kernel(kernel, groups, block):
    spec = LayerSpec(16, 20 if groups < 16 else 32, 8, 8, kernel=kernel, groups=groups)
    case = cases.single_case(spec, BenchOptions(connectivity=4.0, block=4))
    kept = (case.conv.weight.detach() != 0).reshape(case.conv.out_channels // block, block, -1)
    assert case.block == block and bool((kept == kept[:, :1]).all())


def test_net_cases_have_blocks_in_their_1x1_layers_alone():
    model, x, found = cases.net_cases("resnet18_cifar", BenchOptions(connectivity_1x1=2.0, block=8))
    assert x.shape == (1, 3, 32, 32) and len(found) == 20
    assert {(case.conv.kernel_size[0], case.block) for case in found} == {(3, 1), (1, 8)}
    assert [case.name for case in found][:2] == ["conv1", "layer1.0.conv1"]
    assert not model.training
    with torch.inference_mode():
        assert 0.1 < float(model(x).var()) < 10  # rescaled after pruning


@pytest.mark.parametrize(
    ("net", "rate", "text"),
    [("vgg16_cifar", 2.0, "there is none"), ("resnet18_cifar", None, "connectivity_1x1 is not")],
)
def test_a_block_that_no_layer_would_have_is_refused(net, rate, text):
    with pytest.raises(ValueError, match=f"block: got 4, .*{text}"):
        cases.net_cases(net, BenchOptions(connectivity_1x1=rate, block=4))
