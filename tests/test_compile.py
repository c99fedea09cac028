"""compile(): whole networks against torch, in files, in other processes, for other shapes; errors; tuning."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from graph_networks import NETWORKS
from networks import deviation, random
from torch import nn

import pconv_ops
from pconv_ops import CompiledModel, prune_
from pconv_ops import compiled as compiled_module
from pconv_ops.checking import output_deviation
from pconv_ops.zoo import NETS, rescale_

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = [name for name in NETS if name.endswith("_cifar")]
LARGE = [name for name in NETS if name not in SMALL]

# Loads a file without torch and runs it on inputs in .npy files.
RUNNER = """
import sys, numpy as np, pconv_ops
assert "torch" not in sys.modules
net = pconv_ops.CompiledModel.load(sys.argv[1])
y = net(*[np.load(path) for path in sys.argv[3:]])
np.savez(sys.argv[2], *(y if isinstance(y, tuple) else [y]))
"""


def zoo_net(name):
    torch.manual_seed(0)
    net, size = NETS[name].factory().eval(), NETS[name].size
    prune_(net, connectivity=8.8 if name.startswith("vgg") else 3.1, connectivity_1x1=3.1, block=1)
    rescale_(net, random(4, 3, size, size, seed=0))
    return net, random(1, 3, size, size)


def small_net(name):
    """A network of NETWORKS, pruned, whose activations keep their variance."""
    torch.manual_seed(0)
    factory, shape, _ = NETWORKS[name]
    net = factory().eval()
    prune_(net, connectivity=2.0)
    rescale_(net, random(8, *shape[1:], seed=0))
    return net, random(*shape)


def leaves(outputs):
    return outputs if isinstance(outputs, (list, tuple)) else torch.utils._pytree.tree_leaves(outputs)


def distance(got, want):
    return output_deviation(list(leaves(got)), list(leaves(want)))


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
    compiled = pconv_ops.compile(net, {"image": image, "mask": mask})
    assert list(compiled.inputs) == ["image", "mask"]
    want = net(image, mask)
    for got in (compiled(image, mask), compiled(image, mask=mask), compiled(mask=mask, image=image)):
        assert isinstance(got, tuple) and distance(got, [y.detach() for y in want]) < 1e-5
    with pytest.raises(TypeError, match="expected image, mask; got 1 inputs and other"):
        compiled(image, other=mask)


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


def test_threads_share_a_network():
    net, _ = small_net("residual")
    inputs = [random(2, 3, 16, 12, seed=i) for i in range(8)]
    compiled = pconv_ops.compile(net, inputs[0])
    want = [compiled(x) for x in inputs]
    wrong = []

    def work(i):
        for _ in range(50):
            if not torch.equal(compiled(inputs[i]), want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_do_not_depend_on_threads():
    net, x = small_net("detector")
    compiled = pconv_ops.compile(net, x)
    before = pconv_ops.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            pconv_ops.set_num_threads(threads)
            results.append(compiled(x))
    finally:
        pconv_ops.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


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


# ---- files


def test_fp16_weights_halve_the_file():
    net, x = zoo_net("resnet18_cifar")
    full, half = pconv_ops.compile(net, x), pconv_ops.compile(net, x, weights="fp16")
    assert 1.7 < len(full.to_bytes()) / len(half.to_bytes()) < 1.9  # channels stay 16 bits
    assert deviation(half(x), full(x)) < 5e-3
    assert half.native.data(0, 0)["is_fp16"]
    again = CompiledModel.from_bytes(half.to_bytes())
    assert torch.equal(again(x), half(x)) and again.to_bytes() == half.to_bytes()


@pytest.mark.parametrize(("weights", "least"), [("fp32", 6.0), ("fp16", 10.5)])
def test_size_of_vgg16(weights, least):
    """Its convolutions at 6.98x fewer weights, against dense fp32."""
    from pconv_ops.encode import Encoder
    from pconv_ops.graph import Graph
    from pconv_ops.network_report import network_report

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convs = nn.Sequential(*(m for m in NETS["vgg16"].factory().features if isinstance(m, nn.Conv2d)))
    prune_(convs, connectivity=3.1)
    graph = Graph()
    y = graph.add_input("x", (1, 3, 8, 8))
    for i, conv in enumerate(convs):
        data = {"weight": conv.weight.detach().numpy(), "bias": conv.bias.detach().numpy()}
        attributes = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
        y = graph.add("conv", str(i), [y], (1, conv.out_channels, 8, 8), attributes, data)
    graph.outputs = [y]
    model = Encoder(graph).encode(weights)
    report = network_report(model, len(model.to_bytes()))
    assert report.dense_layer_bytes / report.file_bytes >= least
    if weights == "fp32":
        assert report.index_bytes <= 0.15 * report.file_bytes


def test_file_may_change_after_loading(tmp_path):
    net, x = small_net("residual")
    path = tmp_path / "net.pconv"
    compiled = pconv_ops.compile(net, x)
    compiled.save(path)
    loaded = CompiledModel.load(path)
    path.write_bytes(b"")
    assert torch.equal(loaded(x), compiled(x))
    with open(path, "wb") as file:
        file.write(os.urandom(5000))
    assert torch.equal(loaded(random(5, *x.shape[1:])), compiled(random(5, *x.shape[1:])))
    assert loaded.to_bytes() == compiled.to_bytes()


def test_pickle_and_paths(tmp_path):
    net, x = small_net("residual")
    compiled = pconv_ops.compile(net, x)
    assert torch.equal(pickle.loads(pickle.dumps(compiled))(x), compiled(x))
    with pytest.raises(ValueError, match="a path holds no NUL"):
        compiled.save(f"{tmp_path / 'cut'}\0.pconv")
    with pytest.raises(ValueError, match="cannot be written"):
        compiled.save(tmp_path / "no" / "folder.pconv")
    compiled.save(str(tmp_path / "söme name.pconv"))
    assert "CompiledModel(x [2, 3, 16, 12]" in repr(CompiledModel.load(tmp_path / "söme name.pconv"))
    (tmp_path / "net.pconv").write_bytes(b"old")
    os.chmod(tmp_path / "net.pconv", 0o640)
    compiled.save(tmp_path / "net.pconv")
    assert os.stat(tmp_path / "net.pconv").st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pconv", "söme name.pconv"]  # nothing beside them


def test_killed_while_saving(tmp_path, soak):
    """Whenever that is, the file is the old one or the new one."""
    net, x = small_net("residual")
    one = pconv_ops.compile(net, x)
    with torch.no_grad():
        net.conv1.weight.mul_(2) if hasattr(net, "conv1") else next(net.parameters()).mul_(2)
    two = pconv_ops.compile(net, x)
    whole = {one.to_bytes(), two.to_bytes()}
    one.save(tmp_path / "one"), two.save(tmp_path / "two"), one.save(tmp_path / "net")
    saver = (
        "import sys, pconv_ops\n"
        "nets = [pconv_ops.CompiledModel.load(p) for p in sys.argv[1:3]]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for net in nets: net.save(sys.argv[3])\n"
    )
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(100 if soak else 8):
        command = [sys.executable, "-c", saver, *(str(tmp_path / name) for name in ("one", "two", "net"))]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        content = (tmp_path / "net").read_bytes()
        assert content in whole
        seen.add(content)
    assert seen == whole or not soak


# ---- measuring


def test_profile(tmp_path):
    net, x = small_net("detector")
    compiled = pconv_ops.compile(net, x)
    profile = compiled.profile(x, runs=3)
    steps = compiled.native.plan().steps()
    assert [(row.name, row.op) for row in profile.layers] == [(step["name"], step["op"]) for step in steps]
    assert all(row.ms > 0 for row in profile.layers) and profile.ms > 0
    assert all((row.ukernel != "") == (row.op == "conv") == (row.macs > 0) for row in profile.layers)
    assert abs(sum(profile.shares().values()) - 1) < 1e-9
    text = str(profile)
    for part in ("memory: activations", "needed at one time", "weights", "scratch", "conv3x3", profile.isa):
        assert part in text or part == "conv3x3"
    profile.save(tmp_path / "p.json"), profile.save(tmp_path / "p.txt"), profile.plot(tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"\.png"):
        profile.plot(tmp_path / "p.jpg")
    with pytest.raises(ValueError, match="runs"):
        compiled.profile(runs=0)


def test_tune(tmp_path):
    net, x = small_net("residual")
    compiled = pconv_ops.compile(net, x)
    want = compiled(x)
    found = compiled.tune(x, runs=2)
    assert compiled.choices == found
    ukernels = {row["name"] for row in pconv_ops._native.ukernels()}
    assert all(isa == pconv_ops._native.current_isa() and name in ukernels for _, isa, name, _ in found)
    assert deviation(compiled(x), want) < 1e-5
    compiled.save(tmp_path / "net.pconv")
    assert CompiledModel.load(tmp_path / "net.pconv").choices == found


def test_sessions_of_before_are_not_used_again():
    net, x = small_net("residual")
    compiled = pconv_ops.compile(net, x)
    shapes = (tuple(x.shape),)
    sessions, session = compiled._take(shapes)
    compiled.tune(x, runs=1)  # while a call is under way
    compiled._give_back(sessions, session)
    assert compiled._take(shapes)[1] is not session


def test_sessions_are_few():
    net, x = small_net("residual")
    compiled = pconv_ops.compile(net, x)
    taken = [compiled._take((tuple(x.shape),)) for _ in range(9)]
    for sessions, session in taken:
        compiled._give_back(sessions, session)
    assert len(compiled._sessions[(tuple(x.shape),)]) == compiled_module._MAX_IDLE
    for batch in range(1, 30):  # a shape that is used again and again stays
        compiled(random(batch, *x.shape[1:]))
        compiled(x)
    assert (tuple(x.shape),) in compiled._sessions and len(compiled._sessions) == compiled_module._MAX_SHAPES


def test_negative_views():
    x = torch.complex(random(1, 3, 4, 4), random(1, 3, 4, 4, seed=2)).conj().imag
    assert x.is_neg() and torch.equal(pconv_ops.compile(nn.Hardtanh(-5, 5), random(1, 3, 4, 4))(x), x.clamp(-5, 5))


def test_choices_are_taken_and_saved():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)).eval()
    compiled = pconv_ops.compile(net, random(1, 8, 20, 20))
    isa = pconv_ops._native.current_isa()
    names = [row["name"] for row in pconv_ops._native.ukernels() if row["isa"] == isa]
    planned = set()
    for name in [*names, "a_ukernel_of_another_build"]:
        choices = [(0, isa, name, (1, 20, 20))]
        model = pconv_ops._native.NativeModel.from_bytes(compiled.native.to_bytes(choices))
        assert model.choices() == choices
        step = model.plan(None, None, model.choices()).steps()[0]
        planned.add(step["ukernel"])
    assert len(planned) > 1


def pyramid(seed, n_nodes):
    """Chains, branches and long-lived values of many sizes."""
    rng = np.random.default_rng(seed)
    builder = pconv_ops._native.ModelBuilder()
    values, sizes = [builder.add_input("x", (1, 16, 8, 8))], [8]
    for i in range(n_nodes):
        source = int(rng.integers(max(0, len(values) - 4), len(values)))
        if sizes[source] > 32 or (sizes[source] > 1 and rng.random() < 0.5):
            operator = ("avg_pool", f"n{i}", [values[source]], [2, 2, 2, 2, 0, 0, 1, 1, 0], [])
            sizes.append(-(-sizes[source] // 2))
        else:
            operator = ("upsample", f"n{i}", [values[source]], [0, 0, 0, 0], [2.0, 2.0])
            sizes.append(sizes[source] * 2)
        values.append(builder.add_node(*operator, {}))
    for i in range(3):
        builder.add_output(f"y{i}", values[-1 - i])
    return builder.finish(False)


@pytest.mark.parametrize("n_nodes", [25, 60, 150])
def test_arenas_are_hardly_larger_than_what_lives(n_nodes, soak):
    for seed in range(300 if soak else 30):
        info = pyramid(seed, n_nodes).plan().info
        assert info["live_bytes"] <= info["arena_bytes"] <= 1.15 * info["live_bytes"]
