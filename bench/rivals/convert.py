"""A network of models.py in the forms that rivals read: python bench/rivals/convert.py FOLDER.

Runs in the rivals' environment. A form that cannot be made leaves FOLDER/FORM.failed with the reason, which worker.py
repeats and run.py reports.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np


def to_onnx(folder: Path, name: str = "net.onnx", opset: int = 17) -> None:
    """From TorchScript; BatchNorm is folded. Opset 13: DeepSparse's."""
    import torch

    model, x = torch.jit.load(str(folder / "net.pt")), torch.from_numpy(np.load(folder / "input.npy"))
    names = {"input_names": ["x"], "output_names": ["y"]}
    torch.onnx.export(model, (x,), str(folder / name), dynamo=False, opset_version=opset, **names)


def to_onnx13(folder: Path) -> None:
    to_onnx(folder, "net13.onnx", 13)


def to_mnn(folder: Path, name: str = "net.mnn", *options: str) -> None:
    import _tools  # of MNN: its command line without its telemetry

    files = ["--modelFile", str(folder / "net.onnx"), "--MNNModel", str(folder / name)]
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", *files, "--bizCode", "net", *options])


def to_mnn_sparse(folder: Path) -> None:
    to_mnn(folder, "net_sparse.mnn", "--detectSparseSpeedUp")


def to_ncnn(folder: Path) -> None:
    shape = ",".join(map(str, np.load(folder / "input.npy").shape))
    pnnx = Path(sys.executable).with_name("pnnx")
    command = [str(pnnx), "net.pt", f"inputshape=[{shape}]", "fp16=0"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)


def to_tflite(folder: Path) -> None:
    import litert_torch
    import torch

    program, x = torch.export.load(folder / "net.pt2"), torch.from_numpy(np.load(folder / "input.npy"))
    litert_torch.convert(program.module(), (x,)).export(str(folder / "net.tflite"))


FORMS: dict[str, Callable[[Path], None]] = {
    "net.onnx": to_onnx,
    "net13.onnx": to_onnx13,
    "net.mnn": to_mnn,
    "net_sparse.mnn": to_mnn_sparse,
    "net.ncnn.param": to_ncnn,
    "net.tflite": to_tflite,
}


def made(folder: Path, form: str) -> str:
    """Makes a form in a process of its own, since converters may crash; why there is none, or ''."""
    for old in (form, form.replace(".param", ".bin")):
        (folder / old).unlink(missing_ok=True)
    command = [sys.executable, __file__, str(folder), form]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    except subprocess.TimeoutExpired as error:
        return str(error)
    if done.returncode != 0:
        return f"status {done.returncode}: {' '.join(done.stderr.strip().splitlines()[-3:])[-400:]}"
    return "" if (folder / form).exists() else f"the converter wrote no {form}"


def main() -> int:
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        warnings.simplefilter("ignore")
        FORMS[sys.argv[2]](folder)
        return 0
    for form in FORMS:
        why = made(folder, form)
        failed = folder / f"{form}.failed"
        failed.unlink(missing_ok=True)
        if why:
            failed.write_text(why + "\n")
        print(f"{folder.name}/{form}{': FAILED ' if why else ''}{why}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
