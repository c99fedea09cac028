"""The networks: torchvision's keys, shapes, and rescale_ on pruned weights."""

import pytest
import torch
from torch import nn

from pconv_ops.prune import prune_
from pconv_ops.zoo import (
    NETS,
    BasicBlock,
    Bottleneck,
    InvertedResidual,
    mobilenet_v2,
    rescale_,
    resnet18,
    resnet50,
    vgg16,
    vgg16_cifar,
)

pytestmark = pytest.mark.usefixtures("one_thread")
BLOCKS = (BasicBlock, Bottleneck, InvertedResidual)

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


def conv_norm(conv, norm, *shape):
    """A convolution without bias and the BatchNorm behind it."""
    expected = {f"{conv}.weight": shape}
    expected |= {f"{norm}.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")}
    return expected | {f"{norm}.num_batches_tracked": ()}


def resnet_state(depths, expansion, classes, stem):
    """torchvision's keys and shapes. depths: blocks of each stage; expansion: 1 for basic blocks, 4 for bottlenecks."""
    expected, channels = conv_norm("conv1", "bn1", 64, 3, stem, stem), 64
    for stage, depth in enumerate(depths):
        width, out = 64 << stage, (64 << stage) * expansion
        for block in range(depth):
            kernels = [(width, 3), (width, 3)] if expansion == 1 else [(width, 1), (width, 3), (out, 1)]
            name, inputs = f"layer{stage + 1}.{block}", channels
            for i, (filters, kernel) in enumerate(kernels, 1):
                expected |= conv_norm(f"{name}.conv{i}", f"{name}.bn{i}", filters, inputs, kernel, kernel)
                inputs = filters
            if block == 0 and (stage or channels != out):
                expected |= conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", out, channels, 1, 1)
            channels = out
    return expected | {"fc.weight": (classes, channels), "fc.bias": (classes,)}


def mobilenet_state(classes):
    """torchvision's keys and shapes of MobileNet-v2."""
    expected, channels, index = conv_norm("features.0.0", "features.0.1", 32, 3, 3, 3), 32, 1
    outs = [16, 24, 24, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    for index, out in enumerate(outs, 1):
        name, hidden, at = f"features.{index}.conv", channels * (1 if index == 1 else 6), 0
        if index > 1:
            expected |= conv_norm(f"{name}.0.0", f"{name}.0.1", hidden, channels, 1, 1)
            at = 1
        expected |= conv_norm(f"{name}.{at}.0", f"{name}.{at}.1", hidden, 1, 3, 3)
        expected |= conv_norm(f"{name}.{at + 1}", f"{name}.{at + 2}", out, hidden, 1, 1)
        channels = out
    expected |= conv_norm("features.18.0", "features.18.1", 1280, 320, 1, 1)
    return expected | {"classifier.1.weight": (classes, 1280), "classifier.1.bias": (classes,)}


@pytest.mark.parametrize(
    ("name", "expected", "entries", "parameters"),
    [
        ("resnet18", resnet_state((2, 2, 2, 2), 1, 1000, 7), 122, 11_689_512),
        ("resnet50", resnet_state((3, 4, 6, 3), 4, 1000, 7), 320, 25_557_032),
        ("mobilenet_v2", mobilenet_state(1000), 314, 3_504_872),
        ("resnet18_cifar", resnet_state((2, 2, 2, 2), 1, 10, 3), 122, 11_173_962),
        ("resnet50_cifar", resnet_state((3, 4, 6, 3), 4, 10, 3), 320, 23_520_842),
        ("mobilenet_v2_cifar", mobilenet_state(10), 314, 2_236_682),
    ],
)
def test_residual_nets_have_torchvisions_keys_and_shapes(name, expected, entries, parameters):
    with torch.device("meta"):
        net = NETS[name].factory()
    state = net.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
    assert list(state) == list(expected) and len(state) == entries
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_keys_that_only_torchvision_explains():
    """As they stand in its checkpoints, written down one by one."""
    shapes = {}
    for factory in (resnet18, resnet50, mobilenet_v2):
        with torch.device("meta"):
            shapes |= {(factory.__name__, key): tuple(v.shape) for key, v in factory().state_dict().items()}
    assert shapes["resnet18", "layer4.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert ("resnet18", "layer1.0.downsample.0.weight") not in shapes
    assert shapes["resnet50", "layer1.0.downsample.1.running_var"] == (256,)
    assert shapes["resnet50", "layer3.5.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["mobilenet_v2", "features.1.conv.0.0.weight"] == (32, 1, 3, 3)
    assert shapes["mobilenet_v2", "features.1.conv.1.weight"] == (16, 32, 1, 1)
    assert shapes["mobilenet_v2", "features.17.conv.3.bias"] == (320,)
    assert shapes["mobilenet_v2", "features.18.0.weight"] == (1280, 320, 1, 1)


def test_strides_are_where_torchvision_has_them():
    with torch.device("meta"):
        nets = {name: NETS[name].factory() for name in ("resnet50", "mobilenet_v2", "resnet50_cifar")}
    strided = {
        name: [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
        for name, net in nets.items()
    }
    stages = [f"layer{i}.0.{conv}" for i in (2, 3, 4) for conv in ("conv2", "downsample.0")]  # v1.5: the 3x3
    assert strided["resnet50"] == ["conv1", *stages] and strided["resnet50_cifar"] == stages
    blocks = [f"features.{i}.conv.1.0" for i in (2, 4, 7, 14)]
    assert strided["mobilenet_v2"] == ["features.0.0", *blocks]


# Height of the map before the global pooling.
MAPS = {"vgg16": 7, "vgg16_cifar": 1, "resnet18": 7, "resnet18_cifar": 4, "resnet50": 7, "resnet50_cifar": 4}
MAPS |= {"mobilenet_v2": 7, "mobilenet_v2_cifar": 4}


@pytest.mark.parametrize("name", NETS)
def test_output_shapes(name):
    classes = 10 if name.endswith("_cifar") else 1000
    with torch.device("meta"):
        net = NETS[name].factory().eval()
        x = torch.empty(2, 3, NETS[name].size, NETS[name].size)
        seen = []
        last = [module for module in net.modules() if isinstance(module, nn.Conv2d)][-1]
        last.register_forward_hook(lambda _m, _i, y: seen.append(y.shape[-1]))
        assert net(x).shape == (2, classes)
        assert seen == [MAPS[name] * (2 if name.startswith("vgg") else 1)]  # VGG pools once more
        assert NETS[name].factory(num_classes=7).eval()(x).shape == (2, 7)


@pytest.mark.parametrize("name", NETS)
def test_nets_can_be_traced(name):
    with torch.device("meta"):
        net = NETS[name].factory().eval()
        x = torch.empty(1, 3, NETS[name].size, NETS[name].size)
        assert torch.fx.symbolic_trace(net)(x).shape == net(x).shape


def test_the_benchmarked_part_of_vgg_is_its_convolutions():
    with torch.device("meta"):
        for name, net in NETS.items():
            model = net.factory()
            part = net.benchmarked(model)
            assert part is (model.features if name.startswith("vgg") else model)


def test_initialisation_is_he_normal():
    torch.manual_seed(0)
    net = vgg16_cifar()
    for i, ic in zip(CONVS[1:], CHANNELS[1:-1], strict=True):
        assert float(net.features[i].weight.detach().std()) == pytest.approx((2 / (9 * ic)) ** 0.5, rel=0.03)
        assert torch.count_nonzero(net.features[i].bias) == 0


CIFAR = [name for name in NETS if name.endswith("_cifar")]


class Subject:
    """A net of the zoo, pruned and rescaled, with the example that rescaled it."""

    def __init__(self, name, size=None):
        torch.manual_seed(0)
        self.net = NETS[name].factory().eval()
        self.size = size or NETS[name].size
        self.report = prune_(self.net, connectivity=8.8 if name.startswith("vgg") else 3.1, connectivity_1x1=3.1)
        self.zero = {key: p == 0 for key, p in self.net.named_parameters() if p.ndim == 4}
        self.example = torch.randn(4, 3, self.size, self.size)
        assert rescale_(self.net, self.example) is self.net

    def layers(self):
        return [(n, m) for n, m in self.net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


@pytest.fixture(scope="module")
def subjects():
    """Nets by name, made once."""
    made = {}

    def subject(name, size=None):
        if (name, size) not in made:
            made[name, size] = Subject(name, size)
        return made[name, size]

    return subject


def outputs_of(net, x, kinds):
    """Output of each module of these kinds, before an in-place operation after it."""
    found = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, y, name=name: found.__setitem__(name, y.clone()))
        for name, module in net.named_modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", CIFAR)
def test_pruning_leaves_the_stem_dense(subjects, name):
    first, *others = subjects(name).report.layers
    assert first.reason == "dense: stem (3 input channels)" and first.density == 1
    assert not any(layer.reason.startswith("dense") for layer in others)


@pytest.mark.parametrize("name", CIFAR)
def test_rescale_brings_every_layer_near_variance_one(subjects, name):
    subject = subjects(name)
    for layer, y in outputs_of(subject.net, subject.example, (nn.Conv2d, nn.Linear)).items():
        assert 0.7 < float(y.var()) < 1.6, layer
    for layer, y in outputs_of(subject.net, subject.example, BLOCKS).items():
        assert 0.3 < float(y.var()) < 2.5, layer
    for key, p in subject.net.named_parameters():
        if key in subject.zero:
            assert torch.equal(p == 0, subject.zero[key]), key
        elif key.endswith("bias"):
            assert 0.02 < float(p.detach().std()) < 0.2, key


@pytest.mark.parametrize("name", [name for name in CIFAR if not name.startswith("vgg")])
def test_rescale_calibrates_every_normalisation(subjects, name):
    net, example = subjects(name).net, subjects(name).example
    ends = {module.branch_norm() for module in net.modules() if isinstance(module, BLOCKS)}
    outputs = outputs_of(net, example, nn.BatchNorm2d)
    for layer, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            scale = 0.5 if module in ends else 1.0
            assert float(module.weight.detach().mean()) == pytest.approx(scale, rel=0.1), layer
            y = (outputs[layer] - module.bias[:, None, None]) / module.weight[:, None, None]
            y = y.detach()
            mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
            alive = module.running_var > 0.02
            assert alive.float().mean() > 0.8, layer
            assert float(mean.abs().max()) < 1e-3, layer
            assert float((variance[alive] - 1).abs().max()) < 1e-2, layer


def faults(subject, layers):
    """(layer, relative change of the logits) for the loss of 1 % of each layer's kept weights."""
    x, other = torch.randn(2, 1, 3, subject.size, subject.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y, y_other = subject.net(x), subject.net(other)
        assert float((y - y_other).norm() / y.norm()) > 0.1
        for name, module in layers:
            weight = module.weight.data
            saved = weight.clone()
            kept = weight.flatten().nonzero().flatten()
            weight.view(-1)[kept[::100]] = 0
            fault = float((subject.net(x) - y).norm() / y.norm())
            weight.copy_(saved)
            yield name, fault


@pytest.mark.parametrize("name", CIFAR)
def test_rescaled_nets_tell_inputs_and_small_faults_apart(subjects, name):
    subject = subjects(name)
    for layer, fault in faults(subject, subject.layers()):
        assert fault > 1e-3, layer


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_rescaled_imagenet_nets_tell_inputs_and_small_faults_apart(subjects, name):
    subject = subjects(name, 64)
    for layer, fault in faults(subject, subject.layers()[::7]):
        assert fault > 1e-3, layer


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name in NETS if name not in CIFAR])
def test_rescaled_imagenet_nets_at_full_size(name):
    subject = Subject(name)
    for layer, fault in faults(subject, subject.layers()):
        assert fault > 1e-3, layer


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


def test_rescale_sets_normalisations_of_any_shape_and_keeps_modes():
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(8, affine=False)
    fleeting = nn.BatchNorm1d(4, track_running_stats=False)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), plain, nn.ReLU(), nn.Flatten(), nn.Linear(8, 4), fleeting, nn.BatchNorm1d(4)
    )
    rescale_(net, torch.randn(64, 3, 3, 3))
    assert net.training and all(module.training for module in net)
    assert float(plain.running_var.mean()) == pytest.approx(1, abs=0.5) and plain.num_batches_tracked == 0
    assert torch.count_nonzero(fleeting.bias) == 4
    assert float(net.eval()(torch.randn(64, 3, 3, 3)).detach().var()) == pytest.approx(1, abs=0.4)


def test_rescale_calibrates_few_values_together_and_dead_channels_gently():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
    rescale_(net, torch.randn(1, 3, 3, 3))  # one value a channel
    assert len(set(net[1].running_var.tolist())) == 1 and net[1].running_var[0] > 0.5
    net[0].weight.data[5] = 0
    rescale_(net, torch.randn(2, 3, 9, 9))
    assert float(net[1].running_var[5]) == pytest.approx(0.01)


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
