"""compile(): whole networks against torch, in other processes too; shapes and kinds of inputs; errors."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from compiled_cases import LARGE, SMALL, distance, small_net, zoo_net
from graph_networks import NETWORKS
from networks import deviation, random
from torch import nn

import pconv_ops

pytestmark = pytest.mark.usefixtures("one_thread")

# Loads a file without torch and runs it on inputs in .npy files.
RUNNER = """
import sys, numpy as np, pconv_ops
assert "torch" not in sys.modules
net = pconv_ops.CompiledModel.load(sys.argv[1])
y = net(*[np.load(path) for path in sys.argv[3:]])
np.savez(sys.argv[2], *(y if isinstance(y, tuple) else [y]))
"""


def run_in_fresh_process(tmp_path, net, *inputs):
    """What another process gets from the network's file."""
    net.save(tmp_path / "net.pconv")
    paths = []
    for i, x in enumerate(inputs):
        np.save(tmp_path / f"x{i}.npy", x)
        paths.append(tmp_path / f"x{i}.npy")
    command = [sys.executable, "-c", RUNNER, tmp_path / "net.pconv", tmp_path / "y.npz", *paths]
    subprocess.run(list(map(str, command)), check=True)
    with np.load(tmp_path / "y.npz") as file:
        return [file[key] for key in file]


def check_zoo(name, tmp_path):
    net, x = zoo_net(name)
    compiled = pconv_ops.compile(net, x)
    with torch.no_grad():
        expected = net(x)
        assert deviation(compiled(x), expected) < 1e-4
        other = nn.functional.interpolate(random(3, 3, 5, 5, seed=3), x.shape[2:])
        assert (net(other)[:1] - expected).norm() > 0.1 * expected.norm()  # or equal outputs would prove nothing
        assert deviation(compiled(other), net(other)) < 1e-4
    (y,) = run_in_fresh_process(tmp_path, compiled, x.numpy())
    assert np.array_equal(y, compiled(x.numpy()))
    info = compiled.native.plan().info
    assert info["arena_bytes"] <= 1.15 * info["live_bytes"]


@pytest.mark.parametrize("name", SMALL)
def test_small_zoo(name, tmp_path):
    check_zoo(name, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", LARGE)
def test_large_zoo(name, tmp_path):
    check_zoo(name, tmp_path)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_other_kinds(name, tmp_path):
    net, x = small_net(name)
    compiled = pconv_ops.compile(net, x)
    with torch.no_grad():
        assert distance(compiled(x), net(x)) < 1e-4
        other = random(3, *x.shape[1:], seed=4)
        assert distance(compiled(other), net(other)) < 1e-4
        assert distance(net(other[:2]), net(x)) > 0.1
    got = run_in_fresh_process(tmp_path, compiled, x.numpy())
    want = compiled(x.numpy())
    for one, another in zip(got, want if isinstance(want, tuple) else [want], strict=True):
        assert np.array_equal(one, another)
    info = compiled.native.plan().info
    assert info["arena_bytes"] <= 1.15 * info["live_bytes"]


@pytest.mark.parametrize("name", NETWORKS)
def test_faults_of_any_layer_show(name):
    """The comparison above would see a hundredth of any layer's weights missing."""
    net, x = small_net(name)
    with torch.no_grad():
        want = net(x)
        for module in net.modules():
            if not isinstance(module, (nn.Conv2d, nn.Linear)):
                continue
            kept = module.weight.flatten().abs().argsort(descending=True)[: max(1, module.weight.numel() // 100)]
            saved = module.weight.clone()
            module.weight.view(-1)[kept] = 0
            assert distance(net(x), want) > 1e-4
            module.weight.copy_(saved)


# ---- shapes and kinds of inputs


def test_other_batches_and_sizes():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    compiled = pconv_ops.compile(net, random(1, 3, 8, 9))
    for shape in ((1, 3, 8, 9), (5, 3, 8, 9), (2, 3, 31, 17), (1, 3, 1, 1)):
        x = random(*shape)
        with torch.no_grad():
            assert deviation(compiled(x), net(x)) < 1e-5
    for shape in ((1, 4, 8, 9), (1, 3, 8), (0, 3, 8, 9)):
        with pytest.raises(ValueError, match='input "input"'):
            compiled(random(*shape))


def test_fixed_sizes():
    """A linear layer behind a map fits one size, a batch that is merged with channels one batch."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    compiled = pconv_ops.compile(net, random(2, 3, 8, 8))
    assert compiled(random(7, 3, 8, 8)).shape == (7, 3)
    with pytest.raises(ValueError, match=r'input "input": dims\[2\] is 9, the network takes 8'):
        compiled(random(2, 3, 9, 8))

    class Merged(nn.Module):
        def forward(self, x):
            return x.reshape(1, 6, 4, 4) * 2

    compiled = pconv_ops.compile(Merged(), random(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"dims\[0\] is 3, the network takes 2"):
        compiled(random(3, 3, 4, 4))
    assert pconv_ops.compile(net, random(2, 3, 8, 8), check=False).native.inputs()[0][2] == 0


class Function(nn.Module):
    """A network that is one function of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "shape", "free"),
    [
        (lambda x: x.mean(-1) * x.shape[-1], (1, 4, 6), 0b1),
        (lambda x: x.mean((2, 3, 4)) * x.shape[2], (1, 2, 3, 4, 5), 0b1),
        (lambda x: nn.functional.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32)) * 2, (1, 3, 64, 64), 0b1),
        (lambda x: x[:, :, :80, :80] * 2, (1, 3, 70, 70), 0b1),
        (lambda x: x - x[:1], (1, 3, 8, 8), 0b1101),
        (lambda x: x * (2 if x.shape[2] < 32 else 3), (1, 3, 33, 33), 0b1),
        (lambda x: x * x.shape[0], (2, 3, 8, 8), 0b0),
        (lambda x: x.relu(), (1, 3, 8, 8), 0b1101),
    ],
)
def test_only_what_was_tried_is_free(function, shape, free):
    """Zeros as example: they would agree with anything."""
    net = Function(function)
    compiled = pconv_ops.compile(net, torch.zeros(shape))
    assert compiled.native.inputs()[0][2] == free
    if free == 0b1101:
        x = random(3, 3, 97, 101)
        assert deviation(compiled(x), net(x)) < 1e-5


def test_kinds_of_inputs():
    net, x = small_net("residual")
    compiled = pconv_ops.compile(net, x)
    want = compiled(x)
    assert isinstance(want, torch.Tensor) and isinstance(compiled(x.numpy()), np.ndarray)
    for same in (
        x.to(memory_format=torch.channels_last),
        x.flip(0).flip(0)[:],
        x.numpy()[::-1][::-1],
        np.asfortranarray(x),
    ):
        assert np.array_equal(np.asarray(compiled(same)), want.numpy())
    with pytest.raises(TypeError, match="float32"):
        compiled(x.double())
    with pytest.raises(TypeError, match=">f4"):
        compiled(x.numpy().astype(">f4"))
    with pytest.raises(TypeError, match="gradient"):
        compiled(x.clone().requires_grad_())
    with torch.no_grad():
        compiled(x.clone().requires_grad_())
    with pytest.raises(TypeError, match="expected a numpy array or torch tensor, got list"):
        compiled([1.0])
    for wrong in ((), (x, x)):
        with pytest.raises(TypeError, match="inputs: expected x; got"):
            compiled(*wrong)


def test_several_inputs_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, image, mask):
            return self.conv(image) * mask, image - mask

    net = Two().eval()
    image, mask = random(1, 3, 5, 5), random(1, 3, 5, 5, seed=2)
    compiled = pconv_ops.compile(net, {"mask": mask, "image": image})
    assert list(compiled.inputs) == ["image", "mask"]  # as the forward has them
    want = net(image, mask)
    for got in (compiled(image, mask), compiled(image, mask=mask), compiled(mask=mask, image=image)):
        assert isinstance(got, tuple) and distance(got, [y.detach() for y in want]) < 1e-5
    with pytest.raises(TypeError, match="expected image, mask; got 1 inputs and other"):
        compiled(image, other=mask)


def test_vectors_may_be_something_else_than_images():
    """Where other batches work with all inputs, they are free in all; else in images alone."""

    class Scaled(nn.Module):
        def forward(self, x, scale):
            return x * scale.reshape(1, -1, 1, 1)

    class Shifted(nn.Module):
        def forward(self, x, shift):
            return x + shift.reshape(-1, 1, 1, 1)

    x, of_channels = random(2, 4, 5, 5), random(4)
    compiled = pconv_ops.compile(Scaled(), (x, of_channels))
    assert [row[2] for row in compiled.native.inputs()] == [0b1101, 0]
    more = random(3, 4, 7, 6)
    assert torch.equal(compiled(more, of_channels), Scaled()(more, of_channels))
    compiled = pconv_ops.compile(Shifted(), (x, random(2)))
    assert [row[2] for row in compiled.native.inputs()] == [0b1101, 0b1]
    assert torch.equal(compiled(more, random(3)), Shifted()(more, random(3)))


def test_inputs_are_not_written_to():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.relu_() + 1

    x = random(1, 2, 3, 3)
    before = x.clone()
    compiled = pconv_ops.compile(InPlace(), x)
    assert torch.equal(x, before)
    compiled(x)
    assert torch.equal(x, before)


def test_model_stays_as_it_is():
    net, x = small_net("mobile")
    net.train()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    pconv_ops.compile(net, x)
    assert net.training and all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_inference_mode():
    net, _ = small_net("detector")
    with torch.inference_mode():
        x = random(2, 3, 16, 24) + 0  # made here
        assert distance(pconv_ops.compile(net, x)(x), net(x)) < 1e-4


def test_errors():
    x = random(1, 3, 8, 8)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        pconv_ops.compile("net", x)
    with pytest.raises(TypeError, match="example_inputs"):
        pconv_ops.compile(nn.ReLU(), None)
    with pytest.raises(pconv_ops.BackendUnavailable, match="'cuda'"):
        pconv_ops.compile(nn.ReLU(), x, backend="cuda")
    with pytest.raises(ValueError, match="weights: expected one of fp32, fp16"):
        pconv_ops.compile(nn.ReLU(), x, weights="int8")
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3), nn.LogSoftmax(1), nn.InstanceNorm2d(3))
    with pytest.raises(ValueError, match="group_norm") as caught:
        pconv_ops.compile(net, x)
    assert "instance_norm" in str(caught.value) and "'1'" in str(caught.value)  # all that is missing, and where
    huge = nn.Conv2d(3, 3, 1)
    nn.init.constant_(huge.weight, 1e6)
    with pytest.raises(ValueError, match="beyond fp16's largest number, 65504"):
        pconv_ops.compile(huge, x, weights="fp16")
    nn.init.constant_(huge.weight, 1e-8)
    nn.init.zeros_(huge.bias)
    with pytest.raises(ValueError, match="fp16 is too coarse"):
        pconv_ops.compile(huge, torch.zeros_like(x), weights="fp16")
    with pytest.raises(ValueError, match="model: 'stem.0': weight: kernels are at most 32x32"):
        net = nn.Sequential()
        net.add_module("stem", nn.Sequential(nn.Conv2d(3, 3, 33, padding=16)))
        pconv_ops.compile(net, x)
