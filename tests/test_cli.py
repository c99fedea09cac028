"""The pconv command: exit statuses, one-line errors, and the files it writes."""

import copy
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from cli_run import run, save, small_net
from torch import nn

import pconv_ops
from pconv_ops import benchmark, cli
from pconv_ops.prune import prune_
from pconv_ops.zoo import NETS

# ---- usage


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "frobnicate",
        "bench",
        "bench --net vgg17",
        "bench --net vgg16 --layer 8,8,8,8",
        "bench --net vgg16_cifar --kernel 5",
        "bench --layer 8,8,8",
        "bench --layer 8,8,8,x",
        "bench --layer 8,8,8,0",
        "bench --layer 8,8,8,8 --groups 3",
        "bench --layer 8,8,8,8 --connectivity 0.5",
        "bench --layer 8,8,8,8 --connectivity nan",
        "bench --layer 8,8,8,8 --patterns scp5",
        "bench --layer 8,8,8,8 --threads 0",
        "bench --layer 8,8,8,8 --threads 2000",
        "bench --layer 8,8,8,8 --block 65",
        "bench --layer 8,8,8,8 --block 0",
        "bench --net vgg16_cifar --block 4",
        "bench --net resnet18_cifar --block 4",
        "bench --layer 8,8,8,8 --sweep time",
        "bench --sweep density --kernel 5",
        "bench --sweep density --block 4",
        "bench --layer 8,8,8,8 --sweep density --block 65",
        "bench --layer 8,8,8,8 --sweep density --plot no/such/folder/x.png",
        "bench --layer 8,8,8,8 --plot x.png",
        "bench --net vgg16_cifar --sweep density --kernel 5",
        "bench --layer 8,8,8,8 --isa mmx",
        "bench --layer 8,8,8,8 --json no/such/folder/x.json",
        "bench --layer 8,8,8,8 --json .",
        "bench --layer 9999999999,64,28,28",
        "inspect no_such_file",
        "prune no_such_file",
        "inspect .",
        "inspect vgg16_cifar --block 4",
        "prune .",
        "demo --image no_such_file",
        "demo --threads x",
        "info --frobnicate",
    ],
)
def test_wrong_usage_is_status_2_and_one_line(capsys, quick, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments.split())
    assert status == 2
    assert out == "" and err.startswith("pconv") and "error: " in err
    assert err.count("\n") == 1 and err.endswith("\n")
    assert not list(tmp_path.rglob("*.png"))


def test_help_is_status_0(capsys):
    for command in ("", "demo", "bench", "inspect", "info", "prune"):
        status, out, err = run(capsys, *command.split(), "--help")
        assert status == 0 and out.startswith("usage: pconv") and err == ""


def test_version_is_that_of_the_library(capsys):
    assert run(capsys, "--version") == (0, f"pconv_ops {pconv_ops.__version__}\n", "")


def test_unknown_isa_is_blamed_on_the_option(capsys, quick):
    status, _, err = run(capsys, "bench", "--layer", "8,8,8,8", "--isa", "mmx")
    assert status == 2 and "isa: got 'mmx', this build runs here: " in err and "PCONV_FORCE_ISA" not in err


def test_choices_are_those_of_the_library():
    assert cli.NETS == tuple(NETS)
    assert pconv_ops.pack(np.ones((1, 1, 3, 3), np.float32)).to_bytes().startswith(cli.PACKED_MAGIC)


def test_missing_extra_says_what_to_install(capsys, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(cli, "info", lambda: missing("torch.nn"))
    status, _, err = run(capsys, "info")
    assert status == 2 and "pip install 'pconv_ops[torch]'" in err
    monkeypatch.setattr(cli, "info", lambda: missing("frobnicator"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["info"])


def test_own_faults_are_not_hidden(monkeypatch):
    def fault():
        raise RuntimeError("broken")

    monkeypatch.setattr(cli, "info", fault)
    with pytest.raises(RuntimeError, match="broken"):
        cli.main(["info"])


def test_module_runs_as_a_program(tmp_path):
    def program(*arguments):
        command = [sys.executable, "-m", "pconv_ops", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    done = program("info", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["version"] == pconv_ops.__version__
    bad = program("inspect", "no_such_file")
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


def test_reader_that_leaves_early_gets_no_traceback():
    command = f"{sys.executable} -m pconv_ops info | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""


@pytest.mark.parametrize(("arguments", "status"), [("info", 0), ("inspect {}", 0), ("bench --layer 8,8,8,8", 2)])
def test_without_torch(tmp_path, arguments, status):
    path = tmp_path / "layer.pconv"
    path.write_bytes(pconv_ops.pack(np.ones((4, 4, 3, 3), np.float32)).to_bytes())
    program = "import sys; sys.modules['torch'] = None; from pconv_ops.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *arguments.format(path).split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    assert done.stderr == ("" if status == 0 else "pconv bench: error: needs torch: pip install 'pconv_ops[torch]'\n")


# ---- info


def test_info_tells_what_is_built_in(capsys):
    status, out, _ = run(capsys, "info", "--json")
    facts = json.loads(out)
    assert status == 0
    assert facts["isa"] in [row["name"] for row in facts["isas"] if row["supported"]]
    assert "scalar" in [row["name"] for row in facts["isas"]]
    assert facts["libraries"]["torch"].startswith(torch.__version__.split("+")[0])
    status, out, _ = run(capsys, "info")
    assert status == 0 and f"{facts['isa']}: in use" in out
    assert all(name in out for name in facts["ukernels"])


# ---- inspect


def test_inspect_packed_bytes(capsys, tmp_path):
    conv = nn.Conv2d(16, 8, 3)
    prune_(nn.Sequential(conv), connectivity=2)
    packed = pconv_ops.pack(conv.weight, conv.bias)
    path = tmp_path / "layer.pconv"
    path.write_bytes(packed.to_bytes())
    status, out, _ = run(capsys, "inspect", path, "--json")
    (layer,) = json.loads(out)["layers"]
    assert status == 0 and (layer["name"], layer["nnz"], layer["connections"]) == ("layer.pconv", 256, 64)
    assert layer["bytes_packed"] == path.stat().st_size and layer["bytes_dense"] == 4 * (8 * 16 * 9 + 8)
    path.write_bytes(packed.to_bytes()[:-8])
    status, out, err = run(capsys, "inspect", path)
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_inspect_map(capsys, tmp_path):
    weight = np.zeros((2, 4, 3, 3), np.float32)
    for channel, pattern in enumerate(pconv_ops.SCP4.masks):
        weight[0, channel] = pattern  # four runs of one kernel
    path = tmp_path / "layer.pconv"
    path.write_bytes(pconv_ops.pack(weight, padding=1).to_bytes())
    status, out, _ = run(capsys, "inspect", path, "--map", "4,4", "--json")
    (layer,) = json.loads(out)["layers"]
    assert status == 0 and layer["n_runs_after"] == 4
    # Merged or not, by the instruction set's cost model; every merged kernel runs the five taps of the cross.
    assert (layer["n_runs_planned"], layer["added_taps"]) in [(4, 0), (1, 4), (2, 3), (3, 2)]
    status, out, _ = run(capsys, "inspect", path, "--map", "4,4")
    assert status == 0 and layer["ukernel"] in out and "runs-planned" in out
    assert run(capsys, "inspect", path, "--map", "4")[0] == 2


def test_inspect_state_dict(capsys, tmp_path):
    net = small_net()
    prune_(net, connectivity=2)
    status, out, _ = run(capsys, "inspect", save(tmp_path / "net.pth", net.state_dict()), "--json")
    layers = {layer["name"]: layer for layer in json.loads(out)["layers"]}
    assert status == 0 and list(layers) == ["0", "1", "3", "4"]
    assert layers["3"]["kind"] == "depthwise3x3" and layers["1"]["connections"] == 256
    counts = np.unique((net[1].weight.detach().reshape(-1, 9) != 0).numpy(), axis=0, return_counts=True)[1]
    assert sorted(layers["1"]["patterns"].values()) == sorted(counts[1:].tolist())  # the first is the empty kernel
    status, out, _ = run(capsys, "inspect", tmp_path / "net.pth")
    assert status == 0 and "runs-after" in out and "3x3 pattern" in out


def test_inspect_net(capsys):
    status, out, _ = run(capsys, "inspect", "vgg16_cifar", "--connectivity", 8.8, "--patterns", "random8", "--json")
    layers = json.loads(out)["layers"]
    assert status == 0 and len(layers) == 13 and layers[0]["density"] == 1.0
    for layer in layers[1:]:
        assert layer["connections"] == round(layer["connections_total"] / 8.8)
        assert layer["nnz"] == 4 * layer["connections"] and len(layer["patterns"]) == 8
        assert layer["bytes_packed"] < layer["bytes_csr"] < layer["bytes_dense"]
        assert layer["n_runs_after"] <= layer["n_runs_before"]


# ---- demo


@pytest.fixture
def small_demo(quick, monkeypatch):
    from pconv_ops import demo

    monkeypatch.setattr(demo, "NET", "vgg16_cifar")
    return demo


def test_demo_compares_times_and_draws(capsys, small_demo, tmp_path):
    out_folder = tmp_path / "a" / "b"
    status, out, err = run(capsys, "demo", "--threads", 1, "--out", out_folder)
    assert status == 0, err
    assert (out_folder / "demo.png").read_bytes()[:4] == b"\x89PNG"
    assert "outputs equal" in out and "grace_hopper.jpg" in out
    assert re.search(r"\d+ of 13 convolutions converted", out)  # which are faster, the machine decides
    pruned_ms, all_ms = (
        float(re.search(rf"^{words}: ([\d.]+) ms", out, re.MULTILINE)[1])
        for words in ("12 pruned convolutions, as in the picture", "13 convolutions, the dense one included .*")
    )
    assert pruned_ms <= all_ms  # the one is part of the other
    deviations = re.findall(r"^features\.\d+ .* (\d\.\de[-+]\d+)$|logits is (\d\.\de[-+]\d+),", out, re.MULTILINE)
    assert len(deviations) == 14 and all(float(one or other) <= 1e-4 for one, other in deviations)


def test_demo_refuses_a_wrong_result(small_demo, monkeypatch, tmp_path):
    right = small_demo.convert

    def wrong(model, example):
        """1 % of the weights of one layer in the middle are lost."""
        model = copy.deepcopy(model)
        with torch.no_grad():
            weight = model.features[17].weight.view(-1)
            kept = weight.nonzero().view(-1)
            weight[kept[::100]] = 0
        return right(model, example)

    monkeypatch.setattr(small_demo, "convert", wrong)
    with pytest.raises(benchmark.WrongResult, match="features.17"):
        small_demo.run(None, 1, tmp_path, benchmark.no_track)


def test_demo_refuses_an_image_that_proves_nothing(capsys, small_demo, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 50), (120, 130, 140)).save(tmp_path / "flat.png")
    status, _, err = run(capsys, "demo", "--image", tmp_path / "flat.png", "--out", tmp_path / "out")
    assert status == 2 and "image" in err
    (tmp_path / "no.png").write_bytes(b"no image")
    status, _, err = run(capsys, "demo", "--image", tmp_path / "no.png", "--out", tmp_path / "out")
    assert status == 2 and err.count("\n") == 1


def test_load_image_crops_the_centre_and_normalises(tmp_path):
    from PIL import Image

    from pconv_ops.demo import DEVIATION, MEAN, load_image

    wide = np.zeros((80, 160, 3), np.uint8)
    wide[:, 40:120] = (255, 0, 51)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    x = load_image(tmp_path / "wide.png", 64)
    assert x.shape == (1, 3, 64, 64) and x.dtype == torch.float32 and x.is_contiguous()
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    assert torch.allclose(x[0, :, 32, 32], expected) and torch.allclose(x[0, :, 0, 4], expected)
