"""The networks: torchvision's keys, shapes, and rescale_ on pruned weights."""

import pytest
import torch
from torch import nn

from pconv_ops.prune import prune_
from pconv_ops.zoo import NETS, rescale_, vgg16, vgg16_cifar

CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def test_vgg16_has_torchvisions_keys_and_shapes():
    with torch.device("meta"):
        state = vgg16().state_dict()
    expected = {}
    for i, oc, ic in zip(CONVS, CHANNELS[1:], CHANNELS[:-1], strict=True):
        expected |= {f"features.{i}.weight": (oc, ic, 3, 3), f"features.{i}.bias": (oc,)}
    for i, out, inputs in ((0, 4096, 25088), (3, 4096, 4096), (6, 1000, 4096)):
        expected |= {f"classifier.{i}.weight": (out, inputs), f"classifier.{i}.bias": (out,)}
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
    assert list(state) == list(expected)


def test_vgg16_cifar_has_the_same_convolutions_and_one_linear():
    state = vgg16_cifar(num_classes=7).state_dict()
    convs = [f"features.{i}.{part}" for i in CONVS for part in ("weight", "bias")]
    assert list(state) == [*convs, "classifier.weight", "classifier.bias"]
    assert state["classifier.weight"].shape == (7, 512)


@pytest.mark.parametrize(("name", "classes", "features"), [("vgg16", 1000, 7), ("vgg16_cifar", 10, 1)])
def test_output_shapes(name, classes, features):
    with torch.device("meta"):
        net = NETS[name].factory().eval()
        x = torch.empty(2, 3, NETS[name].size, NETS[name].size)
        assert net.features(x).shape == (2, 512, features, features)
        assert net(x).shape == (2, classes)


def test_initialisation_is_he_normal():
    torch.manual_seed(0)
    net = vgg16_cifar()
    for i, ic in zip(CONVS[1:], CHANNELS[1:-1], strict=True):
        assert float(net.features[i].weight.detach().std()) == pytest.approx((2 / (9 * ic)) ** 0.5, rel=0.03)
        assert torch.count_nonzero(net.features[i].bias) == 0


@pytest.fixture(scope="module")
def pruned():
    torch.manual_seed(0)
    net = vgg16_cifar()
    prune_(net, connectivity=8.8)
    zero = {name: p == 0 for name, p in net.named_parameters() if name.endswith("weight")}
    example = torch.randn(4, 3, 32, 32)
    assert rescale_(net, example) is net
    return net, zero, example


def outputs_of(net, x):
    """Output of each Conv2d and Linear, before the in-place ReLU after it."""
    found = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, y, name=name: found.__setitem__(name, y.clone()))
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return found


def test_rescale_brings_every_layer_near_variance_one(pruned):
    net, zero, example = pruned
    outputs = outputs_of(net, example)
    assert len(outputs) == 14
    for name, y in outputs.items():
        assert 0.8 < float(y.var()) < 1.25, name
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            assert 0.03 < float(p.detach().std()) < 0.2, name
        else:
            assert torch.equal(p == 0, zero[name]), name


def test_rescaled_nets_tell_inputs_and_small_faults_apart(pruned):
    net, _, _ = pruned
    x, other = torch.randn(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y, y_other = net(x), net(other)
    assert float((y - y_other).norm() / y.norm()) > 0.1
    for i in CONVS:
        weight = net.features[i].weight.data
        saved = weight.clone()
        kept = weight.flatten().nonzero().flatten()
        weight.flatten()[kept[::100]] = 0
        with torch.no_grad():
            fault = float((net(x) - y).norm() / y.norm())
        weight.copy_(saved)
        assert fault > 1e-3, i


def test_without_rescaling_inputs_cannot_be_told_apart():
    # Why rescale_ is there: torch's default initialisation, pruned.
    torch.manual_seed(0)
    net = vgg16_cifar()
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()
    prune_(net, connectivity=8.8)
    with torch.no_grad():
        y, other = net(torch.randn(2, 3, 32, 32))
    assert float((y - other).norm() / y.norm()) < 1e-3


def test_rescale_depends_on_the_seed_alone_and_keeps_modes():
    def biases(seed):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 4, 3, bias=False))
        net[2].eval()
        rescale_(net, torch.randn(2, 3, 8, 8), seed)
        assert net.training and not net[2].training and net[0].weight.requires_grad
        return net[0].bias.detach()

    assert torch.equal(biases(0), biases(0)) and not torch.equal(biases(0), biases(1))


def test_rescale_sets_a_shared_module_at_its_first_run():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3)
    net, x = nn.Sequential(conv, nn.ReLU(), conv), torch.randn(2, 8, 9, 9)
    rescale_(net, x)
    assert float(conv(x).var()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("spoil", [0.0, float("nan")])
def test_rescale_refuses_a_layer_without_variance(spoil):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    net[2].weight.data.fill_(spoil)
    with pytest.raises(ValueError, match="layer '2'"):
        rescale_(net, torch.randn(2, 3, 8, 8))
    assert not any(module._forward_hooks for module in net.modules())


def test_num_classes():
    with torch.device("meta"):
        assert vgg16(num_classes=5).classifier[6].out_features == 5
