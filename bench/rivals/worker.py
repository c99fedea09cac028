"""One network in one framework, timed on demand: python bench/rivals/worker.py FRAMEWORK FOLDER THREADS.

Runs in the framework's own environment. Loads the model that models.py and convert.py wrote, prints {"version": ...},
then answers lines of its standard input with lines of JSON: `output FILE` writes what the model returns for input.npy;
`time REPEATS` gives mean seconds of a call, after warming up. Input and output are NCHW fp32 in memory.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Run = Callable[[], Any]  # returns something that np.asarray takes
Loader = Callable[[Path, np.ndarray, int], Run]
ROOT = Path(__file__).resolve().parents[2]


def _eager(folder: Path, threads: int) -> Any:
    """The pruned network itself, the same numbers as in the files."""
    import torch
    from models import model_of

    torch.set_num_threads(threads)
    return model_of(folder.name)[0].requires_grad_(False)


def _torch(folder: Path, x: np.ndarray, threads: int, layout: str = "contiguous_format", compiled: bool = False) -> Run:
    import torch

    kind = getattr(torch, layout)
    model, tensor = _eager(folder, threads).to(memory_format=kind), torch.from_numpy(x).to(memory_format=kind)
    if compiled:
        model = torch.compile(model, options={"freezing": True})  # packs the weights beforehand

    def run() -> Any:
        with torch.inference_mode():
            return model(tensor)

    return run


def _torch_channels_last(folder: Path, x: np.ndarray, threads: int) -> Run:
    return _torch(folder, x, threads, "channels_last")


def _torch_compile(folder: Path, x: np.ndarray, threads: int) -> Run:
    return _torch(folder, x, threads, compiled=True)


def _onnxruntime(folder: Path, x: np.ndarray, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(folder / "net.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def _openvino(folder: Path, x: np.ndarray, threads: int, precision: str | None = "f32") -> Run:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = precision
    request = openvino.Core().compile_model(str(folder / "net.onnx"), "CPU", options).create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)[0]


def _openvino_default(folder: Path, x: np.ndarray, threads: int) -> Run:
    return _openvino(folder, x, threads, None)


def _mnn(folder: Path, x: np.ndarray, threads: int, name: str = "net.mnn") -> Run:
    import MNN
    from MNN import expr, nn

    manager = nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": threads},))
    module = nn.load_module_from_file(str(folder / name), ["x"], ["y"], runtime_manager=manager)
    given = expr.const(x, list(x.shape), expr.NCHW)

    def run() -> Any:
        y = module.forward([expr.convert(given, expr.NC4HW4)])[0]
        return expr.convert(y, expr.NCHW).read()

    run.keep = (MNN, manager)  # type: ignore[attr-defined]
    return run


def _mnn_sparse(folder: Path, x: np.ndarray, threads: int) -> Run:
    return _mnn(folder, x, threads, "net_sparse.mnn")


def _ncnn(folder: Path, x: np.ndarray, threads: int) -> Run:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in [name for name in dir(net.opt) if name.startswith(("use_fp16", "use_bf16", "use_int8"))]:
        setattr(net.opt, name, False)
    net.opt.use_vulkan_compute = False
    net.load_param(str(folder / "net.ncnn.param"))
    net.load_model(str(folder / "net.ncnn.bin"))

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(x[0]))
        return np.array(extractor.extract("out0")[1])[None]

    return run


def _litert(folder: Path, x: np.ndarray, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(str(folder / "net.tflite"), num_threads=threads)
    model.allocate_tensors()
    given, got = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]

    def run() -> Any:
        model.set_tensor(given, x)
        model.invoke()
        return model.get_tensor(got)

    return run


def _deepsparse(folder: Path, x: np.ndarray, threads: int) -> Run:
    import deepsparse

    engine = deepsparse.compile_model(str(folder / "net13.onnx"), batch_size=1, num_cores=threads)
    return lambda: engine.run([x], val_inp=False)[0]


def _pconv(folder: Path, x: np.ndarray, threads: int, compiled: bool = False) -> Run:
    import torch

    import pconv_ops

    model, tensor = _eager(folder, threads), torch.from_numpy(x)
    pconv_ops.set_num_threads(threads)
    if compiled:
        network = pconv_ops.compile(model, tensor)
        return lambda: network(x)
    converted = pconv_ops.convert(model, tensor)

    def run() -> Any:
        with torch.inference_mode():
            return converted(tensor)

    return run


def _pconv_compiled(folder: Path, x: np.ndarray, threads: int) -> Run:
    return _pconv(folder, x, threads, compiled=True)


OWN_FORM = ("pconv", "PyTorch", "torch")  # need no file of convert.py
FORMS = {  # others: net.onnx
    "MNN": "net.mnn",
    "MNN sparse": "net_sparse.mnn",
    "ncnn": "net.ncnn.param",
    "LiteRT": "net.tflite",
    "DeepSparse": "net13.onnx",
}
LOADERS: dict[str, tuple[str, Loader]] = {  # (distribution, loader)
    "pconv_ops compiled": ("pconv-ops", _pconv_compiled),
    "pconv_ops converted": ("pconv-ops", _pconv),
    "PyTorch": ("torch", _torch),
    "PyTorch channels_last": ("torch", _torch_channels_last),
    "torch.compile": ("torch", _torch_compile),
    "ONNX Runtime": ("onnxruntime", _onnxruntime),
    "OpenVINO": ("openvino", _openvino),
    "OpenVINO default precision": ("openvino", _openvino_default),
    "MNN": ("MNN", _mnn),
    "MNN sparse": ("MNN", _mnn_sparse),
    "ncnn": ("ncnn", _ncnn),
    "LiteRT": ("ai-edge-litert", _litert),
    "DeepSparse": ("deepsparse", _deepsparse),
}


def timing() -> ModuleType:
    """pconv_ops/timing.py, which needs nothing: the package itself is not in every environment."""
    spec = importlib.util.spec_from_file_location("timing", ROOT / "pconv_ops" / "timing.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    framework, folder, threads = sys.argv[1], Path(sys.argv[2]).resolve(), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # frameworks that print do not disturb the answers
    clock = timing()
    clock.keep_freed_memory()
    name, loader = LOADERS[framework]
    failed = folder / f"{FORMS.get(framework, 'net.onnx')}.failed"
    if failed.exists() and not framework.startswith(OWN_FORM):
        raise RuntimeError(f"not converted: {failed.read_text().strip()}")
    run = loader(folder, np.load(folder / "input.npy"), threads)
    run()
    print(json.dumps({"version": version(name)}), file=answers)
    for line in sys.stdin:
        word, argument = line.split(maxsplit=1)
        if word == "output":
            np.save(argument.strip(), np.ascontiguousarray(np.asarray(run()), np.float32))
            print("{}", file=answers)
        elif word == "time":
            print(json.dumps({"seconds": clock.seconds_per_run(run, int(argument))}), file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
