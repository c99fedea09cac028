"""The host of the OpenCL backend on PoCL: devices, memory, errors, `pconv bench`, layers by convert()."""

import json
import sys

import numpy as np
import pytest
import torch
from cli_run import run
from compiled_cases import distance, small_net
from networks import X, random
from pocl import DEVICE, on_device, on_pocl  # noqa: F401
from torch import nn

import pconv_ops
from pconv_ops import BackendUnavailable, opencl, opencl_device
from pconv_ops.opencl_convert import OpenCLConv2d
from pconv_ops.opencl_ops import Target
from pconv_ops.opencl_session import Region, Session, place_regions, share_buffers

# ---- devices and errors


def test_devices(monkeypatch):
    found = opencl.find_device()
    assert found.platform == DEVICE and found.kind == "cpu" and found.units >= 1
    assert opencl.find_device("portable").title == found.title
    with pytest.raises(BackendUnavailable, match=r"no device 'adreno'; there are: .*Portable"):
        opencl.find_device("adreno")
    with pytest.raises(ValueError, match="which is for backend='opencl'"):
        pconv_ops.compile(nn.ReLU(), X, device="portable")
    monkeypatch.setenv(opencl_device.ENVIRONMENT, "nothing like it")
    with pytest.raises(BackendUnavailable, match="no device 'nothing like it'"):
        pconv_ops.compile(nn.ReLU(), X, backend="opencl")


def test_a_build_that_fails_leaves_the_model_usable(monkeypatch):
    model = on_device(nn.Tanh(), X)
    text = opencl_device.program_text
    monkeypatch.setattr(opencl_device, "program_text", lambda source, defines: text(source, defines) + "\n#error no\n")
    with pytest.raises(opencl.OpenCLError, match=r"build elementwise\.cl: .*"):
        model(X)
    monkeypatch.undo()
    monkeypatch.setenv(opencl_device.ENVIRONMENT, DEVICE)
    assert distance(model(X), torch.tanh(X)) < 1e-6


def test_after_a_fork_there_is_an_error():
    import multiprocessing

    model = on_device(nn.Tanh(), X)
    model(X)

    def child(pipe):
        try:
            model(X)
        except opencl.OpenCLError as error:
            pipe.send(str(error))

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(there,))
    process.start()
    assert here.poll(60) and "before this process was forked" in here.recv()
    process.join(60)


def test_without_pyopencl(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    with pytest.raises(BackendUnavailable, match="needs pyopencl"):
        pconv_ops.compile(nn.ReLU(), X, backend="opencl")


def test_sources_compile_alone():
    """Every file of cl/ has defaults for what the host sets."""
    from importlib.resources import files

    device = opencl_device.open_device()
    names = sorted(path.name for path in (files("pconv_ops") / "cl").iterdir() if path.name.endswith(".cl"))
    assert len(names) >= 10
    for name in names:
        device.cl.Program(device.context, opencl_device.program_text(name, {})).build()


# ---- memory


def test_regions_that_live_together_do_not_overlap():
    rng = np.random.default_rng(0)
    for _ in range(50):
        regions = []
        for _ in range(30):
            first = int(rng.integers(0, 20))
            regions.append(Region(int(rng.integers(1, 5000)), first, first + int(rng.integers(0, 6))))
        total = place_regions(regions, 128)
        for i, a in enumerate(regions):
            assert a.offset % 128 == 0 and a.offset + a.n_bytes <= total
            for b in regions[:i]:
                together = a.first <= b.last and b.first <= a.last
                assert not together or a.offset + a.n_bytes <= b.offset or b.offset + b.n_bytes <= a.offset


def test_buffers_are_shared_one_after_the_other():
    a, b, c, d = Region(8, 0, 1), Region(16, 2, 3), Region(4, 1, 2), Region(4, 4, 4)
    assert share_buffers([a, b, c, d]) == [[b, a, d], [c]]


def test_what_is_too_large_is_refused_before_memory_is_taken():
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2))
    model = on_device(net, random(1, 1, 8, 8))
    compiled = pconv_ops.compile(net, random(1, 1, 8, 8))
    target = Target(8, by_row=True)
    with pytest.raises(ValueError, match="allowed are 2147483647 a tensor"):
        Session(compiled.native, model.device, [(3, 1, 30000, 30000)], target, {})
    with pytest.raises(MemoryError, match="the device allows"):
        Session(compiled.native, model.device, [(1, 1, 40000, 40000)], target, {})


# ---- pconv bench --backend opencl


def test_bench_on_a_device(capsys, tmp_path):
    path = tmp_path / "rows.json"
    arguments = ("--layer", "16,24,10,12", "--backend", "opencl", "--device", "portable", "--connectivity", 2)
    status, out, _ = run(capsys, "bench", *arguments, "--json", path)
    layer, whole = json.loads(path.read_text())
    assert status == 0 and "times faster" in out and "Portable" in out
    assert layer["out"] == [1, 24, 10, 12] and layer["density"] == pytest.approx(4 / 9 / 2)
    assert whole["ms"] > 0 and whole["peak_gflops"] > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layer", "8,8,5,5", "--device", "x"), "--device: only with --backend opencl"),
        (("--layer", "8,8,5,5", "--backend", "opencl", "--threads", "2"), "--threads: not with --backend opencl"),
        (("--layer", "8,8,5,5", "--backend", "opencl", "--device", "adreno"), "no device 'adreno'"),
    ],
)
def test_bench_refuses(arguments, message, capsys):
    status, _, error = run(capsys, "bench", *arguments)
    assert status == 2 and message in error


# ---- convert


def test_convert_puts_layers_on_the_device():
    net, x = small_net("detector")
    fast = pconv_ops.convert(net, x, backend="opencl", device="portable")
    with torch.no_grad():
        assert distance(fast(x), net(x)) < 1e-4
        other = random(3, 3, 24, 32)
        assert distance(fast(other), net(other)) < 1e-4
    assert isinstance(fast.stem[0], OpenCLConv2d) and not isinstance(net.stem[0], OpenCLConv2d)
    row = fast.report.layers[0]
    assert row.chosen == "pconv" and row.reason == f"{4 * x.numel()} bytes up, {4 * 2 * 8 * 8 * 12} down a call"
    assert "sends its input to the device" in fast.report.text() and fast.report.deviation < 1e-4
    alone = pconv_ops.convert(nn.Conv2d(3, 4, 3), backend="opencl")
    assert alone(random(3, 9, 9)).shape == (4, 7, 7) and isinstance(alone, OpenCLConv2d)
    transposed = pconv_ops.convert(nn.Sequential(nn.ConvTranspose2d(3, 4, 3)), random(1, 3, 5, 5), backend="opencl")
    assert transposed.report.layers[0].chosen == "dense"
    with pytest.raises(ValueError, match="which is for backend='opencl'"):
        pconv_ops.convert(net, x, device="portable")
    with pytest.raises(ValueError, match="are for backend='cpu'"):
        pconv_ops.convert(net, x, backend="opencl", fallback="never")
    with pytest.raises(TypeError, match="no_grad"):
        alone(random(1, 3, 9, 9).requires_grad_())
