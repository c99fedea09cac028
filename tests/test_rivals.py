"""bench/rivals: turns of frameworks in processes of their own, what counts, the report and README's part of it. No time
is checked."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench" / "reproduce"))
sys.path.insert(0, str(Path(__file__).parent.parent / "bench" / "rivals"))

import break_even
import models
import readme
import run
import table


def cell(framework, ms, net="vgg16", threads=1, reason=""):
    return {"net": net, "threads": threads, "framework": framework, "version": "1", "ms": ms, "reason": reason}


CELLS = [
    *(cell("pconv_ops compiled", 1.0), cell("pconv_ops converted", 0.9), cell("PyTorch", 5.0), cell("MNN", 3.0)),
    *(cell("OpenVINO default precision", 2.0), cell("ncnn", None, reason="it ended without a word")),
]
FACTS = {"command": "run.py", "date": "today", "cpu": "a CPU", "isa": "avx512", "limits": {}, "rounds": 3}
FACTS |= {"fma_peak_gflops": {"1": 100.0}}


def test_the_fastest_rival_is_neither_ours_nor_of_less_precision_nor_failed():
    assert table.fastest_rival(CELLS)["framework"] == "MNN"
    assert table.fastest_rival(CELLS[:2]) is None


def test_the_report_has_every_cell_and_reason(tmp_path):
    table.write_report(tmp_path / "new" / "rivals-avx512", FACTS, CELLS)
    text = (tmp_path / "new" / "rivals-avx512.md").read_text()
    assert "| MNN 1 | **3.00** |" in text and "| ncnn 1 | failed |" in text and "(not fp32) | 2.00 |" in text
    assert "fastest fp32 rival against ours, compiled | 3.00x |" in text
    assert "- ncnn, vgg16, 1: it ended without a word" in text
    assert json.loads((tmp_path / "new" / "rivals-avx512.json").read_text())["cells"] == CELLS
    assert (tmp_path / "new" / "rivals-avx512.png").stat().st_size > 1000


def test_readme_shows_what_was_measured():
    page = (readme.ROOT / "README.md").read_text()
    assert page == readme.with_block(page, json.loads(readme.MEASURED.read_text()))
    assert "| vgg16, 1 | 1.00 | MNN 3.00 | 3.00x | PyTorch 5.00 |" in readme.block({**FACTS, "cells": CELLS})


def test_frameworks_take_turns(monkeypatch, tmp_path, capsys):
    """In processes of their own, compared with torch; one that is not installed, and one that computes something else,
    have a reason instead of a time."""
    layer = "conv512x512x14"
    monkeypatch.setattr(run, "LAYERS", (layer,))
    monkeypatch.setattr(run, "BUILD", tmp_path)
    models.write(layer, tmp_path / "models" / layer)
    names = ["pconv_ops compiled", "PyTorch", "MNN"]
    arguments = ["--layers", "--threads", "1", "--rounds", "2", "--frameworks", *names]
    folders = ["--models", str(tmp_path / "models"), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments, *folders])
    assert run.main() == 0
    (path,) = tmp_path.glob("layers-*.json")
    found = {c["framework"]: c for c in json.loads(path.read_text())["cells"]}
    for name in names[:2]:
        assert found[name]["ms"] > 0 and len(found[name]["rounds"]) == 2 and found[name]["deviation"] < 1e-5
    assert found["MNN"]["ms"] is None and found["MNN"]["reason"].startswith("not installed")
    np.save(tmp_path / "models" / layer / "want.npy", np.zeros((1, 512, 14, 14), np.float32) + 1)
    with pytest.raises(RuntimeError, match="deviates"):
        worker = run.Worker("PyTorch", tmp_path / "models" / layer, 1, {})
        try:
            assert worker.answer()["version"]
            run.check_output(run.Cell(layer, 1, "PyTorch"), worker, tmp_path / "models" / layer)
        finally:
            worker.close()
    assert "not installed" in capsys.readouterr().out


def test_break_even_lies_between_measured_shares():
    points = [(0.4, 4.0), (0.1, 1.0), (0.2, 2.0)]
    assert break_even.break_even(points, 3.0) == pytest.approx(0.3)
    assert break_even.break_even(points, 0.5) is None and break_even.break_even(points, 5.0) == 1.0


@pytest.mark.parametrize(
    ("name", "kernel", "stride", "kept"),
    [("conv8x16x8", 3, 1, 4 / 9 / 3.1), ("conv16x8x8k1s2r2", 1, 2, 1 / 2), ("conv8x8x8r0", 3, 1, 1.0)],
)
def test_layers_are_what_their_names_say(name, kernel, stride, kept):
    model, x = models.model_of(name)
    conv = model[0]
    assert conv.kernel_size == (kernel, kernel) and conv.stride == (stride, stride) and x.shape[-1] == 8
    share = float((conv.weight != 0).double().mean())
    assert share == pytest.approx(kept, rel=0.15)
