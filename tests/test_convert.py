"""convert(): what is replaced, what stays and why, and that the converted model computes the same."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import l1_unstructured

import pconv_ops
from pconv_ops import PatternConv2d, convert
from pconv_ops.patterns import SCP4


def prune(model, keep=0.4, seed=0):
    """Puts SCP patterns into each 3x3 kernel and drops kernels; He-normal weights, random biases."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            with torch.no_grad():
                weight = module.weight
                weight.copy_(torch.randn(weight.shape, generator=generator))
                if module.kernel_size == (3, 3):
                    pick = torch.randint(4, weight.shape[:2], generator=generator)
                    weight *= torch.from_numpy(SCP4.masks.copy())[pick]
                    weight[torch.rand(weight.shape[:2], generator=generator) > keep] = 0
                kept = (weight != 0).flatten(1).sum(1).clamp(min=1).float()
                weight *= (2 / kept).sqrt()[:, None, None, None]
                if module.bias is not None:
                    module.bias.copy_(0.1 * torch.randn(module.bias.shape, generator=generator))
    return model


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sequential():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 24, 3, padding=1, groups=2),
        nn.Conv2d(24, 16, 1),
        nn.Conv2d(16, 16, 3, padding="same"),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    )


class Branches(nn.Module):
    """Two branches and one convolution that is used in three places, under two names."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.shared = nn.Conv2d(16, 16, 3, padding=1)
        self.left = nn.Sequential(self.shared, nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.right = nn.ModuleDict({"conv": nn.Conv2d(16, 16, 3, padding=1)})

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.shared(torch.relu(self.left(x) + self.right["conv"](x)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("factory", [sequential, Branches])
def test_converted_models_compute_the_same(factory, layout):
    model = prune(factory()).eval()
    fast = convert(model)
    x = random(2, 3, 16, 16).contiguous(memory_format=layout)
    with torch.no_grad():
        expected, y = model(x), fast(x)
        other = model(random(2, 3, 16, 16, seed=2))
    assert (expected - other).abs().max() > 0.1 * expected.abs().max()  # the output depends on the input
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
    assert sum(isinstance(m, PatternConv2d) for m in fast.modules()) == 3


def test_every_replaced_layer_computes_the_same():
    model = prune(sequential()).eval()
    fast = convert(model)
    x = random(1, 3, 16, 16)
    with torch.no_grad():
        for dense, replaced in zip(model, fast, strict=True):
            torch.testing.assert_close(replaced(x), dense(x), atol=1e-5, rtol=1e-5)
            x = dense(x)


def test_the_original_stays_untouched():
    model = prune(sequential())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    fast = convert(model, random(1, 3, 16, 16))
    assert dict(model.named_modules()) == modules and not hasattr(model, "report")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        fast[0].weight.zero_()
    assert model[0].weight.abs().sum() > 0


def test_shared_modules_are_replaced_once():
    fast = convert(prune(Branches()))
    assert isinstance(fast.shared, PatternConv2d) and fast.shared is fast.left[0]
    assert isinstance(fast.right["conv"], PatternConv2d)
    assert [row.name for row in fast.report.layers] == ["stem", "shared", "left.2", "right.conv"]


def test_a_single_convolution_converts():
    conv = prune(nn.Conv2d(8, 8, 3, padding=1))
    fast = convert(conv)
    x = random(1, 8, 5, 5)
    assert isinstance(fast, PatternConv2d) and fast.report.layers[0].chosen == "pconv"
    torch.testing.assert_close(fast(x), conv(x).detach())


def test_convert_of_a_converted_model():
    fast = convert(prune(sequential()))
    again = convert(fast)
    x = random(1, 3, 16, 16)
    assert torch.equal(again.eval()(x), fast.eval()(x))


def hooked(conv):
    conv.register_forward_hook(lambda module, x, y: y)
    return conv


def pre_hooked(conv):
    return l1_unstructured(conv, "weight", 0.5)


def parametrized(conv):
    parametrize.register_parametrization(conv, "weight", nn.Identity())
    return conv


def patched(conv):
    conv.forward = lambda x: x
    return conv


class OwnConv(nn.Conv2d):
    pass


STAYING = {
    "stem": (lambda: prune(nn.Conv2d(3, 8, 3)), "stem"),
    "stem of 4": (lambda: prune(nn.Conv2d(4, 8, 3)), "stem"),
    "depthwise": (lambda: prune(nn.Conv2d(8, 8, 3, groups=8)), "depthwise"),
    "1x1": (lambda: nn.Conv2d(8, 8, 1), "kernel 1x1"),
    "5x5": (lambda: nn.Conv2d(8, 8, 5), "kernel 5x5"),
    "stride": (lambda: prune(nn.Conv2d(8, 8, 3, stride=2)), "stride"),
    "dilation": (lambda: prune(nn.Conv2d(8, 8, 3, dilation=2)), "dilation"),
    "padding mode": (lambda: prune(nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")), "padding_mode"),
    "dense": (lambda: nn.Conv2d(8, 8, 3), "dense: nothing was pruned"),
    "too dense": (lambda: prune_a_row(nn.Conv2d(8, 8, 3)), "dense"),
    "double": (lambda: prune(nn.Conv2d(8, 8, 3)).double(), "float64"),
    "meta": (lambda: nn.Conv2d(8, 8, 3, device="meta"), "meta"),
    "hook": (lambda: hooked(prune(nn.Conv2d(8, 8, 3))), "hooks"),
    "torch pruning": (lambda: pre_hooked(prune(nn.Conv2d(8, 8, 3))), "hooks"),
    "parametrization": (lambda: parametrized(prune(nn.Conv2d(8, 8, 3))), "parametri"),
    "patched": (lambda: patched(prune(nn.Conv2d(8, 8, 3))), "forward"),
    "subclass": (lambda: prune(OwnConv(8, 8, 3)), "OwnConv"),
    "transposed": (lambda: nn.ConvTranspose2d(8, 8, 3), "ConvTranspose2d"),
    "one-dimensional": (lambda: nn.Conv1d(8, 8, 3), "Conv1d"),
    "lazy": (lambda: nn.LazyConv2d(8, 3), "LazyConv2d"),
}


def prune_a_row(conv):
    with torch.no_grad():
        conv.weight[:, :, 0] = 0  # density 2/3, every kernel alive
    return conv


@pytest.mark.parametrize("case", STAYING)
def test_layers_stay_with_their_reason(case):
    factory, reason = STAYING[case]
    model = nn.Sequential(factory())
    kind = type(model[0])
    fast = convert(model)
    (row,) = fast.report.layers
    assert row.chosen == "dense" and reason in row.reason
    assert type(fast[0]).__name__ == kind.__name__


@pytest.mark.parametrize(("dropped", "chosen"), [(1, "dense"), (25, "dense"), (26, "pconv"), (64, "pconv")])
def test_dropped_kernels_count_by_density(dropped, chosen):
    conv = nn.Conv2d(8, 8, 3)
    with torch.no_grad():
        conv.weight.view(64, 9)[:dropped] = 0  # 60 % are left between 25 and 26
    assert convert(nn.Sequential(conv)).report.layers[0].chosen == chosen


def test_report_lists_every_convolution(tmp_path):
    report = convert(prune(sequential())).report
    assert [(row.name, row.chosen) for row in report.layers] == [
        ("0", "dense"),
        ("2", "pconv"),
        ("6", "pconv"),
        ("7", "dense"),
        ("8", "pconv"),
    ]
    assert "3 of 5 convolutions accelerated" in report.text()
    report.save(tmp_path / "report.json")
    assert len(json.loads((tmp_path / "report.json").read_text())["layers"]) == 5


@pytest.mark.parametrize("training", [False, True])
def test_example_inputs_run_once_and_leave_no_trace(training):
    model = prune(sequential()).train(training)
    fast = convert(model, (random(2, 3, 16, 16),))
    assert [m.training for m in fast.modules()] == [m.training for m in model.modules()]
    assert torch.equal(fast[3].running_mean, model[3].running_mean)


def test_example_inputs_that_do_not_fit_are_an_error():
    with pytest.raises((RuntimeError, ValueError)):
        convert(prune(sequential()), random(2, 5, 16, 16))
    with pytest.raises(TypeError, match="example_inputs"):
        convert(prune(sequential()), 3)


def test_arguments_are_checked():
    model = prune(sequential())
    with pytest.raises(TypeError, match="model"):
        convert(lambda x: x)
    with pytest.raises(pconv_ops.BackendUnavailable, match="opencl"):
        convert(model, backend="opencl")
    with pytest.raises(TypeError, match="backend"):
        convert(model, backend=None)
    for fallback in ("always", "never", None):
        with pytest.raises(ValueError, match="fallback"):
            convert(model, fallback=fallback)


def test_converted_state_dict_loads_into_another_conversion():
    fast, other = convert(prune(sequential())), convert(prune(sequential(), keep=0.2, seed=5))
    other.load_state_dict(fast.state_dict())
    x = random(1, 3, 16, 16)
    assert torch.equal(other.eval()(x), fast.eval()(x))


def test_converted_model_compiles():
    torch._dynamo.reset()
    fast = convert(prune(Branches())).eval()
    x = random(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(fast, fullgraph=True)(x), fast(x), atol=1e-5, rtol=1e-5)
