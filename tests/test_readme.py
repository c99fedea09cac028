"""The README says what is so: its example runs, its links lead somewhere."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_readme_example_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1 and len(blocks[0].strip().splitlines()) <= 12
    space: dict = {}
    exec(compile(blocks[0], "README.md", "exec"), space)
    assert space["fast"].report.layers[0].chosen == "pconv"


def test_readme_links_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "bench" / "README.md", ROOT / "CHANGELOG.md"):
        for link in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
