"""pconv compile, and pconv inspect of what it writes."""

import json

import pytest
import torch
from cli_run import run, small_net
from torch import nn

import pconv_ops

pytestmark = pytest.mark.usefixtures("one_thread")

FACTORY = """
from __future__ import annotations
from dataclasses import dataclass

from torch import nn

@dataclass
class Sizes:
    channels: int = 8

def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 4))

def needs(an_argument):
    pass

def other():
    return {}

not_callable = 3
"""


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "nets.py").write_text(FACTORY, encoding="utf-8")
    return f"{tmp_path / 'nets.py'}:make"


def test_factory_with_weights(capsys, factory, tmp_path):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 4)).eval()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    out = tmp_path / "net.pconv"
    status, text, _ = run(capsys, "compile", factory, "--weights", tmp_path / "w.pt", "--input", "1,3,6,6", "-o", out)
    assert status == 0 and f"written: {out}" in text and "conv3x3" in text
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        assert torch.allclose(pconv_ops.CompiledModel.load(out)(x), net(x), atol=1e-5)


def test_exported_program(capsys, tmp_path):
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), torch.randn(1, 3, 6, 6)
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "net.pt2")
    status, _, error = run(capsys, "compile", tmp_path / "net.pt2", "-o", tmp_path / "net.pconv")
    assert status == 0, error
    with torch.no_grad():
        assert torch.allclose(pconv_ops.CompiledModel.load(tmp_path / "net.pconv")(x), net(x), atol=1e-5)


def test_zoo_fp16_cpp_and_inspect(capsys, tmp_path):
    out, cpp = tmp_path / "net.pconv", tmp_path / "cpp"
    status, text, _ = run(capsys, "compile", "mobilenet_v2_cifar", "--fp16", "-o", out, "--emit-cpp", cpp)
    assert status == 0 and (cpp / "network.cpp").exists() and str(cpp / "network.weights") in text
    status, text, _ = run(capsys, "inspect", out)
    assert status == 0 and "smaller" in text and "depthwise3x3" in text and "input x [1, 3, 32, 32]" in text
    status, text, _ = run(capsys, "inspect", out, "--json")
    report = json.loads(text)
    assert status == 0 and report["file_bytes"] == out.stat().st_size
    assert report["outputs"] == {list(report["outputs"])[0]: [1, 10]}
    rows = [row for row in report["layers"] if row["kind"] == "conv3x3"]
    assert rows and all(0 < row["density"] <= 1 and row["nnz"] <= row["total"] for row in rows)


def test_tuned(capsys, tmp_path):
    out = tmp_path / "net.pconv"
    status, _, _ = run(capsys, "compile", "resnet18_cifar", "--tune", "-o", out)
    assert status == 0 and isinstance(pconv_ops.CompiledModel.load(out).choices, list)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet18_cifar",), "--output or --emit-cpp: neither is given"),
        (("resnet19", "-o", "OUT"), "resnet19: expected MODEL.pt2, FILE.py:FACTORY or one of"),
        (("missing.pt2", "-o", "OUT"), "missing.pt2: there is no such file"),
        (("missing.py:make", "--input", "1,3,6,6", "-o", "OUT"), "missing.py: there is no such file"),
        (("FACTORY", "-o", "OUT"), "--input: is needed"),
        (("FACTORY", "--input", "1,3,0,6", "-o", "OUT"), "need sizes such as 1,3,224,224"),
        (("FACTORY", "--input", "1,3,7,7", "-o", "OUT"), "model:"),
        (("FACTORY", "--input", "1,3,6,6", "-o", "no/folder/net.pconv"), "--output: the folder of"),
        (("FACTORY", "--input", "1,3,6,6", "-o", "OUT", "--weights", "WEIGHTS"), "--weights: Error(s) in loading"),
        (("FILE:needs", "--input", "1,3,6,6", "-o", "OUT"), "needs() raises TypeError"),
        (("FILE:other", "--input", "1,3,6,6", "-o", "OUT"), "other() returns a dict, not an nn.Module"),
        (("FILE:not_callable", "--input", "1,3,6,6", "-o", "OUT"), "has no function 'not_callable'"),
        (("FACTORYX", "--input", "1,3,6,6", "-o", "OUT"), "has no function 'makeX'"),
        (("resnet18_cifar", "-o", "OUT", "--weights", "WEIGHTS"), "--weights: is for FILE.py:FACTORY"),
        (("FACTORY", "--input", "1,3,6,6", "-o", "OUT", "--block", "4"), "--block: is for vgg16, "),
    ],
)
def test_refused(arguments, message, capsys, factory, tmp_path):
    torch.save(small_net().state_dict(), tmp_path / "w.pt")
    known = {"OUT": tmp_path / "net.pconv", "FACTORY": factory, "FACTORYX": f"{factory}X", "WEIGHTS": tmp_path / "w.pt"}
    file = factory.partition(":")[0]
    words = [known.get(word, word.replace("FILE", file)) for word in arguments]
    status, _, error = run(capsys, "compile", *words)
    assert status == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "net.pconv").exists()


def test_damaged_program(capsys, tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"PK\3\4 no program")
    status, _, error = run(capsys, "compile", tmp_path / "net.pt2", "-o", tmp_path / "net.pconv")
    assert status == 2 and "torch.export.load cannot read it" in error


def test_damaged_model_file(capsys, tmp_path):
    (tmp_path / "net.pconv").write_bytes(b"PCONVNN\n" + bytes(200))
    status, _, error = run(capsys, "inspect", tmp_path / "net.pconv")
    assert status == 2 and "model file: version_major" in error
    pconv_ops.compile(nn.ReLU(), torch.randn(1, 2)).save(tmp_path / "ok.pconv")
    status, _, error = run(capsys, "inspect", tmp_path / "ok.pconv", "--map", "3,3")
    assert status == 2 and "--map" in error
