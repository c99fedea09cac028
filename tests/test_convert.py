"""convert(): what is replaced, what stays and why, and that the converted model computes the same."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from networks import prune, random
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import l1_unstructured

import pconv_ops
from pconv_ops import PatternConv2d, convert


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
        fast.get_parameter("10.weight").zero_()
    assert model[10].weight.abs().sum() > 0


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
@pytest.mark.parametrize("example", [None, random(2, 3, 16, 16)], ids=["no example", "example"])
def test_the_result_is_for_inference(training, example):
    """In evaluation mode, whatever the model is in; train() does not change what converted layers compute."""
    model = prune(sequential()).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = convert(model, example, fallback="never")
    assert model.training is training and not any(module.training for module in fast.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    x = random(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model.eval()(x), atol=1e-4, rtol=1e-4)
    if example is not None:  # BatchNorm is folded
        assert torch.equal(fast.train()(x), fast.eval()(x))


def test_examples_and_random_state_are_left_alone():
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x.mul_(2)) + torch.rand(1)

    x, model = random(1, 3, 8, 8), prune(Overwriting())
    before = x.clone()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    convert(model, x, fallback="never")
    assert torch.equal(x, before) and torch.equal(torch.rand(3), expected)


def test_example_inputs_of_every_form():
    model = prune(Branches()).eval()
    x = random(1, 3, 8, 8)
    results = [convert(model, given, fallback="never") for given in (x, (x,), [x], {"x": x})]
    assert len({row.report.text() for row in results}) == 1
    with pytest.raises(TypeError, match="dict of keyword arguments, got set"):
        convert(model, {x})
    with pytest.raises(TypeError, match="got dict"):
        convert(model, {1: x})


def test_convert_inside_inference_mode_and_autocast():
    model = prune(sequential()).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        fast = convert(model, random(1, 3, 16, 16), fallback="never")
    assert fast.report.n_accelerated == 5 and fast.report.deviation < 1e-4


ANY_LAYER = {
    "stem": lambda: nn.Conv2d(3, 8, 7, 2, 3),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "1x1": lambda: nn.Conv2d(8, 8, 1),
    "5x3": lambda: nn.Conv2d(8, 8, (5, 3), dilation=(1, 2)),
    "stride": lambda: nn.Conv2d(8, 8, 3, stride=2),
    "same": lambda: nn.Conv2d(8, 8, 4, padding="same"),
    "dense": lambda: nn.Conv2d(8, 8, 3),
}


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("case", ANY_LAYER)
def test_every_layer_can_be_replaced(case, example):
    conv = ANY_LAYER[case]()
    x = random(1, conv.in_channels, 12, 13)
    fast = convert(nn.Sequential(conv), x if example else None, fallback="never")
    (row,) = fast.report.layers
    assert row.chosen == "pconv" and "never" in row.reason
    with torch.no_grad():
        torch.testing.assert_close(fast(x), conv(x), atol=1e-5, rtol=1e-5)


STAYING_BY_KIND = ("padding mode", "hook", "torch pruning", "parametrization", "patched", "subclass", "transposed")


@pytest.mark.parametrize("case", STAYING_BY_KIND)
@pytest.mark.parametrize("traceable", [False, True])
def test_layers_stay_with_their_reason_on_an_example(case, traceable):
    factory, reason = STAYING[case]

    class Untraceable(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() < 1e9 else x

    kind = nn.Sequential if traceable else Untraceable
    model = kind(prune(nn.Conv2d(8, 8, 3, padding=1)), factory(), nn.ReLU()).eval()
    fast = convert(model, random(1, 8, 12, 12), fallback="never")
    row = next(row for row in fast.report.layers if row.name == "1")
    assert row.chosen == "dense" and reason in row.reason
    assert fast.report.layers[0].chosen == "pconv" and fast.report.deviation < 1e-4
    assert len(fast.report.layers) == 2


def test_layers_that_are_not_called_are_reported():
    class OneOnly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = prune(nn.Conv2d(3, 4, 1)), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return self.used(x)

    rows = {row.name: row for row in convert(OneOnly(), random(1, 3, 4, 4), fallback="never").report.layers}
    assert rows["used"].chosen == "pconv"
    assert rows["spare"].chosen == "dense" and "not called" in rows["spare"].reason


def test_wide_maps_batches_and_sizes_after_conversion():
    """No shape of the example is left in the result."""
    model = prune(Branches()).eval()
    fast = convert(model, random(2, 3, 16, 16), fallback="never")
    for shape in ((1, 3, 16, 16), (5, 3, 7, 9), (2, 3, 40, 21), (0, 3, 8, 8)):
        x = random(*shape)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), atol=1e-4, rtol=1e-4)


def test_one_result_serves_many_threads_and_shapes():
    """More shapes than plans are kept: plans are evicted while other threads run them."""
    model = prune(Branches()).eval()
    fast = convert(model, random(1, 3, 8, 8), fallback="never")
    shapes = [(n, 3, 5 + h, 7 + w) for n in (1, 2) for h in range(5) for w in range(5)]
    expected = {}
    with torch.no_grad():
        for shape in shapes:
            expected[shape] = model(random(*shape))

    def work(seed):
        order = torch.randperm(len(shapes), generator=torch.Generator().manual_seed(seed)).tolist()
        worst = 0.0
        with torch.no_grad():
            for i in order * 2:
                want = expected[shapes[i]]
                worst = max(worst, float((fast(random(*shapes[i])) - want).abs().max() / want.abs().max()))
        return worst

    with ThreadPoolExecutor(6) as pool:
        assert max(pool.map(work, range(6))) < 1e-4
    assert len(shapes) > 32  # plans that a layer keeps


def test_example_inputs_that_do_not_fit_are_an_error():
    with pytest.raises((RuntimeError, ValueError)):
        convert(prune(sequential()), random(2, 5, 16, 16))
    with pytest.raises(TypeError, match="example_inputs"):
        convert(prune(sequential()), 3)


def test_arguments_are_checked():
    model = prune(sequential())
    with pytest.raises(TypeError, match="model"):
        convert(lambda x: x)
    with pytest.raises(pconv_ops.BackendUnavailable, match="cuda"):
        convert(model, backend="cuda")
    with pytest.raises(TypeError, match="backend"):
        convert(model, backend=None)
    for fallback in ("sometimes", None):
        with pytest.raises(ValueError, match="fallback: got .*auto, never, always"):
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
