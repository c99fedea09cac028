"""Torch models become graphs that compute the same, before and after the passes; what cannot is refused by name."""

import copy

import pytest
import torch
from graph_networks import NETWORKS
from graph_reference import check_same, checked, interpret
from hypothesis import HealthCheck, assume, given, settings
from networks import Residual, X, net, networks, prune, random
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from pconv_ops import convert, prune_
from pconv_ops.export import ExportError, UnsupportedOperatorError, export, read_program
from pconv_ops.passes import optimize
from pconv_ops.zoo import NETS, rescale_

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- networks


@pytest.mark.parametrize("name", [name for name in NETS if name.endswith("_cifar")])
def test_small_networks_of_the_zoo(name):
    torch.manual_seed(0)
    model, size = NETS[name].factory().eval(), NETS[name].size
    prune_(model, connectivity=3.1)
    x = random(2, 3, size, size)
    rescale_(model, x)
    graph = optimize(export(model, x))
    check_same(model, graph, random(1, 3, size, size, seed=4), optimized=True)
    assert {node.op for node in graph.nodes} <= {"conv", "max_pool", "mean", "linear"}


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name in NETS if not name.endswith("_cifar")])
def test_large_networks_of_the_zoo(name):
    torch.manual_seed(0)
    model = rescale_(NETS[name].factory().eval(), random(1, 3, 224, 224))
    check_same(model, optimize(export(model, random(1, 3, 224, 224))), random(1, 3, 224, 224, seed=4), optimized=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    factory, shape, operators = NETWORKS[name]
    model = prune(factory()).eval()
    checked(model, random(*shape))
    graph = optimize(export(model, random(*shape)))
    assert {node.op for node in graph.nodes} == set(operators.split())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=networks())
def test_random_networks(model):
    check_random_network(model)


@pytest.mark.soak
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=networks())
def test_random_networks_long(model):
    check_random_network(model)


def check_random_network(model):
    x = random(2, 3, 12, 10)
    with torch.no_grad():
        assume(all(bool(y.isfinite().all()) and y.abs().max() > 0 for y in model(x.clone())))
    try:
        graph = export(model, x)
    except UnsupportedOperatorError as error:
        assert all("statistics" in row.reason for row in error.missing), error
        assume(False)
    except ExportError as error:
        assert model.untraceable, error
        assume(False)
    check_same(model, graph, x)
    optimize(graph)
    for z in (x, random(1, 3, 12, 10, seed=7)):
        check_same(model, graph, z, optimized=True)


# ---- models as they come


def test_a_shared_module_is_two_nodes_of_one_module():
    model = net(lambda m, x: m.a(m.relu(m.a(x))))
    graph = export(model, X)
    assert [(node.name, node.module) for node in graph.nodes] == [("a", "a"), ("relu", "relu"), ("a__2", "a")]
    assert graph.nodes[0].data["weight"] is graph.nodes[2].data["weight"]
    checked(model, X)


def test_a_training_model_is_compiled_in_evaluation_mode_and_left_alone():
    model = net(lambda m, x: F.dropout(m.norm(m.a(x)), training=m.training)).train()
    before = copy.deepcopy(model.state_dict())
    graph = export(model, X)
    assert model.training and model.norm.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    check_same(model.eval(), graph, X)


def test_several_inputs_and_fixed_arguments():
    class Options(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x, mask, double=False, *, other=None):
            y = self.conv(x) * mask
            return 2 * y if double else y if other is None else y + other

    model = prune(Options()).eval()
    mask, other = random(2, 1, 9, 11), random(2, 8, 9, 11, seed=2)
    for given_inputs, names, run in (
        ((X, mask), ["x", "mask"], lambda m: m(X, mask)),
        ([X, mask, True], ["x", "mask"], lambda m: m(X, mask, True)),
        ({"x": X, "mask": mask, "other": other}, ["x", "mask", "other"], lambda m: m(X, mask, other=other)),
    ):
        graph = export(model, given_inputs)
        assert [value.name for value in graph.inputs] == names and graph.single
        tensors = given_inputs.values() if isinstance(given_inputs, dict) else given_inputs
        (got,) = interpret(graph, *(x for x in tensors if isinstance(x, torch.Tensor)))
        assert torch.allclose(got.float(), run(model), atol=1e-5)


@pytest.mark.parametrize(
    ("forward", "single", "count"),
    [
        (lambda m, x: m.a(x), True, 1),
        (lambda m, x: (m.a(x),), False, 1),
        (lambda m, x: [m.a(x), x], False, 2),
        (lambda m, x: {"one": m.a(x), "more": (x, torch.ones(2))}, False, 3),
        (lambda m, x: [y := m.a(x), (y, y)][1], False, 2),
    ],
)
def test_outputs(forward, single, count):
    model = net(forward)
    graph = export(model, X)
    assert (graph.single, len(graph.outputs)) == (single, count)
    check_same(model, graph, X)
    check_same(model, optimize(graph), X, optimized=True)


def test_computed_parameters_are_constants():
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(8, 8, 3)), nn.utils.spectral_norm(nn.Conv2d(8, 4, 1)))
    assert checked(model.eval(), X) == ["conv", "conv"]


def test_converted_models():
    model = prune(Residual()).eval()
    x = random(2, 3, 16, 12)
    fast = convert(model, x, fallback="never")
    graph = optimize(export(fast, x))
    check_same(model, graph, x, optimized=True)
    assert {node.op for node in graph.nodes} == {"conv", "mean", "linear"}


def test_channels_last_models_and_inputs():
    model = prune(Residual()).to(memory_format=torch.channels_last).eval()
    x = random(2, 3, 16, 12).contiguous(memory_format=torch.channels_last)
    checked(model, x)


def test_a_model_that_only_fx_can_take():
    class Scripted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.jit.script(nn.Conv2d(8, 8, 3))

        def forward(self, x):
            return torch.relu(self.inner(x))

    model = Scripted().eval()
    with pytest.raises(TypeError):
        torch.export.export(model, (X,))
    graph = export(model, X)
    assert [(node.op, node.module) for node in graph.nodes] == [("conv", "inner"), ("activate", "")]
    check_same(model, graph, X)


def test_programs_from_files(tmp_path):
    model = prune(Residual()).eval()
    x = random(2, 3, 16, 12)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    graph = read_program(torch.export.load(tmp_path / "model.pt2"))
    check_same(model, graph, x)
    check_same(model, optimize(graph), random(1, 3, 8, 8), optimized=True)


def test_programs_that_are_refused():
    model = prune(Residual()).eval()
    x = random(2, 3, 16, 12)
    batch = torch.export.Dim("batch", min=2, max=64)
    with pytest.raises(ExportError, match="input 'x' has dynamic dims"):
        read_program(torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}}))
    with pytest.raises(TypeError, match="'weight': expected float32, got torch.float64"):
        read_program(torch.export.export(nn.Conv2d(3, 8, 1).double(), (x.double(),)))
    with pytest.raises(TypeError, match="input 'input': expected float32, got torch.float64"):
        read_program(torch.export.export(nn.ReLU(), (x.double(),)))
    with pytest.raises(ValueError, match="its forward changes 'stem.1.num_batches_tracked'"):
        read_program(torch.export.export(model.train(), (x,)))


def test_tensors_left_in_attributes():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(8, 8, 3), None

        def forward(self, x):
            self.last = self.conv(x)
            return torch.relu(self.last)

    model = Keeping().eval()
    assert checked(model, X) == ["conv", "activate"]


def test_hostile_names():
    class Strange(nn.Module):
        def __init__(self, names):
            super().__init__()
            for name in names:
                self.add_module(name, nn.Conv2d(8, 8, 1))

        def forward(self, x):
            for module in self.children():
                x = module(x)
            return x

    names = ["a b", "%x = y()", "new\nline", "é'\"", "x", "conv2d", "a__2", "0"]
    graph = export(Strange(names), X)
    assert [node.module for node in graph.nodes] == names
    assert [node.name for node in graph.nodes] == [name if name != "x" else "x__2" for name in names]
    assert len(str(graph).splitlines()) == len(names) + 2
    checked(Strange(names).eval(), X)


# ---- tensors that are overwritten


OVERWRITTEN = {
    "relu_": lambda m, x: m.relu(m.a(x)),
    "read before": lambda m, x: [y := m.a(x), z := y * 2, y.relu_(), y + z][3],
    "other name": lambda m, x: [y := m.a(x), z := y.detach(), y.relu_(), y + z][3],
    "identity in between": lambda m, x: [y := m.a(x), z := nn.Identity()(y), z.add_(1), y][3],
    "a copy stays": lambda m, x: [y := m.a(x), z := y.clone(), y.relu_(), y + z][3],
    "a permuted copy stays": lambda m, x: [y := m.a(x), z := y.mT.contiguous(), y.relu_(), y + z.mT][3],
    "views follow": lambda m, x: [y := m.a(x), v := y[:, 1:], y.relu_(), y[:, 1:] + v][3],
    "views of views follow": lambda m, x: [y := m.a(x), v := y.mT[:, 1:], y.relu_(), y.add_(1), v][4],
    "iadd": lambda m, x: m.relu(m.a(x).add_(x)),
    "iadd twice": lambda m, x: [y := m.a(x), y.add_(x), y.add_(y), y.mul_(0.5), y][4],
    "the input": lambda m, x: m.a(x.relu_()) + x,
    "views without readers": lambda m, x: [y := m.a(x), v := y[:, :3], v.relu_() * 2][2],
    "copied over": lambda m, x: [y := m.a(x), y.copy_(x), y * 2][2],
    "constants": lambda m, x: x * torch.ones(8, 1, 1).mul_(3).add_(torch.arange(8.0)[:, None, None]),
}


@pytest.mark.parametrize("case", OVERWRITTEN)
def test_in_place_operators(case):
    before = X.clone()
    checked(net(OVERWRITTEN[case]), X)
    assert torch.equal(X, before)


REFUSED_WRITES = {
    "a part": (lambda m, x: [y := m.a(x), y[:, :3].relu_(), y][2], "part of 'conv2d', which is read later"),
    "a view": (lambda m, x: [y := m.a(x), y.view(2, -1).relu_(), y][2], "part of 'conv2d', which is read later"),
    "item": (lambda m, x: [y := m.a(x), y[:, 0].copy_(x[:, 0]), y][2], "part of 'conv2d', which is read later"),
    "into a constant": (lambda m, x: [y := torch.zeros(2, 8, 9, 11), y.copy_(x), y][2], "writes to a tensor"),
}


@pytest.mark.parametrize("case", REFUSED_WRITES)
def test_writes_that_a_graph_cannot_follow(case):
    forward, reason = REFUSED_WRITES[case]
    with pytest.raises(UnsupportedOperatorError, match=reason):
        export(net(forward), X)


class Remembering(nn.Module):
    """Changes a buffer, or a plain tensor, and reads it in the next call."""

    def __init__(self, how):
        super().__init__()
        self.how, self.conv, self.last = how, nn.Conv2d(8, 8, 1), torch.zeros(1)
        self.register_buffer("calls", torch.zeros(8))

    def forward(self, x):
        if self.how == "in place":
            self.calls += 1
        if self.how == "assigned":
            self.calls = x.mean((0, 2, 3))
        y = self.conv(x)
        if self.how == "attribute":
            y = y * self.last.mean()
            self.last = y.mean((0, 2, 3))
        return y


@pytest.mark.parametrize(("how", "name"), [("in place", "calls"), ("assigned", "calls"), ("attribute", "last")])
def test_a_forward_that_changes_the_model_is_refused(how, name):
    with pytest.raises(ValueError, match=f"its forward changes '{name}'"):
        export(Remembering(how), X)


# ---- what is refused


def test_operators_that_no_output_needs_are_not_missed():
    assert checked(net(lambda m, x: [torch.cumsum(x, 1), m.a(x)][1]), X) == ["conv"]


def test_all_missing_operators_are_listed():
    class Lacking(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8)
            self.sorter = nn.Sequential(nn.Softplus())

        def forward(self, x):
            x = torch.cumsum(self.conv(x), 1)
            return self.sorter(self.norm(x)).sin()

    with pytest.raises(UnsupportedOperatorError) as caught:
        export(Lacking(), X)
    missing = caught.value.missing
    names = ["aten.cumsum.default", "aten.group_norm.default", "aten.softplus.default", "aten.sin.default"]
    assert [row.operator for row in missing] == names
    assert [row.module for row in missing] == ["", "norm", "sorter.0", ""]
    assert [row.node for row in missing] == ["cumsum", "group_norm", "softplus", "sin"]
    assert "test_export.py" in missing[0].where and "torch.cumsum" in missing[0].where
    for row in missing:
        assert row.operator in str(caught.value) and row.node in str(caught.value)
    assert "4 operators" in str(caught.value) and "'sorter.0'" in str(caught.value)


def test_outputs_that_are_no_tensors():
    for forward, reason in (
        (lambda m, x: (x, None), "number 1 is None"),
        (lambda m, x: (x, 3), "number 1 is 3"),
        (lambda m, x: (torch.arange(3), x), "number 0 is torch.int64"),
    ):
        with pytest.raises(ValueError, match=reason):
            export(net(forward), X)


def test_control_flow_on_values():
    with pytest.raises(ExportError, match=r"torch.export failed with .*torch.fx with"):
        export(net(lambda m, x: x if x.sum() > 0 else -x), X)


@pytest.mark.parametrize(
    ("example", "error", "reason"),
    [
        (None, TypeError, "got None"),
        ("x", TypeError, "got str"),
        ((), TypeError, "at least one tensor"),
        (X.double(), TypeError, "argument 0: expected float32, got torch.float64"),
        ({"x": X.half()}, TypeError, "argument 'x': expected float32, got torch.float16"),
        (torch.ones(1, 8, 3, 3, device="meta"), TypeError, "expected a CPU tensor, got one on meta"),
        (X.to_sparse(), TypeError, "expected a dense tensor"),
        ([[X]], TypeError, "argument 0: expected a tensor, number, string or None, got list"),
    ],
)
def test_examples_that_are_refused(example, error, reason):
    with pytest.raises(error, match=reason):
        export(net(lambda m, x: m.a(x)), example)


def test_models_that_are_refused():
    with pytest.raises(TypeError, match="expected an nn.Module, got function"):
        export(lambda x: x, X)
    with pytest.raises(TypeError, match="parameter 'weight': expected float32, got torch.float64"):
        export(nn.Conv2d(8, 8, 1).double(), X)
    with pytest.raises(TypeError, match="parameter 'weight': expected a CPU tensor, got one on meta"):
        export(nn.Conv2d(8, 8, 1, device="meta"), X)
    with pytest.raises(TypeError, match="buffer 'running_mean': expected float32"):
        export(nn.BatchNorm2d(8, affine=False).half(), X)
