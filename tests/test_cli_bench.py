"""pconv bench: what it prints, writes and draws. No time is checked."""

import json
import sys

import pytest
from cli_run import run

from pconv_ops import benchmark


def test_bench_prints_a_table_and_writes_json(capsys, quick, tmp_path):
    path = tmp_path / "rows.json"
    arguments = ("--layer", "16,24,10,12", "--groups", 2, "--threads", 1, "--isa", "scalar", "--patterns", "random12")
    status, out, err = run(capsys, "bench", *arguments, "--connectivity", 2, "--json", path)
    assert (status, err) == (0, "")
    (row,) = json.loads(path.read_text())
    assert tuple(row) == benchmark.ROW_KEYS
    expected = {"ic": 16, "oc": 24, "h": 10, "w": 12, "groups": 2, "stride": 1, "isa": "scalar", "threads": 1}
    assert {key: row[key] for key in expected} == expected
    assert row["pattern_set"] == "random12" and row["density"] == pytest.approx(4 / 9 / 2)
    assert "grouped3x3" in out and "scalar" in out


def test_bench_of_a_1x1_layer_in_blocks(capsys, quick, tmp_path):
    path = tmp_path / "rows.json"
    arguments = ("--layer", "16,24,10,12,2", "--kernel", 1, "--block", 8, "--connectivity", 2, "--threads", 1)
    status, out, err = run(capsys, "bench", *arguments, "--json", path)
    assert (status, err) == (0, "") and "conv1x1" in out
    (row,) = json.loads(path.read_text())
    assert (row["kernel"], row["stride"], row["block"], row["density"]) == (1, 2, 8, 0.5)


def test_bench_sweep_prints_writes_and_draws(capsys, quick, tmp_path):
    rows_path, picture = tmp_path / "rows.json", tmp_path / "sweep.png"
    arguments = ("--layer", "8,8,6,6", "--groups", 8, "--sweep", "density", "--threads", 1)
    status, out, err = run(capsys, "bench", *arguments, "--json", rows_path, "--plot", picture)
    assert (status, err) == (0, "") and "depthwise3x3, single taps" in out
    rows = json.loads(rows_path.read_text())
    assert [row["density"] for row in rows] == pytest.approx([kept / 9 for kept in range(10)])
    assert all(tuple(row) == benchmark.ROW_KEYS for row in rows)
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_sweep_misses_matplotlib_before_timing(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(benchmark, "interleave", lambda *_: pytest.fail("timed"))
    arguments = ("--layer", "8,8,6,6", "--sweep", "density", "--plot", tmp_path / "x.png")
    status, _, err = run(capsys, "bench", *arguments)
    assert status == 2 and "pip install 'pconv_ops[bench]'" in err
