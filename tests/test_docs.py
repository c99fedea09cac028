"""docs/ says what is so: generated tables are fresh, the example of the format is the golden file."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from pconv_ops import _native

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "kernels_doc.py"


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_kernels_page_is_fresh():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kernels_page_stale_is_noticed(tmp_path):
    """The check on a copy of the sources: right as it is, wrong after a row of the table is gone."""
    for path in ("src/isas.def", "src/dispatch.cpp", "include/pconv/patterns.def", "docs/KERNELS.md"):
        copy(path, tmp_path)
    for path in (ROOT / "src" / "kernels").rglob("*.*"):
        copy(str(path.relative_to(ROOT)), tmp_path)
    script = copy("scripts/kernels_doc.py", tmp_path)
    assert subprocess.run([sys.executable, script, "--check"]).returncode == 0
    table = tmp_path / "src" / "kernels" / "table.inl"
    before = table.read_text(encoding="utf-8")
    table.write_text(re.sub(r"conv3x3_row<V, \d+, \d+>\(\), +", "", before, count=1), encoding="utf-8")
    assert table.read_text(encoding="utf-8") != before
    assert subprocess.run([sys.executable, script, "--check"], capture_output=True).returncode == 1


def copy(path: str, root: Path) -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(read(path), encoding="utf-8")
    return target


def test_kernels_page_lists_what_is_built():
    """What the sources say, read by a script, is what the compiler made of them."""
    page = read("docs/KERNELS.md")
    built = {isa["name"] for isa in _native.isas()}
    listed = {}
    for name, isa, rows, vectors, lanes in re.findall(r"\| `(\w+)` \| (\w+) \| (\d+) x (\d+) x (\d+) \|", page):
        listed[name] = (isa, int(rows), int(vectors), int(lanes))
    assert {name: row for name, row in listed.items() if row[0] in built} == {
        u["name"]: (u["isa"], u["rows"], u["vectors"], u["lanes"]) for u in _native.ukernels()
    }
    for isa in _native.isas():
        features = ", ".join(isa["features"]) or "none"
        assert re.search(rf"^\| {isa['name']} \| \w+ \| {features} \| {isa['lanes']} \|", page, re.MULTILINE), isa
    counts = [bin(mask).count("1") for _, mask in _native.patterns()]
    histogram = {int(taps): int(masks) for taps, masks in re.findall(r"^\| (\d+) \| (\d+) \|$", page, re.MULTILINE)}
    assert histogram == {taps: counts.count(taps) for taps in set(counts)}


def test_format_example_is_the_golden_file():
    lines = re.findall(
        r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  +(\S.*))?$", read("docs/FORMAT.md"), re.MULTILINE
    )
    data = b""
    for offset, hexadecimal, _ in lines:
        assert int(offset, 16) == len(data), offset
        data += bytes.fromhex(hexadecimal)
    assert data == (ROOT / "tests" / "data" / "packed_v1_small.bin").read_bytes()


def test_format_example_explains_the_header():
    """The words beside the header's bytes say what these hold."""
    page = read("docs/FORMAT.md")
    header = page[page.index("\n0000  ") : page.index("\n0080  ")]
    said = {name: int(value, 0) for name, value in re.findall(r"(\w+) (0x[0-9a-f]+|\d+)(?=[,:\n]|$)", header[1:])}
    data = (ROOT / "tests" / "data" / "packed_v1_small.bin").read_bytes()
    packed = _native.PackedConv.from_bytes(data)
    assert said["total_bytes"] == len(data)
    assert (said["out_channels"], said["in_channels"], said["groups"]) == (
        packed.out_channels,
        packed.in_channels,
        packed.groups,
    )
    assert tuple(said[f"pad_{side}"] for side in ("top", "left", "bottom", "right")) == packed.padding
    assert (said["n_kernels"], said["n_weights"]) == (packed.n_kernels, packed.nnz)
    arrays = packed.arrays()
    assert (said["n_patterns"], said["n_runs"]) == (len(arrays["masks"]), len(arrays["runs"]))


def test_architecture_names_every_file():
    page = read("docs/ARCHITECTURE.md")
    named = {Path(name).name for name in re.findall(r"`([^`\s]+\.\w+)`", page)}
    wanted = [
        path
        for folder in ("src", "include", "pconv_ops", "apps", "bench", "cmake", "scripts", "tests/native", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".c", ".cmake", ".cpp", ".def", ".h", ".in", ".inl", ".py", ".pyi", ".pyx", ".sh"}
    ]
    assert len(wanted) > 80
    built = {"_native.cpp", "_eager.cpp"}  # written by Cython beside its source
    assert [str(path.relative_to(ROOT)) for path in wanted if path.name not in named | built] == []


def test_architecture_has_no_long_lines():
    lines = enumerate(read("docs/ARCHITECTURE.md").splitlines(), 1)
    assert [(number, len(line)) for number, line in lines if len(line) > 120] == []


def test_architecture_names_every_test():
    page = read("docs/ARCHITECTURE.md")
    modules = {path.stem for path in (ROOT / "pconv_ops").glob("*.py")}
    others = [path.name for path in (ROOT / "tests").glob("*.py") if path.stem.removeprefix("test_") not in modules]
    assert [name for name in others if name not in page] == []


def imported(path: Path) -> set[str]:
    """Sibling modules that a file imports when it runs, in functions too."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and id(node) not in for_types:
            names |= {node.module} if node.module else {alias.name for alias in node.names}
    return names


def test_python_imports_go_one_way():
    line = re.search(r"^cli -> [^`]+", read("docs/ARCHITECTURE.md"), re.MULTILINE)
    assert line is not None
    order = line[0].replace("->", " ").split()
    files = {path.stem: path for path in (ROOT / "pconv_ops").glob("*.py") if not path.stem.startswith("__")}
    assert set(order) == {*files, "_native", "_eager"}
    for name, path in files.items():
        allowed = set(order[order.index(name) + 1 :])
        assert imported(path) <= allowed, f"{name} imports {sorted(imported(path) - allowed)}"
