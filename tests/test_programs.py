"""Networks without Python: pconv_run, C++ that `emit_cpp` wrote, the program of examples/cpp; on the machine and on an
emulated aarch64, from the same files."""

import gzip
import struct

import numpy as np
import pytest
import torch
from compiled_cases import LARGE, SMALL, small_net, zoo_net
from graph_networks import NETWORKS
from native_builds import AARCH64, BUILDS, NATIVE, ROOT, require
from networks import deviation, random
from torch import nn

import pconv_ops

pytestmark = pytest.mark.usefixtures("one_thread")


class Exact(nn.Module):
    """Small integers in, small integers between: every sum is exact in fp32, in any order."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.down, self.one = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(24, 8, 1)
        self.depthwise, self.head = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Linear(8, 5)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randint(-1, 2, parameter.shape, generator=generator).float()

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x) + x)
        y = nn.functional.interpolate(torch.relu(self.down(x)), scale_factor=2)
        x = nn.functional.max_pool2d(self.one(torch.cat([x, y], 1)).clamp(-6, 6), 2)
        x = self.depthwise(x) * 2 - x
        return self.head(x[:, :, :4, :4].mean((2, 3))), nn.functional.pixel_shuffle(x, 2)


@BUILDS
def test_exact_networks_have_the_same_bits_everywhere(build, tmp_path):
    program = require(build)
    net = Exact().eval()
    x = torch.randint(-3, 4, (2, 3, 16, 18), generator=torch.Generator().manual_seed(1)).float()
    compiled = pconv_ops.compile(net, x)
    compiled.save(tmp_path / "net.pconv")
    np.save(tmp_path / "x.npy", x.numpy())
    with torch.no_grad():
        want = net(x)
    files = [tmp_path / f"y{i}.npy" for i in range(2)]
    build.run(
        program, tmp_path / "net.pconv", "--input", tmp_path / "x.npy", *(w for f in files for w in ("--output", f))
    )
    for got, y, ours in zip(files, want, compiled(x), strict=True):
        assert np.count_nonzero(y) > 0.3 * y.numel()
        assert torch.equal(ours, y) and np.array_equal(np.load(got), y.numpy())


def check_file(build, compiled, net, x, tmp_path):
    """The same file, another program."""
    program = require(build)
    compiled.save(tmp_path / "net.pconv")
    np.save(tmp_path / "x.npy", x.numpy())
    want = compiled(x.numpy())
    want = want if isinstance(want, tuple) else (want,)
    files = [tmp_path / f"y{i}.npy" for i in range(len(want))]
    outputs = [word for file in files for word in ("--output", file)]
    build.run(program, tmp_path / "net.pconv", "--input", tmp_path / "x.npy", *outputs)
    with torch.no_grad():
        expected = [y for y in torch.utils._pytree.tree_leaves(net(x))]
    for file, ours, theirs in zip(files, want, expected, strict=True):
        got = np.load(file)
        assert deviation(torch.from_numpy(got), theirs) < 1e-4
        assert build is not NATIVE or np.array_equal(got, ours)


@BUILDS
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, build, tmp_path):
    net, x = small_net(name)
    check_file(build, pconv_ops.compile(net, x), net, x, tmp_path)


@BUILDS
@pytest.mark.parametrize("name", SMALL)
def test_small_zoo(name, build, tmp_path):
    net, x = zoo_net(name)
    check_file(build, pconv_ops.compile(net, x, check=False), net, x, tmp_path)


@pytest.mark.soak
@BUILDS
@pytest.mark.parametrize("name", LARGE)
def test_large_zoo(name, build, tmp_path):
    net, x = zoo_net(name)
    check_file(build, pconv_ops.compile(net, x, check=False), net, x, tmp_path)


# ---- pconv_run


def test_run_prints_what_is_asked_for(tmp_path):
    program = require(NATIVE)
    net, x = small_net("residual")
    pconv_ops.compile(net, x).save(tmp_path / "net.pconv")
    text = NATIVE.run(program, tmp_path / "net.pconv", "--repeat", 3, "--threads", 2, "--profile", "--top", 2)
    assert "3 runs on 2 threads" in text and "activations" in text and " conv " in text
    assert text.splitlines()[-1].count("[") == 2
    assert "--repeat" in NATIVE.run(program, "--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "which model?"),
        (("missing.pconv",), "missing.pconv: cannot be opened: No such file"),
        (("net.pconv", "--input"), "--input: needs a value"),
        (("net.pconv", "--wrong", "1"), "--wrong: is unknown"),
        (("net.pconv", "--threads", "0"), "--threads: got 0, need 1 to 1024"),
        (("net.pconv", "--isa", "mmx"), 'no instruction set "mmx"'),
        (("net.pconv", "--input", "net.pconv"), "net.pconv: is no .npy file"),
        (("net.pconv", "--input", "double.npy"), "double.npy: holds no little-endian float32"),
        (("net.pconv", "--input", "fortran.npy"), "fortran.npy: is not in C order"),
        (("net.pconv", "--input", "short.npy"), "short.npy: ends before its last number"),
        (("net.pconv", "--input", "huge.npy"), "huge.npy: is too large"),
        (("net.pconv", "--input", "shape.npy"), 'input "x": dims[1] is 4, the network takes 3'),
        (("double.npy",), "model file: "),
        (("net.pconv", "--input", "good.npy", "--input", "good.npy"), "--input: given 2 times, the network has 1"),
        (("net.pconv", "--input", "good.npy", "--output", "no/folder.npy"), "no/folder.npy: No such file"),
    ],
)
def test_run_refuses(arguments, message, tmp_path):
    import subprocess

    program = require(NATIVE)
    net, x = small_net("residual")
    pconv_ops.compile(net, x, check=False).save(tmp_path / "net.pconv")
    np.save(tmp_path / "good.npy", x.numpy())
    np.save(tmp_path / "double.npy", x.numpy().astype(float))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(x.numpy()))
    np.save(tmp_path / "shape.npy", random(2, 4, 16, 12).numpy())
    (tmp_path / "short.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-4])
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999999), }\n"
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    done = subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and message in done.stderr


# ---- C++


USUAL = (*NETWORKS, "resnet18_cifar", "mobilenet_v2_cifar")
OTHERS = [pytest.param(name, marks=pytest.mark.soak) for name in (*SMALL, *LARGE) if name not in USUAL]


@BUILDS
@pytest.mark.parametrize("name", [*USUAL, *OTHERS])
def test_emitted_cpp(name, build, tmp_path, tmp_path_factory):
    require(build)
    net, x = small_net(name) if name in NETWORKS else zoo_net(name)
    compiled = pconv_ops.compile(net, x, check=False)
    files = compiled.emit_cpp(tmp_path / "cpp")
    assert all(path.exists() for path in files)
    prefix = build.installed(tmp_path_factory.getbasetemp() / f"installed-{build.name}")
    folder = build.project(tmp_path / "cpp", prefix, tmp_path / "build")
    x.numpy().tofile(tmp_path / "x.bin")
    want = compiled(x.numpy())
    want = want if isinstance(want, tuple) else (want,)
    outputs = [tmp_path / f"y{i}.bin" for i in range(len(want))]
    build.run(folder / "network", tmp_path / "cpp" / "network.weights", tmp_path / "x.bin", *outputs)
    for path, y in zip(outputs, want, strict=True):
        got = np.fromfile(path, np.float32)
        if build is NATIVE:
            assert np.array_equal(got, y.ravel())
        else:
            assert deviation(torch.from_numpy(got), torch.from_numpy(y.ravel())) < 1e-4
    if build is NATIVE:
        import subprocess

        weights = tmp_path / "cpp" / "network.weights"
        for damaged in (weights.read_bytes()[:-1], weights.read_bytes()[:-5] + bytes(5)):
            (tmp_path / "bad.weights").write_bytes(damaged)
            command = [folder / "network", tmp_path / "bad.weights", tmp_path / "x.bin", *outputs]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 1 and "are not the weights of this network" in done.stderr


def test_emitted_cpp_holds_shared_layers_once(tmp_path):
    conv = nn.Conv2d(8, 8, 3, padding=1)
    x = random(1, 8, 6, 6)
    sizes = []
    for net in (nn.Sequential(conv), nn.Sequential(conv, conv, conv)):
        pconv_ops.compile(net, x).emit_cpp(tmp_path)
        sizes.append((tmp_path / "network.weights").stat().st_size)
    assert sizes[0] == sizes[1]


@BUILDS
def test_example(build, tmp_path, tmp_path_factory):
    """examples/cpp classifies images as Python does."""
    require(build)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    images = np.random.default_rng(0).integers(0, 256, (130, 28, 28), dtype=np.uint8)
    x = (torch.from_numpy(images).float()[:, None] / 255 - 0.2860) / 0.3530
    compiled = pconv_ops.compile(net.eval(), x[:2])
    compiled.save(tmp_path / "net.pconv")
    labels = compiled(x).argmax(1).numpy().astype(np.uint8)
    labels[::10] = (labels[::10] + 1) % 10
    (tmp_path / "images").write_bytes(struct.pack(">IIII", 0x803, *images.shape) + images.tobytes())
    (tmp_path / "labels").write_bytes(struct.pack(">II", 0x801, len(labels)) + labels.tobytes())
    prefix = build.installed(tmp_path_factory.getbasetemp() / f"installed-{build.name}")
    folder = build.project(ROOT / "examples" / "cpp", prefix, tmp_path / "build")
    text = build.run(folder / "classify", tmp_path / "net.pconv", tmp_path / "images", tmp_path / "labels")
    assert "130 images in" in text and "accuracy 90.00 %" in text
    if build is AARCH64:
        return
    (tmp_path / "packed").write_bytes(gzip.compress((tmp_path / "images").read_bytes()))
    with pytest.raises(AssertionError, match="is not the file that it should be"):
        build.run(folder / "classify", tmp_path / "net.pconv", tmp_path / "packed")
