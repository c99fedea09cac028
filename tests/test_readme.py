"""The README says what is so: its example runs; links of all pages lead somewhere."""

import re
from pathlib import Path

import pytest
import torch

import pconv_ops
from pconv_ops.opencl_device import devices

ROOT = Path(__file__).parent.parent


def test_readme_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one of them writes a file
    monkeypatch.setenv("PCONV_OPENCL_DEVICE", "portable")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5 and all(len(block.strip().splitlines()) <= 12 for block in blocks)
    convert, whole, train, arrays, opencl = (compile(block, "README.md", "exec") for block in blocks)
    space: dict = {}
    exec(convert, space)
    assert space["fast"].report.layers[0].chosen == "pconv"
    kept = int(space["model"][0].weight.count_nonzero())
    assert 64 * 128 * 9 / kept == pytest.approx(6.97, abs=0.005)
    exec(whole, space)
    torch.testing.assert_close(space["y"], space["model"](space["x"]), rtol=1e-4, atol=1e-4)
    assert "by operator: conv" in str(space["net"].profile()) and (tmp_path / "m.pconv").stat().st_size > 40000
    trained = space | training_set()
    exec(train, trained)
    assert trained["pruner"].finalized and trained["pruner"].steps == 3
    assert trained["model"][0].weight.count_nonzero() == 20 * 4
    if has_pocl():
        exec(opencl, space)
        torch.testing.assert_close(space["y"], space["model"](space["x"]), rtol=1e-4, atol=1e-4)
    exec(arrays, space)
    assert space["y"].shape == (1, 128, 56, 56) and space["y"].dtype.name == "float32"


def has_pocl():
    try:
        return any("Portable" in device.title for device in devices())
    except pconv_ops.BackendUnavailable:
        return False


def training_set():
    """What the training loop of the README takes as given: a small network and sixty batches."""
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 9, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    loader = [(torch.randn(2, 8, 5, 5), torch.tensor([1, 2]))] * 60
    return {"model": model, "loader": loader, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}


def pages(root):
    """The pages of the repository; hidden folders, such as pytest's caches, hold others."""
    found = [page for where in ("*.md", "docs/*.md", "bench/**/*.md") for page in sorted(root.glob(where))]
    return [page for page in found if not any(part.startswith(".") for part in page.relative_to(root).parts)]


def test_pages_of_hidden_folders_are_left_out(tmp_path):
    for path in ("README.md", "bench/a/README.md", "bench/.pytest_cache/README.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert [str(page.relative_to(tmp_path)) for page in pages(tmp_path)] == ["README.md", "bench/a/README.md"]


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_page_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
