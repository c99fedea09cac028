"""Reports: counts, text, JSON, files, and the layerwise information of packed layers."""

import json
import subprocess
import sys

import numpy as np
import pytest

from pconv_ops.conversion_report import ConvertReport, LayerConversion
from pconv_ops.packing import pack
from pconv_ops.report import (
    InspectReport,
    LayerPruning,
    PruneReport,
    Spread,
    format_table,
    inspect_packed,
    layer_kind,
    mask_counts,
)


def pruned_weight():
    weight = np.zeros((3, 2, 3, 3), dtype=np.float32)
    weight[0, 0, 1] = 1  # mask 0b000111000
    weight[0, 1, 1] = -2
    weight[1, 1, 0, 0] = 3  # mask 1
    return weight


def reports():
    packed = InspectReport([inspect_packed("a", FakePacked())])
    conversion = ConvertReport([LayerConversion("a", "conv3x3", (3, 2, 3, 3), 0.25, "pconv", "faster")])
    return [PruneReport([LayerPruning.of("a", pruned_weight(), 1, "patterns")]), conversion, packed]


class FakePacked:
    """Four 3x3 filters over four channels, two patterns, written by hand from docs/FORMAT.md.

    Filter 0 keeps channels 0 1 2 3 with patterns A B A A, filter 1 nothing, filter 2 channels 1 3 with B B, filter 3
    channels 0 2 3 with B A B. Reordered: filters 0, 3, 2, 1; A before B.
    """

    out_channels, in_channels, groups, kernel_size = 4, 4, 1, (3, 3)
    has_bias, nnz, n_bytes = True, 9 * 4, 500

    def arrays(self):
        return {
            "masks": np.array([[0x03A], [0x0B2]], dtype=np.uint64),
            "filter_order": np.array([0, 3, 2, 1], dtype=np.uint32),
            "kernel_start": np.array([0, 4, 7, 9, 9], dtype=np.uint32),
            "run_start": np.array([0, 2, 4, 5, 5], dtype=np.uint32),
            "runs": np.array([[0, 3], [1, 1], [0, 1], [1, 2], [1, 2]], dtype=np.uint32),
            "channels": np.array([0, 2, 3, 1, 2, 0, 3, 1, 3], dtype=np.uint16),
        }


def test_layer_pruning_counts_nonzero_weights():
    layer = LayerPruning.of("a", pruned_weight(), 1, "why")
    assert (layer.nnz, layer.total, layer.kernels_kept, layer.kernels_total) == (7, 54, 3, 6)
    assert layer.patterns == {0b000111000: 2, 1: 1} and list(layer.patterns) == [0b000111000, 1]
    assert tuple(layer.kernels_per_filter) == (0, 1.0, 2)
    assert layer.density == 7 / 54 and layer.kind == "conv3x3" and layer.shape == (3, 2, 3, 3)


def test_prune_report_adds_layers_up():
    layer = LayerPruning.of("a", pruned_weight(), 1, "why")
    report = PruneReport([layer, layer])
    assert (report.nnz, report.total, report.density) == (14, 108, 7 / 54)
    assert "14 of 108 weights kept, 7.71x fewer" in report.text()
    assert "0 of 0 weights kept" in PruneReport().text()


@pytest.mark.parametrize(
    ("shape", "groups", "kind"),
    [((8, 4, 3, 3), 1, "conv3x3"), ((8, 1, 3, 3), 4, "depthwise3x3"), ((8, 2, 1, 5), 4, "grouped1x5"),
     ((8, 1, 3, 3), 1, "conv3x3")],
)  # fmt: skip
def test_layer_kind(shape, groups, kind):
    assert layer_kind(shape, groups) == kind


@pytest.mark.parametrize("taps", [1, 9, 25, 81])
def test_mask_counts_of_any_kernel_size(taps):
    kept = np.random.default_rng(taps).random((200, taps)) < 2 / taps
    expected = {}
    for row in kept:
        mask = sum(1 << t for t in range(taps) if row[t])
        if mask:
            expected[mask] = expected.get(mask, 0) + 1
    counts = mask_counts(kept)
    assert counts == expected
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert mask_counts(np.zeros((5, taps), dtype=bool)) == {}


def test_format_table_aligns_numbers_right_and_text_left():
    table = format_table(("name", "n", "ratio"), [("a", 5, 1.234), ("longer", 1000, 10.0)])
    assert table.splitlines() == [
        "name       n  ratio",
        "------  ----  -----",
        "a          5   1.23",
        "longer  1000  10.00",
    ]
    assert format_table(("a", "b"), []).splitlines() == ["a  b", "-  -"]
    with pytest.raises(ValueError, match="expected 2 cells"):
        format_table(("a", "b"), [(1,)])


def test_inspect_packed_by_hand():
    layer = inspect_packed("conv", FakePacked())
    assert layer.patterns == {0x0B2: 5, 0x03A: 4}
    assert (layer.connections, layer.connections_total) == (9, 16)
    assert layer.kernels_per_filter == Spread(0, 9 / 4, 4)
    # Natural order: A | B | A A, then B B, then B | A | B: seven runs, never across filters.
    assert (layer.n_runs_before, layer.runs_before) == (7, Spread(1, 9 / 7, 2))
    assert (layer.n_runs_after, layer.runs_after) == (5, Spread(1, 9 / 5, 3))
    assert layer.density == 36 / 144 and layer.shape == (4, 4, 3, 3)
    assert layer.bytes_packed == 500
    assert layer.bytes_dense == 4 * 144 + 16
    assert layer.bytes_csr == 4 * 36 + 4 * 36 + 4 * 5 + 16


def test_inspect_packed_counts_every_filter_of_a_block():
    class FakeBlocks(FakePacked):
        out_channels, nnz = 8, 2 * 9 * 4

    layer, single = inspect_packed("conv", FakeBlocks()), inspect_packed("conv", FakePacked())
    assert layer.patterns == {mask: 2 * n for mask, n in single.patterns.items()}
    assert (layer.connections, layer.n_runs_before, layer.n_runs_after) == (18, 14, 10)
    assert layer.kernels_per_filter == single.kernels_per_filter and layer.runs_before == single.runs_before


def natural_runs(weight):
    """Run lengths of OIHW weights, the obvious way."""
    lengths = []
    for kernels in weight:
        last = None
        for kernel in kernels:
            if kernel.any():
                mask = (kernel != 0).tobytes()
                if mask == last:
                    lengths[-1] += 1
                else:
                    lengths.append(1)
                last = mask
    return lengths


@pytest.mark.parametrize(("shape", "groups"), [((12, 6, 3, 3), 1), ((8, 4, 3, 3), 2), ((4, 3, 9, 9), 1)])
def test_inspect_packed_agrees_with_the_weights(shape, groups):
    rng = np.random.default_rng(0)
    masks = rng.random((3, *shape[2:])) < 0.3
    weight = rng.standard_normal(shape).astype(np.float32) * masks[rng.integers(0, 3, shape[:2])]
    weight *= rng.random(shape[:2])[:, :, None, None] < 0.6
    packed = pack(weight, groups=groups)
    layer, expected = inspect_packed("a", packed), LayerPruning.of("a", weight, groups, "")
    assert (layer.shape, layer.kind, layer.nnz) == (shape, expected.kind, expected.nnz)
    assert layer.patterns == expected.patterns and layer.kernels_per_filter == expected.kernels_per_filter
    assert (layer.connections, layer.connections_total) == (expected.kernels_kept, expected.kernels_total)
    runs = natural_runs(weight)
    assert layer.n_runs_before == len(runs) and layer.runs_before == Spread.of(np.array(runs))
    assert layer.n_runs_after <= layer.n_runs_before
    assert layer.bytes_packed == len(packed.to_bytes()) and layer.bytes_dense == weight.nbytes


def test_inspect_packed_of_an_empty_layer():
    layer = inspect_packed("a", pack(np.zeros((4, 4, 3, 3), dtype=np.float32)))
    assert layer.patterns == {} and layer.connections == 0
    assert layer.runs_before == layer.runs_after == Spread(0, 0.0, 0)
    assert "0/0.0/0" in InspectReport([layer]).text()


@pytest.mark.parametrize("report", reports(), ids=lambda r: type(r).__name__)
def test_reports_are_text_json_and_files(report, tmp_path):
    assert repr(report) == report.text() and " a " in report.text().replace("\n", " ")
    plain = report.to_json()
    assert json.loads(json.dumps(plain)) == plain and plain["layers"][0]["name"] == "a"
    report.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == plain
    report.save(str(tmp_path / "r.txt"))
    assert (tmp_path / "r.txt").read_text() == report.text() + "\n"
    with pytest.raises(ValueError, match=r"suffix .txt or .json, got 'r.csv'"):
        report.save(tmp_path / "r.csv")
    assert not (tmp_path / "r.csv").exists()


def test_json_names_patterns_and_lists_spreads():
    layer = PruneReport([LayerPruning.of("a", pruned_weight(), 1, "why")]).to_json()["layers"][0]
    assert layer["patterns"] == {"p000111000": 2, "p100000000": 1}
    assert layer["kernels_per_filter"] == [0, 1.0, 2] and layer["shape"] == [3, 2, 3, 3]


def test_report_imports_without_torch_and_core():
    code = "import sys; sys.modules['torch'] = None; import pconv_ops.report"
    subprocess.run([sys.executable, "-c", code], check=True)
