"""Pictures: what is drawn is what the data say, and a PNG comes out."""

import struct
import sys

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pconv_ops.patterns import SCP4, PatternSet
from pconv_ops.plots import (
    FAINT,
    OURS,
    LayerSpeed,
    LayerTimes,
    SweepLine,
    draw_histogram,
    draw_speeds,
    draw_sweep,
    draw_taps,
    draw_times,
    save_conversion_picture,
    save_speed_picture,
    save_sweep_picture,
)

LAYERS = [LayerSpeed("features.2", 120.0, 20.0), LayerSpeed("features.5", 90.0, 30.0)]


@pytest.fixture
def axes():
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.subplots()


def test_picture_is_a_png_of_a_readable_size(tmp_path):
    path = tmp_path / "demo.png"
    save_speed_picture(path, "title", LAYERS, dict.fromkeys(SCP4.bits, 10), peak=200.0)
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    assert width >= 1000 and height >= 400


def test_picture_leaves_pyplot_alone(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    save_speed_picture(tmp_path / "p.png", "title", LAYERS, {SCP4.bits[0]: 1})
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_speed_bars_have_the_heights_of_the_data(axes):
    draw_speeds(axes, LAYERS, peak=200.0)
    assert [bar.get_height() for bar in axes.patches] == [120.0, 90.0, 20.0, 30.0]
    assert [text.get_text() for text in axes.texts] == ["6.0x", "3.0x"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["features.2", "features.5"]
    assert axes.get_ylim()[1] > 200.0


def test_histogram_is_sorted_by_count_then_mask(axes):
    draw_histogram(axes, {0x0B2: 5, 0x03A: 7, 0x09A: 5})
    heights = [bar.get_height() for bar in axes.patches if bar.get_width() == pytest.approx(0.6)]
    assert heights == [7, 5, 5]
    assert axes.texts[0].get_text().startswith("7\n41.2 %")
    cells = [patch for patch in axes.patches if patch.get_width() < 0.5]
    kept = [cell.get_facecolor() == cells[4].get_facecolor() for cell in cells]  # every SCP keeps its centre
    assert [sum(bit << tap for tap, bit in enumerate(kept[i : i + 9])) for i in (0, 9, 18)] == [0x03A, 0x09A, 0x0B2]


def test_histogram_of_many_or_no_patterns_draws(axes):
    draw_histogram(axes, {})
    draw_histogram(axes, dict.fromkeys(PatternSet.random(12).bits, 3))
    assert axes.texts[-1].get_text() == "8%"


def test_taps_are_drawn_in_reading_order(axes):
    draw_taps(axes, 0b000000110, x=0.0, y=0.0, cell_x=1.0, cell_y=1.0)
    cells = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    from matplotlib.colors import to_rgba

    assert [cell.get_facecolor() == to_rgba(OURS) for cell in cells[:3]] == [False, True, True]
    assert all(cell.get_facecolor() == to_rgba(FAINT) for cell in cells[3:])
    assert cells[0].get_x() < cells[1].get_x() and cells[0].get_y() > cells[3].get_y()


@pytest.mark.parametrize("break_even", [0.25, 1.0, None])
def test_sweep_draws_both_times_and_marks_the_break_even(axes, break_even):
    draw_sweep(axes, SweepLine("conv1x1", [0.0, 0.5, 1.0], [1.0, 2.0, 3.0], [1.5, 1.5, 1.5], break_even))
    dense, ours, *mark = axes.get_lines()
    assert list(ours.get_xdata()) == [0, 50, 100] and list(ours.get_ydata()) == [1, 2, 3]
    assert list(dense.get_ydata()) == [1.5] * 3 and axes.get_ylim()[1] > 3
    if break_even is None:
        assert not mark and axes.texts[0].get_text() == "never slower"
    else:
        at = 100 * break_even
        assert list(mark[0].get_xdata()) == [at, at] and axes.texts[0].get_text() == f"break-even {at:.0f} %"
        assert axes.texts[0].get_ha() == ("left" if at < 70 else "right")


def test_sweep_picture_takes_any_number_of_lines_but_none(tmp_path):
    line = SweepLine("conv1x1", [0.0, 1.0], [1.0, 2.0], [1.5, 1.5], 0.5)
    for count in (1, 2, 3):
        path = tmp_path / f"{count}.png"
        save_sweep_picture(path, "title", [line] * count)
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match="at least one"):
        save_sweep_picture(tmp_path / "none.png", "title", [])


TIMES = [
    LayerTimes("a", 1.0, 4.0, True),
    LayerTimes("b", 3.0, 2.0, False),
    LayerTimes("c", None, None, True),
    LayerTimes("d", None, None, False),
]


def test_times_of_layers_have_the_lengths_of_the_data(axes):
    draw_times(axes, TIMES)
    assert [bar.get_width() for bar in axes.patches] == [1.0, 4.0, 3.0, 2.0]
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [False, True, True, False]
    assert [text.get_text() for text in axes.texts] == ["4.0x", "0.7x", "packed, not measured", "dense, not measured"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("layers", [TIMES, []])
def test_conversion_picture_is_a_png(tmp_path, layers):
    save_conversion_picture(tmp_path / "c.png", "title", layers)
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
