"""Modules that no graph shows: replaced in place, fused only inside an nn.Sequential that is run as one."""

from networks import Block, X, converted, fused, prune
from torch import nn
from torch.nn import functional as F

from pconv_ops import PatternConv2d


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
