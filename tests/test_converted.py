"""The code of a converted model: it finds layers quickly, and always those that stand in the model now."""

from __future__ import annotations  # the annotations of Nested are strings

import copy
import pickle

import pytest
import torch
from torch import fx, nn

import pconv_ops
from pconv_ops.converted import ConvertedModule
from pconv_ops.tracing import ModelTracer


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)))
        self.head = nn.Conv2d(8, 4, 1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1, generator=generator))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.features(x))) * self.scale


@pytest.fixture
def x():
    return torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def fast(x):
    result = pconv_ops.convert(Nested(), x, fallback="never")
    assert isinstance(result, ConvertedModule)
    return result


def test_layers_are_read_from_their_parents(fast):
    assert "self._modules['features']._modules['1']._modules['0'](" in fast.code
    assert "getattr(" not in fast.code and "self.scale" in fast.code


@pytest.mark.parametrize(
    "put",
    [
        lambda fast, layer: setattr(fast.features, "0", layer),
        lambda fast, layer: fast.features.register_module("0", layer),
        lambda fast, layer: fast.features._modules.update({"0": layer}),
        lambda fast, layer: fast.set_submodule("features.0", layer),
    ],
    ids=["setattr", "register_module", "_modules", "set_submodule"],
)
def test_a_layer_put_in_later_is_called(fast, x, put):
    before = fast(x)
    layer = nn.Conv2d(3, 8, 3, padding=1)
    put(fast, layer)
    calls = []
    layer.register_forward_hook(lambda *arguments: calls.append(1))
    assert not torch.equal(fast(x), before) and calls == [1]


def test_hooks_of_layers_run(fast, x):
    seen = []
    fast.get_submodule("features.0").register_forward_hook(lambda module, args, y: seen.append(y.shape))
    fast(x)
    assert seen == [(2, 8, 9, 7)]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_duplicates_have_the_code_and_their_own_layers(fast, x, duplicate):
    other = duplicate(fast)
    assert type(other).__mro__[1] is ConvertedModule and other.code == fast.code
    assert torch.equal(other(x), fast(x)) and set(other.state_dict()) == set(fast.state_dict())
    expected = fast(x)
    with torch.no_grad():
        other.get_submodule("features.0").packed.zero_()
    with pytest.raises(pconv_ops.PConvFormatError):
        other(x)
    assert torch.equal(fast(x), expected)


def test_it_compiles_exports_and_traces_again(fast, x):
    torch._dynamo.reset()
    with torch.no_grad():
        expected = fast(x)
        assert torch.equal(torch.compile(fast, fullgraph=True)(x), expected)
        assert torch.equal(torch.export.export(fast, (x,)).module()(x), expected)
        again = fx.GraphModule(fast, ModelTracer().trace(fast))
        assert [str(node.target) for node in again.graph.nodes if node.op == "call_module"] == [
            str(node.target) for node in fast.graph.nodes if node.op == "call_module"
        ]
        assert torch.equal(again(x), expected)
        assert torch.equal(torch.jit.trace(fast, (x,))(x), expected)


def test_a_changed_graph_is_written_in_the_same_way(fast, x):
    expected = fast(x)
    node = next(node for node in fast.graph.nodes if node.op == "output")
    with fast.graph.inserting_before(node):
        node.replace_input_with(node.args[0], fast.graph.call_function(torch.neg, (node.args[0],)))
    fast.recompile()
    assert torch.equal(fast(x), -expected) and "getattr(" not in fast.code
