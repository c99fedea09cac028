"""convert() and max poolings: which are replaced, that results are equal, what the report says, replaying it."""

import copy
import pickle

import pytest
import torch
from networks import net, prune, random
from torch import nn
from torch.nn import functional as F

from pconv_ops import convert
from pconv_ops.checking import ConversionError
from pconv_ops.conversion_report import ConvertReport
from pconv_ops.pooling import NativeMaxPool2d
from pconv_ops.zoo import resnet18


def kinds(model):
    return [type(module) for module in model.modules() if isinstance(module, nn.MaxPool2d)]


def pooled(self, x):
    x = self.pool(self.relu(self.a(x)))
    x = F.max_pool2d(x, kernel_size=3, stride=1, padding=1)
    return torch.max_pool2d(self.b(x), 2)


def questions(self, x):
    return pooled(self, x if x.sum() > 0 else x * 1.0)


NAMES = ["pool", "max_pool2d", "max_pool2d_1"]


def test_modules_and_functions_of_a_graph():
    model, x = net(pooled, pool=nn.MaxPool2d(3, 2, 1)), random(2, 8, 18, 19)
    fast = convert(model, x, fallback="never")
    assert kinds(fast) == [NativeMaxPool2d] and kinds(model) == [nn.MaxPool2d]
    assert fast.report.pools == NAMES and "pools: 3 replaced" in fast.report.text()
    assert fast.code.count("pconv_ops") == 2
    for other in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        for shape in ((2, 8, 18, 19), (1, 8, 31, 30)):
            x = random(*shape, seed=3)
            with torch.no_grad():
                torch.testing.assert_close(other(x), model(x), atol=1e-5, rtol=1e-5)
    assert convert(fast, x, fallback="never").report.pools == NAMES[1:]  # the module is ours already


def test_modules_of_what_cannot_be_traced():
    model, x = net(questions, pool=nn.MaxPool2d(3, 2, 1)), random(2, 8, 18, 19)
    fast = convert(model, x, fallback="never")
    assert fast.report.pools == ["pool"] and kinds(fast) == [NativeMaxPool2d] and kinds(model) == [nn.MaxPool2d]
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-5)


def test_without_an_example():
    model = prune(nn.Sequential(nn.Conv2d(8, 8, 3), nn.MaxPool2d(2), nn.MaxPool2d(2, return_indices=True)))
    fast = convert(model)
    assert kinds(fast) == [NativeMaxPool2d, nn.MaxPool2d] and fast.report.pools == ["1"]
    assert not convert(model, fallback="always").report.pools
    assert kinds(convert(model, choices=ConvertReport(fast.report.layers))) == [nn.MaxPool2d] * 2
    assert kinds(convert(model, choices=fast.report)) == [NativeMaxPool2d, nn.MaxPool2d]


def test_always_replaces_nothing():
    fast = convert(net(pooled, pool=nn.MaxPool2d(2)), random(1, 8, 20, 20), fallback="always")
    assert kinds(fast) == [nn.MaxPool2d] and not fast.report.pools and "pools" not in fast.report.text()


def hooked(pool):
    pool.register_forward_hook(lambda module, x, y: y + 1)
    return pool


def patched(pool):
    pool.forward = lambda x: F.avg_pool2d(x, 2)
    return pool


class Halved(nn.MaxPool2d):
    def forward(self, input):
        return super().forward(input) / 2


@pytest.mark.parametrize("body", [pooled, questions])
@pytest.mark.parametrize("pool", [lambda: hooked(nn.MaxPool2d(2)), lambda: patched(nn.MaxPool2d(2)), lambda: Halved(2)])
def test_what_is_more_than_a_pooling_stays(pool, body):
    model, x = net(body, pool=pool()), random(1, 8, 20, 20)
    fast = convert(model, x, fallback="never")
    assert "pool" not in fast.report.pools and NativeMaxPool2d not in kinds(fast)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-5)


def test_indices_stay():
    model = net(lambda self, x: F.max_pool2d(self.a(x), 2, return_indices=True)[0] + self.pool(self.b(x))[0])
    model.pool = nn.MaxPool2d(2, return_indices=True)
    assert not convert(model, random(1, 8, 12, 12), fallback="never").report.pools


def test_a_pool_in_two_places_is_listed_once():
    model = net(lambda self, x: self.pool(self.pool(self.a(x))), pool=nn.MaxPool2d(2))
    fast = convert(model, random(1, 8, 20, 20), fallback="never")
    assert fast.report.pools == ["pool"] and kinds(fast) == [NativeMaxPool2d]


def test_an_unused_pool_stays_where_nothing_is_traced():
    model = net(questions, pool=nn.MaxPool2d(2), spare=nn.MaxPool2d(2))
    assert convert(model, random(1, 8, 20, 20), fallback="never").report.pools == ["pool"]


@pytest.mark.parametrize("body", [pooled, questions])
def test_choices_are_replayed(body, tmp_path):
    model, x = net(body, pool=nn.MaxPool2d(3, 2, 1)), random(1, 8, 20, 20)
    report = convert(model, x, fallback="never").report
    report.save(tmp_path / "report.json")
    again = convert(model, x, choices=tmp_path / "report.json")
    assert again.report.pools == report.pools and kinds(again) == [NativeMaxPool2d]
    report.pools = ["max_pool2d"] if body is pooled else []
    some = convert(model, x, choices=report)
    assert some.report.pools == report.pools and kinds(some) == [nn.MaxPool2d]
    report.pools = ["elsewhere"]
    with pytest.raises(ValueError, match="pooling 'elsewhere' is not in the model"):
        convert(model, x, choices=report)


@pytest.mark.parametrize("body", [pooled, questions])
def test_another_result_is_loud(body, monkeypatch):
    import pconv_ops.pooling as pooling
    import pconv_ops.tracing as tracing

    def wrong(input, *args, **kwargs):
        y = F.max_pool2d(input, *args, **kwargs)
        y[..., 0] = torch.nextafter(y[..., 0], torch.tensor(9.0))
        return y

    monkeypatch.setattr(pooling, "max_pool2d", wrong)
    monkeypatch.setattr(tracing, "max_pool2d", wrong)
    with pytest.raises(ConversionError, match="pooling"):
        convert(net(body, pool=nn.MaxPool2d(2)), random(1, 8, 20, 20), fallback="never")


def test_channels_last_stays_equal():
    model = net(pooled, pool=nn.MaxPool2d(3, 2, 1))
    x = random(2, 8, 18, 19).contiguous(memory_format=torch.channels_last)
    fast = convert(model, x, fallback="never")
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(fast(x), expected, atol=1e-5, rtol=1e-5)
        assert fast(x).stride() == expected.stride()


def test_measured_network_keeps_its_pools_or_comes_back_whole():
    fast = convert(prune(resnet18()).eval(), random(1, 3, 32, 32))
    came_back = any("original came back" in note for note in fast.report.notes)
    assert fast.report.pools == ([] if came_back else ["maxpool"])
    assert kinds(fast) == [nn.MaxPool2d if came_back else NativeMaxPool2d]
