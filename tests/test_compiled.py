"""CompiledModel: files, threads, measuring and tuning."""

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
from compiled_cases import small_net, zoo_net
from networks import deviation, random
from torch import nn

import pconv_ops
from pconv_ops import CompiledModel, prune_
from pconv_ops import compiled as compiled_module
from pconv_ops.zoo import NETS

pytestmark = pytest.mark.usefixtures("one_thread")


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
    for path in (tmp_path / "no" / "folder.pconv", tmp_path):
        with pytest.raises(OSError, match="cannot be written"):
            compiled.save(path)
    compiled.save(str(tmp_path / "söme name.pconv"))
    assert "CompiledModel(x [2, 3, 16, 12]" in repr(CompiledModel.load(tmp_path / "söme name.pconv"))
    (tmp_path / "net.pconv").write_bytes(b"old")
    os.chmod(tmp_path / "net.pconv", 0o640)
    compiled.save(tmp_path / "net.pconv")
    assert os.stat(tmp_path / "net.pconv").st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pconv", "söme name.pconv"]  # nothing beside them


def test_symbolic_links_stay(tmp_path):
    net, x = small_net("residual")
    compiled = pconv_ops.compile(net, x)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "net.pconv").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "net.pconv")
    compiled.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "net.pconv").read_bytes() == compiled.to_bytes()
    (tmp_path / "to nothing").symlink_to("real/new.pconv")
    compiled.save(tmp_path / "to nothing")
    assert (tmp_path / "to nothing").is_symlink() and (tmp_path / "real" / "new.pconv").exists()


def test_long_files_that_are_no_models_take_no_memory(tmp_path):
    """Sparse ones, longer than any memory."""
    with open(tmp_path / "zeros", "wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(pconv_ops.PConvFormatError, match="magic"):
        CompiledModel.load(tmp_path / "zeros")
    net, x = small_net("residual")
    (tmp_path / "net").write_bytes(pconv_ops.compile(net, x).to_bytes())
    os.truncate(tmp_path / "net", 1 << 43)
    with pytest.raises(pconv_ops.PConvFormatError, match=f"there are {1 << 43}"):
        CompiledModel.load(tmp_path / "net")


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
    for part in ("memory: activations", "needed at one time", "weights", "scratch", "by operator: conv", profile.isa):
        assert part in text
    profile.save(tmp_path / "p.json"), profile.save(tmp_path / "p.txt"), profile.plot(tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"\.png"):
        profile.plot(tmp_path / "p.jpg")
    with pytest.raises(ValueError, match="runs"):
        compiled.profile(runs=0)


def test_tune(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled_module, "MARGIN", 0.0)  # the fastest is chosen, the planned one too
    net, x = small_net("residual")
    compiled = pconv_ops.compile(net, x)
    want = compiled(x)
    found = compiled.tune(x, runs=2)
    layers = [step["node"] for step in compiled.native.plan().steps() if step["ukernel"] is not None]
    assert compiled.choices == found and [choice[0] for choice in found] == layers
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
    rows = {row["name"]: row for row in pconv_ops._native.ukernels() if row["isa"] == isa}
    for name in [*rows, "a_ukernel_of_another_build"]:
        choices = [(0, isa, name, (1, 20, 20))]
        model = pconv_ops._native.NativeModel.from_bytes(compiled.native.to_bytes(choices))
        assert model.choices() == choices
        taken = model.plan(None, None, model.choices()).steps()[0]["ukernel"]
        row = rows.get(name, {"body": "", "stride": 0})
        takes = row["body"] in ("conv3x3", "line3x3") and row["stride"] == 1  # this layer
        assert taken == name if takes else taken in rows


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
