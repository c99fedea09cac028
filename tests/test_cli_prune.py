"""pconv prune: what it writes, what it refuses."""

import os
import pickle
import stat

import numpy as np
import pytest
import torch
from cli_run import run, save, small_net

import pconv_ops
from pconv_ops.prune import prune_


def test_prune_writes_what_prune_makes(capsys, tmp_path):
    net = small_net()
    source = save(tmp_path / "net.pth", net.state_dict())
    status, out, _ = run(capsys, "prune", source, "--connectivity", 2, "--patterns", "random8", "--connectivity-1x1", 4)
    assert status == 0 and "net.pruned.pth" in out and "depthwise: patterns only" in out
    pruned = torch.load(tmp_path / "net.pruned.pth", weights_only=True)
    prune_(net, patterns=pconv_ops.PatternSet.random(8), connectivity=2, connectivity_1x1=4)
    expected = net.state_dict()
    assert list(pruned) == list(expected)
    for key, value in expected.items():
        assert pruned[key].dtype == value.dtype and torch.equal(pruned[key], value), key
    assert torch.equal(torch.load(source, weights_only=True)["1.weight"], small_net()[1].weight)


def test_prune_does_not_overwrite_its_input(capsys, tmp_path):
    source = save(tmp_path / "net.pth", small_net().state_dict())
    before = source.read_bytes()
    (tmp_path / "same.pth").symlink_to(source)
    for output in (source, tmp_path / "same.pth"):
        status, _, err = run(capsys, "prune", source, "-o", output)
        assert status == 2 and "is the checkpoint itself" in err and source.read_bytes() == before


@pytest.mark.parametrize(
    ("dtype", "said"), [(torch.float64, "only in float64: save model.float()"), (None, "weight\n")]
)
def test_prune_says_why_a_file_has_no_convolutions(dtype, said, capsys, tmp_path):
    state = small_net().to(dtype).state_dict() if dtype else {"linear.weight": torch.ones(3, 3)}
    status, _, err = run(capsys, "prune", save(tmp_path / "net.pth", state))
    assert status == 2 and "holds no 4-D float32 weight" in err and said in err


def test_prune_keeps_the_rest_of_a_training_checkpoint(capsys, tmp_path):
    net = small_net()
    odd = torch.arange(24.0).reshape(2, 12)[:, ::2]
    extra = {"epoch": 7, "best": 0.5, "odd": odd, "half": torch.ones(2, 2, 3, 3, dtype=torch.float16)}
    source = save(tmp_path / "run.ckpt", {"state_dict": net.state_dict(), "optimizer": extra})
    target = tmp_path / "small.ckpt"
    status, _, _ = run(capsys, "prune", source, "-o", target, "--skip", "1")
    content = torch.load(target, weights_only=True)
    assert status == 0 and content["optimizer"]["epoch"] == 7 and content["optimizer"]["best"] == 0.5
    assert torch.equal(content["optimizer"]["odd"], odd)
    state = content["state_dict"]
    for key, value in net.state_dict().items():
        assert torch.equal(state[key], value) == (key != "3.weight"), key
    assert int(state["3.weight"].count_nonzero()) == 32 * 4


def test_prune_handles_names_that_nest(capsys, tmp_path):
    shape = (8, 8, 3, 3)
    torch.manual_seed(1)
    state = {"a.b.weight": torch.randn(shape), "a.weight": torch.randn(shape), "kernel": torch.randn(shape)}
    status, _, _ = run(capsys, "prune", save(tmp_path / "n.pt", state), "--connectivity", 2)
    pruned = torch.load(tmp_path / "n.pruned.pt", weights_only=True)
    assert status == 0 and [int(v.count_nonzero()) for v in pruned.values()] == [128, 128, 128]
    status, _, _ = run(capsys, "prune", save(tmp_path / "w.pt", {"weight": torch.randn(shape)}))
    assert status == 0 and int(torch.load(tmp_path / "w.pruned.pt")["weight"].count_nonzero()) == 21 * 4


class Attack:
    """Would make a file when unpickled by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("command", ["prune", "inspect"])
def test_files_that_are_no_state_dict_are_refused(capsys, tmp_path, command):
    trap = tmp_path / "trap"
    contents = {
        "garbage": b"\x00garbage" * 9,
        "empty": b"",
        "attack": pickle.dumps({"a.weight": Attack(trap)}),
        "truncated": save(tmp_path / "whole", small_net().state_dict()).read_bytes()[:-100],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    save(tmp_path / "list", [torch.ones(2)])
    save(tmp_path / "numbers", {"a": 1})
    save(tmp_path / "linear", {"a.weight": torch.ones(2, 2)})
    for name in (*contents, "list", "numbers", "linear", "."):
        status, out, err = run(capsys, command, tmp_path / name)
        assert (status, out, err.count("\n")) == (2, "", 1), (name, err)
    assert not trap.exists() and not list(tmp_path.glob("*pruned*"))


def test_refusals_of_files_are_short_and_ours(capsys, tmp_path):
    save(tmp_path / "model", small_net())
    (tmp_path / "garbage").write_bytes(b"\x00garbage" * 9)
    (tmp_path / "layer.pconv").write_bytes(pconv_ops.pack(np.ones((4, 4, 3, 3), np.float32)).to_bytes())
    wanted = {
        "model": "holds a torch.nn.modules.container.Sequential; only tensors",
        "garbage": "not a file that torch.save wrote, or a damaged one",
        "layer.pconv": "holds packed weights, which are pruned already",
        ".": "is a folder",
    }
    for name, words in wanted.items():
        _, _, err = run(capsys, "prune", tmp_path / name)
        assert words in err and "\x1b" not in err and len(err) < 200 + len(str(tmp_path)), err


def test_blocks_are_those_of_1x1_layers(capsys, tmp_path):
    net = small_net()
    source = save(tmp_path / "net.pth", net.state_dict())
    status, out, _ = run(capsys, "prune", source, "--connectivity-1x1", 2, "--block", 4)
    assert status == 0 and out.count("blocks of 4") == 1
    pruned = torch.load(tmp_path / "net.pruned.pth", weights_only=True)
    prune_(net, connectivity_1x1=2, block={"4": 4})
    assert all(torch.equal(pruned[key], value) for key, value in net.state_dict().items())
    status, _, err = run(capsys, "prune", source, "--block", 4)
    assert status == 2 and "connectivity_1x1 is not given" in err


def test_prune_rules_come_back_as_errors(capsys, tmp_path):
    source = save(tmp_path / "net.pth", small_net().state_dict())
    for arguments, words in ((["--skip", "layer9"], "layer9"), (["--connectivity", "10000"], "keeps none")):
        status, _, err = run(capsys, "prune", source, *arguments)
        assert status == 2 and words in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["net.pth"]


def test_prune_replaces_its_output_whole_or_not_at_all(capsys, tmp_path, monkeypatch):
    source, target = save(tmp_path / "net.pth", small_net().state_dict()), tmp_path / "out.pth"
    target.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        status, _, err = run(capsys, "prune", source, "-o", target)
    assert status == 2 and "No space left" in err
    assert target.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
    assert run(capsys, "prune", source, "-o", target)[0] == 0
    assert "1.weight" in torch.load(target, weights_only=True)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
