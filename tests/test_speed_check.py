"""bench/check.py: medians over runs, bars, which rows a line is about. Rows are made up; no time is checked."""

import json
import re
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from pconv_ops import benchmark
from pconv_ops.zoo import NETS, Net

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import check
from checks import auto, kinds, neon, nets, opencl, record, vgg
from opencl import SHAPES, Row

SETUPS = {**vgg.SETUPS, **nets.SETUPS, **kinds.SETUPS}
FINE = {"fraction": 0.9, "speedup": 20.0, "ms": 1.0, "density": 1.0}  # passes every bar
# name, kind, kernel, stride, groups, block, input channels, output channels, map
LAYERS = {
    "vgg": [
        ("features.0", "dense", 3, 1, 1, 1, 3, 64, 224),
        ("features.2", "conv3x3", 3, 1, 1, 1, 64, 64, 224),
        ("features.10", "conv3x3", 3, 1, 1, 1, 256, 256, 56),
    ],
    "resnet": [
        ("conv1", "dense", 7, 2, 1, 1, 3, 64, 224),
        ("layer1.0.conv1", "conv1x1", 1, 1, 1, 4, 64, 64, 56),
        ("layer1.0.conv2", "conv3x3", 3, 1, 1, 1, 64, 64, 56),
        ("layer2.0.conv2", "conv3x3", 3, 2, 1, 1, 128, 128, 56),
        ("layer2.0.downsample.0", "conv1x1", 1, 2, 1, 4, 256, 512, 56),
        ("layer3.1.conv1", "conv1x1", 1, 1, 1, 4, 1024, 256, 14),
        ("layer3.2.conv1", "conv1x1", 1, 1, 1, 4, 1024, 256, 14),
        ("layer4.1.conv1", "conv1x1", 1, 1, 1, 4, 2048, 512, 7),
        ("grouped", "grouped3x3", 3, 2, 4, 1, 128, 128, 56),
    ],
    "alone": [("layer", "conv1x1", 1, 1, 1, 1, 64, 256, 56)],
}
RESNET_LINES = 4  # distinct shapes above that have a bar
LINES = {"speed": 8, "nets": 12, "kinds": RESNET_LINES + 5, "calls": 1, "auto": len(NETS), "neon": 8 + 4}
LINES["opencl"] = 2 * len(SHAPES) + 1


def bench_rows(setup, numbers):
    """Rows of a `pconv bench` in a setup; `numbers` stand in all of them, {layer: numbers} in one."""

    def row(name, scope):
        n = FINE | {k: v for k, v in numbers.items() if k in FINE} | numbers.get(name or scope, {})
        return {"scope": scope, "layer": name, "kind": None, "isa": "avx512", "ms": n["ms"]} | {
            "dense_ms": n["speedup"],
            "speedup": n["speedup"],
            "peak_fraction": n["fraction"],
            "density": n["density"],
        }

    table = LAYERS["vgg" if setup in vgg.SETUPS else "alone" if setup in kinds.DENSE_SETUPS else "resnet"]
    keys = ("kind", "kernel", "stride", "groups", "block", "ic", "oc", "h", "w")
    layers = [row(name, "layer") | dict(zip(keys, (*sizes, sizes[-1]), strict=True)) for name, *sizes in table]
    scopes = ("conv_sum", "whole_net", "compiled_net")
    return layers if setup in kinds.DENSE_SETUPS else [*layers, *(row(None, scope) for scope in scopes)]


@pytest.fixture
def checked(monkeypatch, capsys):
    """Runs check.py; returns (status, lines of its output). runs: of one setup, or numbers of another part."""

    def run(setup=None, runs=({}, {}, {}), arguments=()):
        names = {arguments: name for name, arguments in SETUPS.items()}
        left = {name: iter(runs if name == setup else [{}] * 3) for name in SETUPS}

        def bench_once(arguments):
            name = names[arguments]
            return bench_rows(name, ({"ms": 0.5} if name == "two threads" else {}) | next(left[name]))

        def instructions(layer):
            if setup == "neon" and layer == "512,512,14,14":
                return runs[0]
            return 9.9 if layer.endswith((",8,8", ",7,7")) else 1.6

        ratios = {"resnet50": runs} if setup == "auto" else {}
        monkeypatch.setattr(record, "bench_once", bench_once)
        monkeypatch.setattr(neon, "instructions_per_fmla", instructions)
        monkeypatch.setattr(benchmark, "call_overhead_us", lambda: {"conv2d": runs[0] if setup == "calls" else 9.0})
        monkeypatch.setattr(
            auto,
            "measure",
            lambda net: [{"level": str(r), "ratio": r, "ms": r, "dense_ms": 1.0} for r in ratios.get(net, [1.0])],
        )
        four, twelve = runs if setup == "opencl" else (1.0, 1.0)
        rows = [Row(shape, dense=3.5, four=four, twelve=twelve, gflops=50) for shape in SHAPES]
        monkeypatch.setattr(opencl, "open_device", lambda name: SimpleNamespace(info=SimpleNamespace(title="a device")))
        monkeypatch.setattr(opencl, "measure_peak", lambda device: 100)
        monkeypatch.setattr(opencl, "measure", lambda name, rounds: rows)
        monkeypatch.setattr(sys, "argv", ["check.py", "--runs", "3", *map(str, arguments)])
        status = check.main()
        return status, capsys.readouterr().out.splitlines()

    return run


def verdicts(lines, word):
    return [re.split(r"  | \(", line[6:])[0] for line in lines if line.startswith(f"{word}  ")]


@pytest.mark.parametrize(
    ("setup", "runs", "failed"),
    [
        (None, [{}, {}, {}], []),
        ("scp4", [{"fraction": 0.1}, {}, {}], []),
        ("scp4", [{"fraction": 0.69}, {}, {"fraction": 0.65}], ["scp4 features.2"]),
        ("scp4", [{"fraction": 0.61}, {"fraction": 0.61}, {}], ["scp4 features.2", "scp4 features.10"]),
        ("scp4", [{"speedup": 5.4}, {"speedup": 5.4}, {}], ["scp4 conv_sum"]),
        ("cifar", [{"speedup": 9.9}, {"speedup": 9.9}, {}], ["cifar conv_sum"]),
        ("avx2", [{"fraction": 0.49}, {"fraction": 0.49}, {}], ["avx2 features.2", "avx2 features.10"]),
        ("two threads", [{"ms": 0.6}, {"ms": 0.6}, {"ms": 0.5}], ["two threads against one"]),
        ("random12", [{"ms": 1.06}, {"ms": 1.06}, {"ms": 1.0}], ["random12 against scp4, time"]),
        ("calls", [10.5], ["call overhead of conv2d"]),
        ("neon", [1.71], ["neon 512x512x14x14, insns/FMLA"]),
        ("resnet18", [{"whole_net": {"speedup": 3.9}}] * 2 + [{}], ["whole resnet18"]),
        ("resnet18", [{"conv_sum": {"speedup": 0.1}}] * 3, []),
        ("mobilenet_v2", [{"speedup": 2.9}] * 2 + [{}], ["whole mobilenet_v2", "compiled mobilenet_v2"]),
        ("vgg16_cifar", [{"speedup": 13.9}] * 2 + [{}], ["compiled vgg16_cifar"]),
        ("resnet50", [{"compiled_net": {"ms": 1.1}}] * 2 + [{}], ["compiled against converted resnet50"]),
        ("dense 1x1 at 28", [{"fraction": 0.49}] * 2 + [{}], ["dense 1x1 64->256 at 56x56"]),
        ("auto", [1.02, 1.031, 0.5], ["auto resnet50, 1.031"]),
        ("opencl", [1.0, 1.11], ["opencl 12 patterns against 4"]),
        ("opencl", [1.2, 1.2], [f"opencl 4 patterns {'x'.join(map(str, shape))}" for shape in SHAPES]),
    ],
)
def test_check_takes_medians_and_fails_below_a_bar(checked, setup, runs, failed):
    status, lines = checked(setup, runs)
    assert status == (1 if failed else 0)
    assert verdicts(lines, "FAIL") == failed and len(verdicts(lines, "PASS")) == sum(LINES.values()) - len(failed)
    assert lines[-1].startswith("FAIL:" if failed else "PASS:")


def test_kinds_are_judged_by_shape_over_nets_and_runs(checked):
    slow = {name: {"fraction": 0.4} for name, *_ in LAYERS["resnet"]}
    status, lines = checked("resnet50", [slow] * 3, ["--only", "kinds"])
    assert status == 0  # half of the values: 0.65 in the middle
    slow["layer3.1.conv1"]["fraction"] = slow["layer3.2.conv1"]["fraction"] = 0.1
    status, lines = checked("resnet50", [slow] * 3, ["--only", "kinds"])
    assert verdicts(lines, "FAIL") == ["pruned 1x1 1024->256 at 14x14"]
    assert verdicts(lines, "PASS")[: RESNET_LINES - 1] == [
        "pruned 3x3/2 128->128 at 56x56",
        "pruned 1x1 64->64 at 56x56",
        "pruned 1x1/2 256->512 at 56x56",
    ]


def test_a_dense_layer_that_lost_weights_is_an_error(checked):
    with pytest.raises(RuntimeError, match="dense 1x1 at 7"):
        checked("dense 1x1 at 7", [{"density": 0.5}] * 3, ["--only", "kinds"])


@pytest.mark.parametrize(("part", "setups"), [("nets", nets.SETUPS), ("kinds", kinds.SETUPS), ("calls", {})])
def test_rows_and_verdicts_are_written(checked, tmp_path, part, setups):
    path = tmp_path / "check.json"
    _, lines = checked(arguments=["--only", part, "--json", path])
    written = json.loads(path.read_text())
    assert {(row["setup"], row["run"]) for row in written["rows"]} == {(name, i) for name in setups for i in range(3)}
    assert len(written["verdicts"]) == len(verdicts(lines, "PASS")) and written["command"].endswith(str(path))
    assert all(verdict["passed"] for verdict in written["verdicts"])


def test_a_missing_folder_is_noticed_before_measuring(checked, tmp_path, capsys):
    with pytest.raises(SystemExit):
        checked(arguments=["--json", tmp_path / "none" / "check.json"])
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ratios", "ratio", "tries"), [([1.01], 1.01, 1), ([1.2, 1.0], 1.0, 2), ([1.2, 1.04, 1.1], 1.04, 3)]
)
def test_auto_measures_again_above_the_bar(monkeypatch, ratios, ratio, tries):
    left = iter(ratios)
    monkeypatch.setattr(auto, "interleave", lambda *_: {"auto": 10 * next(left), "original": 10.0})
    row = auto.time_ratio(None, None, None)
    assert (row["ratio"], row["tries"]) == (pytest.approx(ratio), tries) and next(left, None) is None


def test_auto_measures_every_density(monkeypatch, quick, one_thread):
    """From the dense network to one whose activations are constant."""
    layers = OrderedDict(stem=nn.Conv2d(3, 8, 3, padding=1), norm=nn.BatchNorm2d(8), relu=nn.ReLU())
    layers |= OrderedDict(wide=nn.Conv2d(8, 16, 3, padding=1, bias=False), point=nn.Conv2d(16, 8, 1))
    monkeypatch.setitem(NETS, "small", Net(lambda: nn.Sequential(layers), 8))
    rows = auto.measure("small")
    assert [row["level"] for row in rows] == list(auto.LEVELS)
    assert all(row["ratio"] > 0 and 1 <= row["tries"] <= auto.TRIES for row in rows)
    densities = [row["density"] for row in rows]
    assert densities[0] == 1 and densities[-1] == 0 and densities == sorted(densities, reverse=True)
    assert json.loads(json.dumps(rows)) == rows
