"""What convert() fuses and what it must not: every case is compared with the original."""

import copy
import pickle

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from networks import CHANNELS, Block, InvertedResidual, Residual, deviation, networks, prune, random
from torch import nn
from torch.nn import functional as F

from pconv_ops import PatternConv2d, convert
from pconv_ops.modules import ResidualConv2d

BOTH_LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])


def converted(model, *inputs):
    """The converted model with every layer packed, compared with the original on the example and on another input."""
    fast = convert(model, inputs, fallback="never")
    assert all(row.deviation <= 1e-4 for row in fast.report.layers if row.chosen == "pconv")
    with torch.no_grad():
        for given_inputs in (inputs, tuple(random(*x.shape, seed=9) for x in inputs)):
            expected = model(*[x.clone() for x in given_inputs])
            got = fast(*[x.clone() for x in given_inputs])
            assert deviation(got, expected) < 1e-4
    return fast


def fused(fast):
    return {row.name: row.fused for row in fast.report.layers if row.chosen == "pconv"}


class Net(nn.Module):
    """Two convolutions, a BatchNorm and a ReLU around a forward that a test brings."""

    def __init__(self, forward, **more):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        for name, module in more.items():
            setattr(self, name, module)
        self.body = forward

    def forward(self, x):
        return self.body(self, x)


def net(forward, **more):
    return prune(Net(forward, **more)).eval()


X = random(2, 8, 9, 11)


@BOTH_LAYOUTS
def test_residual_networks_fuse_everything(layout):
    model = prune(Residual()).eval()
    fast = converted(model, random(2, 3, 24, 20).contiguous(memory_format=layout))
    assert fused(fast) == {
        "stem.0": ("stem.1", "stem.2"),
        "layers.0.conv1": ("layers.0.bn1", "layers.0.relu"),
        "layers.0.conv2": ("layers.0.bn2", "add", "layers.0.relu"),
        "layers.1.conv1": ("layers.1.bn1", "layers.1.relu"),
        "layers.1.conv2": ("layers.1.bn2",),
        "layers.1.downsample.0": ("layers.1.downsample.1", "add", "layers.1.relu"),
        "layers.2.conv.0.0": ("layers.2.conv.0.1", "layers.2.conv.0.2"),
        "layers.2.conv.1.0": ("layers.2.conv.1.1", "layers.2.conv.1.2"),
        "layers.2.conv.2": ("layers.2.conv.3", "add"),
    }
    kinds = [type(module) for module in fast.modules() if not list(module.children())]
    assert set(kinds) == {PatternConv2d, ResidualConv2d, nn.Linear}
    assert {row.layout for row in fast.report.layers} == {"nhwc" if layout is torch.channels_last else "nchw"}


ACTS = {
    "module": (lambda m, x: m.relu(m.a(x)), ("relu",)),
    "functional": (lambda m, x: F.relu(m.a(x)), ("relu",)),
    "functional inplace": (lambda m, x: F.relu(m.a(x), True), ("relu",)),
    "torch": (lambda m, x: torch.relu_(m.a(x)), ("relu",)),
    "method": (lambda m, x: m.a(x).relu_(), ("relu",)),
    "relu6": (lambda m, x: F.relu6(m.a(x), inplace=True), ("relu6",)),
    "hardtanh": (lambda m, x: F.hardtanh(m.a(x), min_val=-0.5), ("hardtanh",)),
    "clamp": (lambda m, x: torch.clamp(m.a(x), -0.5, 0.5), ("clamp",)),
    "one bound": (lambda m, x: m.a(x).clamp(max=0.5), ("clamp",)),
    "clamp_min": (lambda m, x: m.a(x).clamp_min_(-0.1), ("clamp_min",)),
    "clip": (lambda m, x: torch.clip(m.a(x), max=1, min=-1), ("clip",)),
    "crossed bounds": (lambda m, x: m.a(x).clamp(1, -1) + x, ()),
    "tensor bound": (lambda m, x: m.a(x).clamp(min=x), ()),
    "bound is itself": (lambda m, x: m.relu(x).clamp(min=m.a(x)), ()),
    "other activation": (lambda m, x: torch.sigmoid(m.a(x)), ()),
    "result dropped": (lambda m, x: [y := m.a(x), m.relu(y), y * 2][2], ()),
    "used before": (lambda m, x: [y := m.a(x), y * 2 + F.relu(y)][1], ()),
    "used through a view": (lambda m, x: [y := m.a(x), v := y[:, 1:], m.relu(y)[:, 1:] + v][2], ()),
}


@pytest.mark.parametrize("case", ACTS)
def test_activations(case):
    forward, expected = ACTS[case]
    assert fused(converted(net(forward), X))["a"] == expected


def late_overwrite(m, x):
    """The first convolution reads x before the ReLU overwrites it, and is added after."""
    x = x * 1.0
    y = m.a(x)
    x = m.relu(x)
    return y + x


def overwritten_residual_is_read_again(m, x):
    x = m.relu(x * 1.0)
    kept = x
    x += m.a(x)
    return kept * 2 + x.mean()


def overwrites_its_input(m, x):
    x += m.a(x)
    return x


def overwrites_a_branch(m, x):
    y = m.a(x)
    y += m.b(x)
    return m.relu(y)


ADDS = {
    "add": (lambda m, x: m.a(x) + x, {"a": ("add",)}),
    "add reversed": (lambda m, x: x + m.a(x), {"a": ("add",)}),
    "torch.add": (lambda m, x: torch.add(x, m.a(x)), {"a": ("add",)}),
    "alpha 1": (lambda m, x: torch.add(x, m.a(x), alpha=1), {"a": ("add",)}),
    "alpha 2": (lambda m, x: torch.add(x, m.a(x), alpha=2), {"a": ()}),
    "method": (lambda m, x: m.a(x).add_(x), {"a": ("add",)}),
    "later takes it": (lambda m, x: m.relu(m.a(x) + m.norm(m.b(x))), {"a": (), "b": ("norm", "add", "relu")}),
    "later takes it, written first": (lambda m, x: m.norm(m.b(x)) + m.a(x), {"b": ("norm",), "a": ("add",)}),
    "doubled": (lambda m, x: [y := m.a(x), y + y][1], {"a": ()}),
    "number": (lambda m, x: m.a(x) + 1.0, {"a": ()}),
    "broadcast": (lambda m, x: m.a(x) + x.mean((2, 3), keepdim=True), {"a": ()}),
    "broadcast up": (lambda m, x: m.a(x[:1]) + x, {"a": ()}),
    "after an activation": (lambda m, x: F.relu(m.a(x)) + x, {"a": ("relu",)}),
    "late overwrite": (late_overwrite, {"a": ()}),
    "residual read again": (overwritten_residual_is_read_again, {"a": ()}),
    "input overwritten": (overwrites_its_input, {"a": ()}),
    "later takes it, in place": (overwrites_a_branch, {"a": (), "b": ("add", "relu")}),
    "two adds": (lambda m, x: m.a(x) + x + m.b(x), {"a": ("add",), "b": ("add",)}),
    "chain": (lambda m, x: m.b(m.relu(m.a(x) + x)) + x, {"a": ("add", "relu"), "b": ("add",)}),
    "add between": (lambda m, x: m.norm(m.a(x) + x), {"a": ("add",)}),
}


@pytest.mark.parametrize("case", ADDS)
def test_additions(case):
    forward, expected = ADDS[case]
    assert fused(converted(net(forward), X)) == expected


def test_overwriting_keeps_its_meaning_for_the_caller():
    model = net(overwrites_its_input)
    fast = convert(model, X, fallback="never")
    mine, theirs = X.clone(), X.clone()
    with torch.no_grad():
        fast(mine), model(theirs)
    assert deviation(mine, theirs) < 1e-4 and not torch.equal(theirs, X)


NORMS = {
    "affine": (nn.BatchNorm2d(8), ("norm", "relu")),
    "plain": (nn.BatchNorm2d(8, affine=False), ("norm", "relu")),
    "batch statistics": (nn.BatchNorm2d(8, track_running_stats=False), ()),
    "instance norm": (nn.InstanceNorm2d(8), ()),
}


@pytest.mark.parametrize("case", NORMS)
def test_norms(case):
    norm, expected = NORMS[case]
    model = net(lambda m, x: m.relu(m.norm(m.a(x))), norm=copy.deepcopy(norm))
    assert fused(converted(model, X))["a"] == expected


def test_norm_with_a_hook_stays():
    model = net(lambda m, x: m.relu(m.norm(m.a(x))))
    seen = []
    model.norm.register_forward_hook(lambda module, args, y: seen.append(1))
    assert fused(converted(model, X))["a"] == ()
    assert seen


def test_norm_that_overflows_does_not_fold():
    model = net(lambda m, x: m.norm(m.a(x)))
    with torch.no_grad():
        model.norm.running_var.fill_(0)
        model.norm.eps = 0.0
        model.norm.weight.fill_(0)
    fast = convert(model, X, fallback="never")  # 0 / 0: nothing to compare, but nothing breaks either
    assert fast.report.layers[0].fused == ()


def test_a_module_called_twice_has_an_epilogue_each():
    model = net(lambda m, x: m.relu(m.a(m.norm(m.a(x)))) + m.a(x))
    fast = converted(model, X)
    assert fused(fast) == {"a": ("norm",), "a__2": ("relu",), "a__3": ("add",)}
    packed = [fast.a.packed, fast.a__2.packed, fast.a__3.packed]
    assert packed[1] is packed[2] and packed[0] is not packed[1]  # the same bytes are there once


def test_equal_epilogues_share_the_layer():
    fast = converted(net(lambda m, x: m.relu(m.a(m.relu(m.a(x))))), X)
    assert fused(fast) == {"a": ("relu",), "a__2": ("relu",)}
    assert [name for name, _ in fast.named_modules()] == ["", "a"]


def test_a_shared_module_may_be_dense_in_one_place(monkeypatch):
    from pconv_ops import choosing

    def race(label, ours, dense):
        slow = label == "a__2"
        return choosing.Race([2.0 if slow else 0.5] * 7, [1.0] * 7)

    monkeypatch.setattr(choosing, "race", race)
    model = net(lambda m, x: m.relu(m.a(m.relu(m.a(x)))) + m.a(x))
    fast = convert(model, X)
    assert {row.name: row.chosen for row in fast.report.layers if row.kind == "conv3x3"} == {
        "a": "pconv",
        "a__2": "dense",
        "a__3": "pconv",
    }
    assert type(fast.a__2) is nn.Conv2d and isinstance(fast.a, PatternConv2d)
    with torch.no_grad():
        assert deviation(fast(X), model(X)) < 1e-4


def test_residuals_of_other_shapes_at_other_inputs():
    """At this example the pooled map has the size of the other operand; at others it broadcasts."""
    model = net(lambda m, x: m.relu(m.a(x) + F.adaptive_avg_pool2d(x, 1)))
    fast = convert(model, random(2, 8, 1, 1), fallback="never")
    assert fused(fast)["a"] == ("add", "relu")
    for shape in ((2, 8, 1, 1), (3, 8, 9, 5), (1, 8, 4, 4)):
        x = random(*shape)
        with torch.no_grad():
            assert deviation(fast(x), model(x)) < 1e-4


def test_residual_layer_still_refuses_what_cannot_be_added():
    layer = ResidualConv2d.from_dense(nn.Conv2d(8, 8, 3, padding=1), "relu")
    with pytest.raises(RuntimeError, match="must match"):
        layer(X, random(2, 8, 5, 5))
    with pytest.raises(ValueError, match="channels"):
        layer(random(1, 3, 5, 5), X)


class Blocks(nn.Module):
    """Cannot be traced; its nn.Sequential are run in one go, or layer by layer."""

    def __init__(self, iterate):
        super().__init__()
        self.iterate = iterate
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 1),
            nn.Hardtanh(),
            nn.Conv2d(8, 8, 3),
        )

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        if not self.iterate:
            return self.body(x)
        seen = []
        for layer in self.body:
            x = layer(x)
            seen.append(x.mean((2, 3)))
        return sum(seen, x.mean((2, 3)))


def test_untraceable_models_are_walked():
    fast = converted(prune(Blocks(iterate=False)).eval(), X)
    assert fused(fast) == {"body.0": ("body.1", "body.2"), "body.3": ("body.4",), "body.5": ()}
    assert type(fast) is Blocks and type(fast.body[1]) is nn.Identity
    assert any("not traced" in note and "control flow" in note for note in fast.report.notes)


def test_layers_that_are_called_one_by_one_are_not_fused():
    fast = converted(prune(Blocks(iterate=True)).eval(), X)
    assert fused(fast) == {"body.0": (), "body.3": (), "body.5": ()}


def test_shared_activation_in_two_sequentials():
    relu = nn.ReLU(inplace=True)

    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), relu)
            self.two = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), relu, nn.Conv2d(8, 8, 1))

        def forward(self, x):
            return self.two(self.one(x)) if float(x.sum()) < 1e9 else x

    fast = converted(prune(Untraceable()).eval(), X)
    assert fused(fast) == {"one.0": ("one.1",), "two.0": ("two.1",), "two.2": ()}


def test_containers_with_hooks_are_walked_inside_the_graph():
    model = nn.Sequential(
        prune(Block(8, 8)), nn.Sequential(prune(nn.Conv2d(8, 8, 3)), nn.ReLU()), nn.Conv2d(8, 4, 1)
    ).eval()
    calls = []
    model[1].register_forward_hook(lambda module, args, y: calls.append(tuple(y.shape)))
    fast = converted(model, X)
    assert fused(fast)["1.0"] == ("1.1",) and fused(fast)["0.conv2"] == ("0.bn2", "add", "0.relu")
    calls.clear()
    fast(X)
    assert len(calls) == 1


def test_a_convolution_inside_and_outside_of_a_hooked_container():
    """Its packed form must not find its way into the container, which calls it without the epilogue."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.box = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())
            self.box.register_forward_hook(lambda module, args, y: y * 2)

        def forward(self, x):
            return self.box(F.relu(self.box[0](x)))

    fast = converted(prune(Shared()).eval(), X)
    assert fused(fast) == {"box.0": ("relu",)}
    assert type(fast.box[0]) is nn.Conv2d and isinstance(fast.box_0, PatternConv2d)


def test_convolutions_that_share_names_with_later_calls():
    model = net(lambda m, x: m.relu(m.a(x)) + m.a__2(m.a(x)), a__2=nn.Conv2d(8, 8, 1))
    assert fused(converted(model, X)) == {"a": ("relu",), "a__3": (), "a__2": ("add",)}


def test_buffers_that_a_forward_changes_are_as_before():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            return self.conv(x)

    model = prune(Counter()).eval()
    for fallback in ("never", "always"):
        fast = convert(model, X, fallback=fallback)
        assert model.calls == 0 and dict(fast.named_buffers()).get("calls", torch.zeros(1)) == 0


class Options(nn.Module):
    """Arguments that decide what is computed."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x, mask=None, double=False, *, mode="a"):
        y = self.conv(x)
        if mask is not None:
            y = y * mask
        if double:
            y = 2 * y
        return {"y": F.relu(y), "more": [y.shape[0], (y, mode)]}


def test_arguments_that_are_no_tensors_are_fixed():
    model = prune(Options()).eval()
    mask = random(2, 1, 9, 11)
    fast = convert(model, {"x": X, "mask": mask, "double": True}, fallback="never")
    assert fast.report.notes == []
    with torch.no_grad():
        expected, got = model(X, mask, double=True), fast(x=X, mask=mask, double=True)
    assert deviation(got["y"], expected["y"]) < 1e-4 and got["more"][0] == 2
    assert deviation(got["more"][1][0], expected["more"][1][0]) < 1e-4
    with pytest.raises(AssertionError, match="double"):
        fast(X, mask, double=False)
    plain = convert(model, X, fallback="never")
    with pytest.raises(AssertionError, match="mask"):
        plain(X, mask)


class Counting(nn.Module):
    """x += y on sizes, which are numbers, and on tensors, which have other names."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        n = x.size(0)
        m = n
        m += 1
        y = self.conv(x)
        other = y
        other += x
        return y * n + m + other.view(n, -1).mean()


def test_in_place_operators_keep_their_meaning():
    fast = converted(prune(Counting()).eval(), X)
    model = prune(Counting()).eval()
    for n in (1, 5):
        with torch.no_grad():
            assert deviation(fast(random(n, 8, 4, 4)), model(random(n, 8, 4, 4))) < 1e-4
    again = pickle.loads(pickle.dumps(fast))
    with torch.no_grad():
        assert torch.equal(again(X.clone()), fast(X.clone()))


class Noise(nn.Module):
    """Draws a constant: a trace would keep one draw for ever."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x) * torch.randn(1)


def test_a_trace_that_computes_something_else_is_not_used():
    fast = convert(prune(Noise()).eval(), X, fallback="never")
    assert any("something else" in note for note in fast.report.notes) and type(fast) is Noise
    assert fast.report.layers[0].chosen == "pconv"


def test_copies_pickles_and_state_dicts(tmp_path):
    model = prune(Residual()).eval()
    x = random(1, 3, 16, 16)
    fast = convert(model, x, fallback="never")
    torch.save(fast, tmp_path / "fast.pt")
    loaded = torch.load(tmp_path / "fast.pt", weights_only=False)
    for other in (loaded, copy.deepcopy(fast), copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert torch.equal(other(x), fast(x)) and not other.training
        assert other.report.to_json() == fast.report.to_json()
    other = convert(prune(Residual(), seed=5).eval(), x, fallback="never")
    assert not torch.equal(other(x), fast(x))
    other.load_state_dict(fast.state_dict())
    assert torch.equal(other(x), fast(x))
    assert torch.equal(fast.train()(x), loaded(x))


def test_converted_residual_model_compiles():
    torch._dynamo.reset()
    fast = convert(prune(Residual()).eval(), random(1, 3, 16, 16), fallback="never")
    x = random(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(fast, fullgraph=True)(x), fast(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block", [Block(8, 8), InvertedResidual(8)])
def test_random_layers_of_a_network_matter(block):
    """The comparisons above would notice a wrong layer."""
    model = prune(
        nn.Sequential(block, block.__class__(8)) if isinstance(block, InvertedResidual) else nn.Sequential(block)
    ).eval()
    expected = model(X.clone())
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d):
            before = module.weight.detach().clone()
            with torch.no_grad():
                kept = module.weight.view(-1).nonzero().view(-1)
                module.weight.view(-1)[kept[:: max(2, len(kept) // 2)]] = 0
                assert deviation(model(X.clone()), expected) > 1e-3
                module.weight.copy_(before)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=networks(), last=st.booleans(), other_size=st.sampled_from(((1, 13, 13), (3, 8, 17))))
def test_random_networks_compute_the_same(model, last, other_size):
    check_random_network(model, last, other_size)


@pytest.mark.soak
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=networks(), last=st.booleans(), other_size=st.sampled_from(((1, 13, 13), (3, 8, 17))))
def test_random_networks_compute_the_same_long(model, last, other_size):
    check_random_network(model, last, other_size)


def check_random_network(model, last, other_size):
    layout = torch.channels_last if last else torch.contiguous_format

    def run(net, x):
        with torch.no_grad():
            return net(x.clone(memory_format=torch.preserve_format))

    x = random(2, 3, 12, 10).contiguous(memory_format=layout)
    assume(all(bool(y.isfinite().all()) and y.abs().max() > 0 for y in run(model, x)))
    differ = [deviation(a, b) for a, b in zip(run(model, random(2, 3, 12, 10, seed=7)), run(model, x), strict=True)]
    assume(max(differ) > 0.05)  # outputs that depend on nothing prove nothing
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = convert(model, x, fallback="never")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) >= 1 and fast.report.n_accelerated >= 1
    n, h, w = other_size
    for z in (x, random(n, 3, h, w).contiguous(memory_format=layout)):
        for got, want in zip(run(fast, z), run(model, z), strict=True):
            assert got.shape == want.shape and deviation(got, want) < 1e-4, fast.report
    assert CHANNELS == 8
