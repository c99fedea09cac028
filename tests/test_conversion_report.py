"""The report of convert(): text, JSON and back, files, picture."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from pconv_ops.conversion_report import ConvertReport, LayerConversion

ROWS = [
    LayerConversion(
        "stem",
        "conv7x7",
        (8, 3, 7, 7),
        1.0,
        "dense",
        "dense is faster",
        (1, 3, 32, 32),
        "nchw",
        ("bn",),
        2.0,
        1.0,
        1e-7,
    ),
    LayerConversion(
        *("layer", "conv3x3", (8, 8, 3, 3), 0.25, "pconv", "4.00x faster than dense", (1, 8, 16, 16), "nhwc"),
        *(("bn", "add", "relu"), 0.5, 2.0, 3e-7),
    ),
    LayerConversion("odd", "ConvTranspose2d", (8, 8, 3, 3), 1.0, "dense", "not nn.Conv2d"),
]
REPORT = ConvertReport(ROWS, 3.0, 4.0, 2e-7, ["something else"], ["pool", "max_pool2d"])


def test_text_says_everything():
    text = REPORT.text()
    assert "1 of 3 convolutions accelerated, in which the original spends 50% of its time" in text
    assert "\npools: 2 replaced\n" in text
    assert "network: 3.00 ms, original 4.00 ms: 1.33x faster" in text
    assert "outputs: deviation 2.0e-07" in text and text.endswith("note: something else")
    (line,) = [line for line in text.splitlines() if line.startswith("layer ") and "pconv" in line]
    for part in ("1x8x16x16 nhwc", "8x8x3x3", "0.25", "bn+add+relu", "0.500", "2.000", "3.0e-07", "4.00x faster"):
        assert part in line


def test_nothing_measured():
    report = ConvertReport([ROWS[2]])
    assert report.accelerated_share is None and report.n_accelerated == 0
    assert report.text().endswith("0 of 1 convolutions accelerated")
    assert "0 of 0" in ConvertReport().text()


def test_json_and_back(tmp_path):
    assert ConvertReport.from_json(json.loads(json.dumps(REPORT.to_json()))) == REPORT
    assert REPORT.to_json()["accelerated_share"] == 0.5
    REPORT.save(tmp_path / "r.json")
    assert ConvertReport.load(tmp_path / "r.json") == REPORT


def changed(**row):
    data = ConvertReport([ROWS[1]]).to_json()
    data["layers"][0].update(row)
    return data


BAD = {
    "no object": ([], "layers"),
    "no layers": ({}, "layers"),
    "row": ({"layers": [3]}, r"layers\[0\] is no object"),
    "missing": ({"layers": [{"name": "a"}]}, "lacks .*'chosen'"),
    "unknown": (changed(color="red"), "unknown .*'color'"),
    "chosen": (changed(chosen="ours"), "allowed: pconv, dense"),
    "name": (changed(name=3), r"layers\[0\].name"),
    "shape": (changed(shape=[1, "2"]), "shape"),
    "density": (changed(density=None), "density"),
    "a layer twice": ({"layers": [changed()["layers"][0]] * 2}, "more than once"),
    "number": (changed(ms_ours="1"), "ms_ours"),
    "notes": ({"layers": [], "notes": "a"}, "notes"),
    "pools": ({"layers": [], "pools": [1]}, "pools"),
    "network": ({"layers": [], "ms_dense": True}, "ms_dense"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_report_is_refused(case, tmp_path):
    data, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        ConvertReport.from_json(data)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="bad.json"):
        ConvertReport.load(path)


def test_a_file_that_is_no_json(tmp_path):
    (tmp_path / "r.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match="r.json"):
        ConvertReport.load(tmp_path / "r.json")
    with pytest.raises(OSError):
        ConvertReport.load(tmp_path / "absent.json")


def test_a_report_as_text_is_not_read(tmp_path):
    REPORT.save(tmp_path / "r.txt")
    with pytest.raises(ValueError, match=r"no JSON, as save\(\) writes it to a path in .json"):
        ConvertReport.load(tmp_path / "r.txt")


def test_slower_networks_are_called_so():
    assert (
        "network: 5.00 ms, original 4.00 ms: 1.25x slower, which is kept up to 3 %"
        in replace(REPORT, ms_ours=5.0, ms_dense=4.0).text()
    )


def test_picture(tmp_path):
    REPORT.plot(tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["c.pdf", "c"])
def test_pictures_are_png(name, tmp_path):
    with pytest.raises(ValueError, match=rf"expected a suffix .png, got '{name}'"):
        REPORT.plot(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_picture_without_matplotlib(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'pconv_ops\[bench\]'"):
        REPORT.plot(tmp_path / "c.png")


def test_report_imports_without_torch_and_core():
    code = "import sys; sys.modules['torch'] = None; import pconv_ops.conversion_report"
    subprocess.run([sys.executable, "-c", code], check=True)
