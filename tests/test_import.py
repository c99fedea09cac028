"""What `import pconv_ops` needs and offers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pconv_ops

BLOCK_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pyopencl", "matplotlib", "tqdm", "rich"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_works_with_numpy_alone():
    code = f"""{BLOCK_TORCH}
import numpy as np, pconv_ops
weight = np.zeros((2, 2, 3, 3), np.float32)
weight[0, 1, 1, 1] = 2
y = pconv_ops.conv2d(np.ones((1, 2, 4, 4), np.float32), pconv_ops.pack(weight, padding=1), "relu")
assert y[0, 0].min() == 2 and y[0, 1].max() == 0
assert len(pconv_ops.SCP4) == 4
pconv_ops.show_config()
assert "PatternConv2d" in dir(pconv_ops)
for name in ("ADMMPruner", "PatternConv2d", "convert", "prune_"):
    try:
        getattr(pconv_ops, name)
    except ImportError as error:
        assert "torch" in str(error), error
    else:
        raise AssertionError(name)
print("fine")
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("fine\n")


def test_import_loads_nothing_heavy():
    heavy = ("torch", "matplotlib", "tqdm", "rich", "pyopencl")
    assert run(f"import sys, pconv_ops; print([m for m in {heavy} if m in sys.modules])").stdout.strip() == "[]"


def test_help_of_the_command_loads_nothing_heavy():
    result = run(f"""{BLOCK_TORCH}
from pconv_ops.cli import main
main(["bench", "--help"])""")
    assert result.returncode == 0, result.stderr
    assert "{scp4,random8,random12}" in result.stdout


def test_all_names_resolve():
    assert set(pconv_ops.__all__) <= set(dir(pconv_ops))
    for name in pconv_ops.__all__:
        assert getattr(pconv_ops, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = pconv_ops.no_such_name


@pytest.mark.parametrize(
    "code",
    [
        "import pconv_ops.convert, pconv_ops; f = pconv_ops.convert",
        "from pconv_ops.convert import convert; import pconv_ops; f = pconv_ops.convert",
        "import pconv_ops; f = pconv_ops.convert; import pconv_ops.convert; f = pconv_ops.convert",
        "from pconv_ops import convert as f",
    ],
)
def test_convert_is_the_function_however_it_is_imported(code):
    result = run(code + "\nassert callable(f), f")
    assert result.returncode == 0, result.stderr


def test_version_is_the_core_version():
    assert pconv_ops.__version__ == pconv_ops._native.version()


def test_typed_package():
    package = os.path.dirname(pconv_ops.__file__)
    assert {"py.typed", "_native.pyi"} <= set(os.listdir(package))


def test_cpu_info_and_show_config(capsys):
    info = pconv_ops.cpu_info()
    assert info["cpus"] >= 1
    assert info["isa"] in {row["name"] for row in info["isas"] if row["supported"]}
    assert any(name.endswith(info["isa"]) for name in info["ukernels"])
    pconv_ops.show_config()
    text = capsys.readouterr().out
    for part in (pconv_ops.__version__, info["isa"], "threads", info["model"]):
        assert part in text


def test_forced_isa_shows_and_unknown_one_is_an_error():
    code = "import pconv_ops; print(pconv_ops.cpu_info()['isa'])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, env=os.environ | {"PCONV_FORCE_ISA": "scalar"}, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.strip() == "scalar"
    result = subprocess.run(
        command, env=os.environ | {"PCONV_FORCE_ISA": "mmx"}, capture_output=True, text=True, timeout=120
    )
    assert result.returncode != 0 and "BackendUnavailable" in result.stderr and "scalar" in result.stderr


def test_source_tree_without_the_core_says_what_to_do(tmp_path):
    package = tmp_path / "pconv_ops"
    package.mkdir()
    for source in Path(pconv_ops.__file__).parent.glob("*.py"):
        (package / source.name).write_bytes(source.read_bytes())
    command = [sys.executable, "-S", "-m", "pconv_ops", "info"]  # -S: nor is it installed
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "the compiled core is not in" in done.stderr and "make build" in done.stderr
    assert done.stderr.count("\n") == 1
