"""Benchmarks: what a row says follows from its parts, wrong results are errors. No time is checked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pconv_ops import _native, benchmark
from pconv_ops._native import BackendUnavailable
from pconv_ops.benchmark import WrongResult
from pconv_ops.cases import BenchOptions, LayerSpec
from pconv_ops.threads import get_num_threads

BENCH = Path(__file__).parent.parent / "bench"
SMALL = LayerSpec(32, 48, 12, 12)


def test_check_result_measures_against_the_largest_value():
    want = torch.tensor([[1.0, -4.0]])
    assert benchmark.check_result("x", want, want) == 0
    assert benchmark.check_result("x", want + 2e-4, want) == pytest.approx(5e-5, rel=1e-2)


@pytest.mark.parametrize(
    "got", [torch.tensor([1.0, 2.001]), torch.tensor([1.0, float("nan")]), torch.tensor([1.0]), torch.zeros(2)]
)
def test_check_result_refuses_what_differs(got):
    with pytest.raises(WrongResult, match="layer7"):
        benchmark.check_result("layer7", got, torch.tensor([1.0, 2.0]))


def test_wrong_result_is_an_error(quick, monkeypatch):
    monkeypatch.setattr(benchmark, "conv2d", lambda x, packed: torch.ones(1, 48, 12, 12))
    with pytest.raises(WrongResult, match="layer"):
        benchmark.bench_layer(SMALL, BenchOptions(threads=1))


# ---- rows


def check_row(row, out_h, out_w, block=1):
    """Numbers of a layer row that follow from others of it."""
    assert tuple(row) == benchmark.ROW_KEYS
    total = row["oc"] * row["ic"] // row["groups"] * row["kernel"] ** 2
    work = 2 * row["density"] * total * out_h * out_w
    assert row["useful_gflops"] == pytest.approx(work / row["ms"] / 1e6)
    assert row["speedup"] == pytest.approx(row["dense_ms"] / row["ms"])
    assert row["peak_fraction"] > 0
    assert row["dense_layout"] in ("nchw", "channels_last")
    assert row["backend"] == "cpu" and row["block"] == block and row["isa"] == _native.current_isa()


def test_net_rows(quick):
    seen = []

    def track(items, label):
        seen.append((len(items), label))
        return items

    rows = benchmark.bench_net("vgg16_cifar", BenchOptions(threads=1, rounds=1), track)
    assert json.loads(json.dumps(rows)) == rows
    layers, (conv_sum, *nets) = rows[:-3], rows[-3:]
    assert seen == [(13, "vgg16_cifar")]
    assert [row["layer"] for row in layers][:3] == ["features.0", "features.2", "features.5"]
    for row in layers:
        check_row(row, row["h"], row["w"])
        assert row["scope"] == "layer" and row["net"] == "vgg16_cifar" and row["threads"] == 1
    stem, pruned = layers[0], layers[1:]
    assert (stem["kind"], stem["density"], stem["ms"]) == ("dense", 1.0, stem["dense_ms"])
    assert {row["kind"] for row in pruned} == {"conv3x3"}
    assert all(row["density"] == pytest.approx(4 / 9 / 3.1, rel=1e-3) for row in pruned)
    assert [(row["h"], row["w"]) for row in layers] == [(s, s) for s in (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2)]
    for row in (conv_sum, *nets):
        assert tuple(row) == benchmark.ROW_KEYS and row["layer"] is None and row["net"] == "vgg16_cifar"
        assert row["density"] == pytest.approx(1 / 6.97, rel=0.01)
    assert [row["scope"] for row in (conv_sum, *nets)] == ["conv_sum", "whole_net", "compiled_net"]
    for key in ("ms", "dense_ms"):
        assert conv_sum[key] == pytest.approx(sum(row[key] for row in layers))
    work = sum(row["useful_gflops"] * row["ms"] for row in layers)
    assert conv_sum["useful_gflops"] * conv_sum["ms"] == pytest.approx(work)
    assert all(row["useful_gflops"] * row["ms"] == pytest.approx(work) for row in nets)
    text = benchmark.rows_text(rows)
    assert "features.28" in text and "whole_net: " in text and "compiled_net: " in text and "FMA peak" in text


def test_layer_row(quick):
    spec = LayerSpec(32, 48, 9, 13, groups=2)
    (row,) = benchmark.bench_layer(spec, BenchOptions(connectivity=2.0, patterns="random8", threads=2))
    check_row(row, 9, 13)
    assert (row["net"], row["layer"], row["groups"], row["h"], row["w"]) == (None, "layer", 2, 9, 13)
    assert (row["kind"], row["pattern_set"], row["threads"]) == ("grouped3x3", "random8", 2)
    assert row["density"] == pytest.approx(4 / 9 / 2)


def test_conditions_show_the_range_of_peaks():
    row = {"threads": 1, "isa": "scalar", "useful_gflops": 50.0}
    rows = [{**row, "peak_fraction": fraction} for fraction in (0.5, 0.625, None)]
    assert "FMA peak 80 to 100 GFLOP/s (each layer against its own)" in benchmark.conditions_text(rows)
    assert "FMA peak 100 GFLOP/s, " in benchmark.conditions_text(rows[:1]) and benchmark.peak_of(rows) == 100


def test_forced_isa_really_runs(quick):
    (row,) = benchmark.bench_layer(SMALL, BenchOptions(threads=1, isa="scalar"))
    assert row["isa"] == "scalar"


@pytest.mark.parametrize("name", ["resnet18_cifar", "mobilenet_v2_cifar"])
def test_rows_of_nets_with_normalisation(quick, name):
    options = BenchOptions(connectivity_1x1=3.1, block=4, threads=1, rounds=1)
    rows = benchmark.bench_net(name, options)
    assert json.loads(json.dumps(rows)) == rows
    layers, (conv_sum, *nets) = rows[:-3], rows[-3:]
    assert len(layers) == {"resnet18_cifar": 20, "mobilenet_v2_cifar": 52}[name]
    assert len({row["layer"] for row in layers}) == len(layers)
    for row in layers:
        check_row(row, -(-row["h"] // row["stride"]), -(-row["w"] // row["stride"]), 4 if row["kernel"] == 1 else 1)
    assert layers[0]["kind"] == "dense" and not any(row["kind"] == "dense" for row in layers[1:])
    assert [row["scope"] for row in (conv_sum, *nets)] == ["conv_sum", "whole_net", "compiled_net"]
    assert all(row["block"] == 4 and row["ms"] > 0 for row in (conv_sum, *nets))


GEOMETRIES = {
    "stride": (LayerSpec(32, 32, 8, 8, stride=2), "conv3x3", 4 / 9 / 3.1),
    "dilation": (LayerSpec(32, 32, 8, 8, dilation=2), "conv3x3", 4 / 9 / 3.1),
    "5x5": (LayerSpec(32, 32, 8, 8, kernel=5), "conv5x5", 1 / 3.1),
    "2x2": (LayerSpec(32, 32, 8, 8, kernel=2), "conv2x2", 1 / 3.1),
    "1x1": (LayerSpec(32, 32, 8, 8, kernel=1, stride=2), "conv1x1", 1 / 3.1),
    "groups": (LayerSpec(32, 64, 8, 8, groups=4, dilation=2, stride=2), "grouped3x3", 4 / 9 / 3.1),
    "depthwise": (LayerSpec(32, 32, 9, 8, groups=32, stride=2), "depthwise3x3", 4 / 9),
    "depthwise 5x5": (LayerSpec(32, 64, 8, 8, groups=32, kernel=5), "depthwise5x5", 1),
    "stem": (LayerSpec(3, 32, 16, 16, kernel=7, stride=2), "conv7x7", 1),
}


@pytest.mark.parametrize(("spec", "kind", "density"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_any_geometry_is_timed_on_ours_and_its_result_checked(quick, monkeypatch, spec, kind, density):
    calls, right = [], benchmark.conv2d
    monkeypatch.setattr(benchmark, "conv2d", lambda x, packed: calls.append(packed) or right(x, packed))
    (row,) = benchmark.bench_layer(spec, BenchOptions(threads=1))
    assert [row[key] for key in ("stride", "dilation", "kernel")] == [spec.stride, spec.dilation, spec.kernel]
    assert row["kind"] == kind and row["density"] == pytest.approx(density, rel=2e-3)
    assert calls and row["ms"] > 0


def test_layer_that_cannot_run_is_refused_before_timing(quick, monkeypatch):
    monkeypatch.setattr(benchmark, "interleave", lambda *_: pytest.fail("timed"))
    with pytest.raises(ValueError, match="in_channels"):
        benchmark.bench_layer(LayerSpec(65536, 1, 1, 1), BenchOptions(threads=1))


@pytest.mark.parametrize(
    ("options", "match"),
    [(BenchOptions(block=65), "block"), (BenchOptions(patterns="scp5"), "patterns: got 'scp5', allowed: scp4")],
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        benchmark.bench_layer(SMALL, options)


# ---- parts


def test_runtime_restores_threads_and_isa(monkeypatch):
    monkeypatch.delenv("PCONV_FORCE_ISA", raising=False)
    before = get_num_threads(), torch.get_num_threads()
    with benchmark.runtime(BenchOptions(threads=3, isa="scalar")) as (isa, threads):
        assert (isa, threads) == ("scalar", 3)
        assert (get_num_threads(), torch.get_num_threads()) == (3, 3)
        assert torch.is_inference_mode_enabled()
    assert (get_num_threads(), torch.get_num_threads()) == before
    assert "PCONV_FORCE_ISA" not in os.environ and not torch.is_inference_mode_enabled()


def test_runtime_leaves_a_thread_count_that_follows_torch(monkeypatch):
    monkeypatch.setattr("pconv_ops.threads._explicit", 0)
    monkeypatch.setattr("pconv_ops.threads._environment_read", True)
    before = torch.get_num_threads()
    with benchmark.runtime(BenchOptions(threads=3)):
        assert get_num_threads() == 3
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            assert get_num_threads() == n
    finally:
        torch.set_num_threads(before)


def test_unknown_isa_is_refused_and_leaves_nothing_behind(monkeypatch):
    monkeypatch.setenv("PCONV_FORCE_ISA", "scalar")
    before = get_num_threads()
    with pytest.raises(BackendUnavailable, match="scalar"), benchmark.runtime(BenchOptions(threads=5, isa="mmx")):
        pytest.fail("entered")
    assert os.environ["PCONV_FORCE_ISA"] == "scalar" and get_num_threads() == before


def test_call_overhead_names_both_ways_to_call(quick):
    cost = benchmark.call_overhead_us(rounds=3)
    assert set(cost) == {"conv2d", "PatternConv2d"}
    assert all(-1e4 < value < 1e6 for value in cost.values())


# ---- bench/


def test_bench_suites_run_every_ukernel_of_this_cpu():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "bench",
        "--benchmark-disable",
        "-v",
        "-k",
        "512x512x14x14 or 512x512x2x2 or call or max_pool",
    ]
    done = subprocess.run(command, cwd=BENCH.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    supported = [row["name"] for row in _native.isas() if row["supported"]]
    for row in _native.ukernels():
        shape = "512x512x2x2" if row["body"] in ("map3x3", "tiny3x3") else "512x512x14x14"
        ran = f"bench_ukernel[{shape}-{row['name']}] PASSED" in done.stdout
        assert ran == (row["isa"] in supported and row["stride"] == 1), row["name"]
    assert "bench_module[512x512x14x14-pconv] PASSED" in done.stdout
    assert "bench_max_pool[3x3s2-64x112x112-pconv] PASSED" in done.stdout
