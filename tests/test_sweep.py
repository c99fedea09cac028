"""Sweeps over densities: what is cut, where the break-even is, what is shown. No time is checked."""

import json
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pconv_ops import benchmark, sweep
from pconv_ops.cases import BenchOptions, LayerSpec, single_conv
from pconv_ops.zoo import NETS, Net

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("points", "at"),
    [
        ([(0.0, 3.0), (0.2, 2.0), (0.4, 1.0)], None),
        ([(0.0, 0.9), (0.2, 2.0)], 0.0),
        ([(0.0, 3.0), (0.2, 1.5), (0.4, 0.5), (0.6, 2.0)], 0.3),
        ([(0.1, 1.0), (0.5, 0.5)], 0.1),
        ([], None),
    ],
)
def test_break_even_lies_between_the_points_around_it(points, at):
    assert sweep.break_even(points) == (None if at is None else pytest.approx(at))


@pytest.mark.parametrize("share", sweep.SHARES)
def test_cut_keeps_a_share_of_kernels(share):
    conv = single_conv(LayerSpec(16, 20, 8, 8))
    before = conv.weight.detach().clone()
    for patterns, taps in ((None, 9), ("scp4", 4)):
        for block in (1, 4):
            kept = sweep.cut(conv, share, patterns, block).weight.detach() != 0
            rows = kept.flatten(2).any(2).reshape(20 // block, block, 16)
            assert int(rows[:, 0].sum()) == round(share * 20 * 16 / block) and bool((rows == rows[:, :1]).all())
            assert int(kept.sum()) == taps * int(rows.sum())
    assert torch.equal(conv.weight, before)


def test_cut_of_a_depthwise_layer_keeps_the_largest_taps_of_every_kernel():
    conv = single_conv(LayerSpec(8, 16, 8, 8, groups=8))
    assert sweep.shares_of(conv) == [kept / 9 for kept in range(10)]
    assert sweep.pattern_sets_of(conv, BenchOptions()) == [None]
    for kept, share in enumerate(sweep.shares_of(conv)):
        weight = sweep.cut(conv, share, None).weight.detach().abs().flatten(1)
        assert (torch.count_nonzero(weight, dim=1) == kept).all()
        largest = conv.weight.detach().abs().flatten(1).sort(descending=True).values[:, :kept].sum(1)
        torch.testing.assert_close(weight.sum(1), largest)
    assert len(sweep.shares_of(single_conv(LayerSpec(8, 8, 8, 8, groups=8, kernel=5)))) == len(sweep.SHARES)


def test_sweep_of_a_layer_gives_rows_of_every_density(quick, monkeypatch):
    monkeypatch.setattr(sweep, "SHARES", (0.0, 0.5, 1.0))
    seen = []

    def track(items, label):
        seen.append((len(items), label))
        return items

    swept = sweep.sweep_layer(LayerSpec(16, 24, 9, 8, stride=2), BenchOptions(threads=1, rounds=1, block=4), track)
    assert seen == [(6, "layer")] and [s.label for s in swept] == ["conv3x3/2"] * 2
    assert [s.patterns for s in swept] == ["scp4", None]
    rows = [row for s in swept for row in s.rows]
    assert json.loads(json.dumps(rows)) == rows
    assert [row["density"] for row in rows] == pytest.approx([0, 2 / 9, 4 / 9, 0, 0.5, 1])
    for row in rows:
        assert tuple(row) == benchmark.ROW_KEYS
        assert (row["scope"], row["kind"], row["net"], row["block"]) == ("sweep", "conv3x3", None, 4)
        assert row["speedup"] == pytest.approx(row["dense_ms"] / row["ms"])
        assert (row["useful_gflops"] == 0) == (row["density"] == 0)
    assert [row["pattern_set"] for row in rows] == ["scp4"] * 3 + [None] * 3
    text = sweep.sweeps_text(swept)
    assert "conv3x3/2, scp4, 16 to 24 channels, 9x8, stride 2, block 4" in text and "FMA peak" in text


def test_sweep_forces_ours_at_every_density(quick, monkeypatch):
    calls, right = [], benchmark.conv2d
    monkeypatch.setattr(benchmark, "conv2d", lambda x, packed: calls.append(packed.nnz) or right(x, packed))
    sweep.sweep_layer(LayerSpec(8, 8, 8, 8, kernel=1), BenchOptions(threads=1, rounds=1))
    assert set(calls) == {round(share * 64) for share in sweep.SHARES}


@pytest.mark.parametrize("options", [BenchOptions(block=0), BenchOptions(patterns="scp5")])
def test_bad_options_are_refused(quick, options):
    with pytest.raises(ValueError, match="block|patterns"):
        sweep.sweep_layer(LayerSpec(8, 8, 8, 8), options)


def test_sweep_of_a_net_takes_the_largest_layer_of_each_kind(quick, monkeypatch):
    layers = OrderedDict(
        stem=nn.Conv2d(3, 8, 3, padding=1),
        wide=nn.Conv2d(8, 16, 3, padding=1),
        narrow=nn.Conv2d(16, 6, 3, padding=1),
        strided=nn.Conv2d(6, 8, 3, 2, 1),
        point=nn.Conv2d(8, 12, 1),
        depth=nn.Conv2d(12, 12, 3, 1, 2, 2, groups=12),
    )
    monkeypatch.setitem(NETS, "small", Net(lambda: nn.Sequential(layers), 8))
    monkeypatch.setattr(sweep, "SHARES", (0.0, 1.0))
    swept = sweep.sweep_net("small", BenchOptions(threads=1, rounds=1, block=4))
    found = [(s.label, s.rows[0]["layer"], s.patterns, s.rows[0]["block"]) for s in swept]
    assert found == [
        ("conv3x3", "wide", "scp4", 1),
        ("conv3x3", "wide", None, 1),
        ("conv3x3/2", "strided", "scp4", 1),
        ("conv3x3/2", "strided", None, 1),
        ("conv1x1", "point", None, 4),
        ("depthwise3x3d2", "depth", None, 1),
    ]
    assert "conv1x1, whole kernels (point), 8 to 12 channels, 4x4, block 4" in sweep.sweeps_text(swept)
    assert swept[-1].title == "depthwise3x3d2, single taps"


def test_kinds_are_all_that_ukernels_tell_apart():
    layers = [(single_conv(spec), block) for spec, block in sweep.KINDS]
    found = {(sweep.label_of(conv), block, conv.in_channels == 3) for conv, block in layers}
    plain = ("conv3x3", "conv3x3/2", "conv3x3d2", "conv1x1", "conv1x1/2", "conv5x5", "conv7x7", "grouped3x3")
    wanted = {(label, 1, False) for label in (*plain, "depthwise3x3", "depthwise3x3/2", "depthwise5x5")}
    blocks, stems = {("conv1x1", 4, False), ("conv1x1/2", 4, False)}, {("conv7x7/2", 1, True), ("conv3x3/2", 1, True)}
    assert found == wanted | blocks | stems
    for conv, _ in layers:
        assert {0.0, 1.0} <= set(sweep.shares_of(conv)) and None in sweep.pattern_sets_of(conv, BenchOptions())
        assert (len(sweep.pattern_sets_of(conv, BenchOptions())) == 2) == (
            conv.kernel_size == (3, 3) and conv.in_channels > 3 and conv.groups < conv.in_channels
        )


def test_sweep_of_kinds_keeps_the_block_of_each(quick, monkeypatch):
    spec = LayerSpec(8, 12, 6, 6, kernel=1)
    monkeypatch.setattr(sweep, "KINDS", ((spec, 1), (spec, 4)))
    monkeypatch.setattr(sweep, "SHARES", (0.0, 1.0))
    swept = sweep.sweep_kinds(BenchOptions(threads=1, rounds=1))
    assert [[(row["block"], row["density"]) for row in s.rows] for s in swept] == [
        [(1, 0), (1, 1)],
        [(4, 0), (4, 1)],
    ]


def sweep_of(speedups):
    row = dict.fromkeys(benchmark.ROW_KEYS, 1) | {"net": None, "dense_layout": "nchw"}
    densities = np.linspace(0, 1, len(speedups)).tolist()
    rows = [
        row | {"density": d, "ms": 1.0, "dense_ms": s, "speedup": s} for d, s in zip(densities, speedups, strict=True)
    ]
    return sweep.Sweep("conv1x1", None, rows)


@pytest.mark.parametrize(
    ("speedups", "line", "mark"),
    [
        ([3.0, 2.0, 0.0], 4, "break-even at 75.0 %"),
        ([0.5, 2.0], 2, "break-even at 0.0 %"),
        ([2.0, 1.5], 4, "any density"),
    ],
)
def test_table_marks_the_break_even_between_its_rows(speedups, line, mark):
    lines = sweep_of(speedups).text().split("\n")[1:]
    assert mark in lines[line] and lines[line].startswith("----")
    assert sum("break-even" in text or "any density" in text for text in lines) == 1


def test_picture_of_sweeps(tmp_path):
    path = tmp_path / "sweep.png"
    sweep.draw_sweeps(str(path), [sweep_of([3.0, 2.0, 0.5]), sweep_of([2.0, 1.5]), sweep_of([0.5, 0.4])])
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_sweeps_are_recorded_by_one_command(quick, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent.parent / "bench"), *sys.path])
    import sweeps

    monkeypatch.setattr(sweep, "KINDS", ((LayerSpec(8, 12, 6, 6), 1), (LayerSpec(8, 8, 6, 6, groups=8), 1)))
    monkeypatch.setattr(sys, "argv", ["sweeps.py", "--isa", "scalar", "--out", str(tmp_path / "results")])
    sweeps.main()
    record = json.loads((tmp_path / "results" / "density-scalar.json").read_text())
    assert len(record["rows"]) == 2 * len(sweep.SHARES) + 10 and record["command"].endswith("--isa scalar")
    assert (tmp_path / "results" / "density-scalar.png").read_bytes()[:4] == b"\x89PNG"
    lines = [line for line in (tmp_path / "results" / "density-scalar.md").read_text().splitlines() if "|" in line]
    assert len(lines) == 2 + 3 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| conv3x3 | 8 to 12 channels, 6x6 | scp4 | ") and "single taps" in lines[4]
    assert record["cpu"] in (tmp_path / "results" / "density-scalar.md").read_text()


@pytest.mark.parametrize(("share", "speedup"), [(0.1, 4.0), (0.3, 3.0), (0.5, 2.0), (1.0, 1.0)])
def test_recorded_speedups_are_those_of_the_nearest_share(monkeypatch, share, speedup):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent.parent / "bench"), *sys.path])
    import sweeps

    densities, speedups = (0.0, 1 / 9, 2 / 9, 4 / 9), (4.0, 3.0, 2.0, 1.0)  # patterns: 4/9 is all of the kernels
    rows = [{"density": d, "speedup": s} for d, s in zip(densities, speedups, strict=True)]
    assert sweeps.speedup_at(sweep.Sweep("conv3x3", "scp4", rows), share) == speedup
