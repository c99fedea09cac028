"""A compiled network on an OpenCL device: OpenCLModel. Activations stay there from the first operator to the last.

Needs pyopencl; a device is opened when the first model is made. Kernels are in cl/.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ._native import BackendUnavailable, NativeModel
from .compiled import MARGIN, CompiledModel, check_runs, contiguous
from .graph import Shape
from .memory import aligned_empty
from .opencl_conv import TEXEL, Tile
from .opencl_device import Device, DeviceInfo, OpenCLError, devices, find_device, open_device, translated
from .opencl_ops import Target
from .opencl_session import Session
from .opencl_tuning import candidates, layer_key, load_tiles, save_tiles
from .profile_report import Profile, StepTime

__all__ = ["DeviceInfo", "OpenCLError", "OpenCLModel", "devices", "find_device"]

STORAGE = ("fp32", "fp16")
_MAX_SHAPES = 4  # sets of input shapes that stay planned on the device


class OpenCLModel(CompiledModel):
    """A compiled network on an OpenCL device (PCONV, AAAI 2020, section 5), called as CompiledModel is; takes
    pyopencl's arrays too, of `context`, and then returns such. One call at a time for each set of shapes; others wait.

    device: a part of "platform: device"; without it PCONV_OPENCL_DEVICE decides, else the first GPU is taken, or the
    first device. storage: 'fp16' stores activations as half and computes in fp32: results are rounded after every
    operator. Runs of one device wait for each other. A process that was forked after a device was opened cannot use
    OpenCL: spawn it instead.
    """

    def __init__(self, model: NativeModel, device: str | None = None, storage: str = "fp32") -> None:
        """BackendUnavailable: no pyopencl, no such device. ValueError: another storage."""
        super().__init__(model)
        if storage not in STORAGE:
            raise ValueError(f"storage: expected one of {', '.join(STORAGE)}, got {storage!r}")
        self.device: Device = open_device(device)
        self._usual = _usual_target(self.device, storage == "fp16")
        self._target = replace(self._usual, tiles=load_tiles(self.device.info, self._usual.half))
        self._constants: dict[Any, Any] = {}
        self._planned: OrderedDict[tuple[Shape, ...], Session] = OrderedDict()
        self._planning = threading.Lock()

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | None = None, storage: str = "fp32") -> OpenCLModel:
        """A file that CompiledModel.save() wrote, for a device. Errors as CompiledModel.load and the constructor."""
        return cls(CompiledModel.load(path).native, device, storage)

    def __reduce__(self) -> tuple[Any, ...]:
        """For the same device, or whatever the other side has by its name."""
        storage = STORAGE[int(self._usual.half)]
        return _restored, (self.to_bytes(), self.device.info.title, storage)

    def __repr__(self) -> str:
        return f"{super().__repr__().replace('CompiledModel', 'OpenCLModel', 1)[:-1]}; {self.device.info.title})"

    @property
    def context(self) -> Any:
        """pyopencl's context of the device."""
        return self.device.context

    @property
    def queue(self) -> Any:
        """pyopencl's queue that everything runs on."""
        return self.device.queue

    # ---- running

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The network's outputs, of the kind of the first input. Errors as CompiledModel's; MemoryError: the device has
        no memory left; OpenCLError: it refused to build or run. The object stays usable."""
        tensors = self._ordered(inputs, named)
        on_device = [self._is_device_array(tensor) for tensor in tensors]
        arrays = [
            self._checked_array(name, tensor) if there else contiguous(name, tensor)
            for name, tensor, there in zip(self._names, tensors, on_device, strict=True)
        ]
        session = self.session(tuple(tuple(tensor.shape) for tensor in tensors))
        outputs = [self._empty(tensors[0], session.shapes[value]) for value in session.outputs]
        cl, queue = self.device.cl, self.device.queue

        def write(i: int, buffer: Any) -> Any:
            if not on_device[i]:
                return cl.enqueue_copy(queue, buffer, _as_numpy(arrays[i]), is_blocking=False)
            part = {"src_offset": arrays[i].offset, "byte_count": 4 * math.prod(session.shapes[i])}
            return cl.enqueue_copy(queue, buffer, arrays[i].base_data, **part, wait_for=arrays[i].events)

        def read(i: int, buffer: Any) -> Any:
            if not on_device[0]:
                return cl.enqueue_copy(queue, _as_numpy(outputs[i]), buffer, is_blocking=False)
            n_bytes = 4 * math.prod(outputs[i].shape)
            return cl.enqueue_copy(queue, outputs[i].base_data, buffer, byte_count=n_bytes)

        session.run(write, read)
        return outputs[0] if self._single else tuple(outputs)

    def session(self, shapes: tuple[Shape, ...]) -> Session:
        """The network planned for inputs of these shapes; kept."""
        self.device.check_process()
        with self._planning:
            found = self._planned.get(shapes)
            if found is None:
                self._forget(_MAX_SHAPES - 1)  # before the new one takes memory
                try:
                    found = self._plan(shapes)
                except MemoryError:
                    self._forget(0)
                    found = self._plan(shapes)
                self._planned[shapes] = found
            self._planned.move_to_end(shapes)
            return found

    def _plan(self, shapes: tuple[Shape, ...]) -> Session:
        return Session(self._model, self.device, shapes, self._target, self._constants)

    def _forget(self, most: int) -> None:
        """All but so many sessions, and what only they have uploaded."""
        while len(self._planned) > most:
            self._planned.popitem(last=False)
        used = {key for session in self._planned.values() for key in session.used}
        for key in self._constants.keys() - used:
            del self._constants[key]

    def _is_device_array(self, x: Any) -> bool:
        module = sys.modules.get("pyopencl.array")
        return module is not None and isinstance(x, module.Array)

    def _checked_array(self, name: str, x: Any) -> Any:
        if x.dtype != np.float32:
            raise TypeError(f"{name}: expected float32, got dtype {x.dtype}")
        if x.context != self.device.context:
            raise ValueError(f"{name}: lies in another context than the network's, which is its attribute `context`")
        if not x.flags.c_contiguous:
            raise ValueError(f"{name}: expected a contiguous array on the device")
        return x

    def _empty(self, like: Any, shape: Shape) -> Any:
        if self._is_device_array(like):
            import pyopencl.array

            with translated("allocate an output"):
                return pyopencl.array.empty(self.device.queue, shape, np.float32)
        return aligned_empty(shape) if isinstance(like, np.ndarray) else like.new_empty(shape)

    # ---- measuring

    def _example(self, inputs: tuple[Any, ...]) -> list[Any]:
        return list(self._ordered(inputs, {})) if inputs else super()._example(inputs)

    def profile(self, *inputs: Any, runs: int = 20) -> Profile:
        """Time of every operator by the device's clock, of whole calls by the host's, transfers included; memory."""
        check_runs(runs)
        tensors = self._example(inputs)
        self(*tensors)
        session = self.session(tuple(tuple(tensor.shape) for tensor in tensors))
        times = session.times(runs)
        whole = []
        for _ in range(runs):
            begun = time.perf_counter()
            self(*tensors)
            whole.append(1e3 * (time.perf_counter() - begun))
        layers = []
        for i, node in enumerate(session.nodes):
            if i in times:
                shape = session.shapes[node["output"]]
                weights = next((row["n_weights"] for row in node["data"] if row["name"] == "layer"), 0)
                macs = weights * shape[0] * math.prod(shape[2:]) if weights else 0
                kernels = [launch.kernel.function_name for launch in session.launches if launch.node == i]
                layers.append(StepTime(node["name"], node["op"], kernels[-1], shape, macs, times[i]))
        weight_bytes = sum(buffer.size for buffer in self._constants.values())
        return Profile(
            *(layers, float(np.median(whole)), runs, f"opencl {self.device.info.title}", self.device.info.units),
            *(session.arena_bytes, session.live_bytes, weight_bytes, 0),
        )

    def tune(self, *inputs: Any, runs: int = 5) -> list[Any]:
        """Measures tiles for every convolution on inputs of these shapes (none: the example's), by the device's clock,
        and keeps the best: for this model, and in the user's cache folder (or PCONV_CACHE) for every later one with
        such layers on this device and driver. Each tile is built once: minutes where the driver is slow. Returns
        (layer, Tile) of those that are not the usual ones. OSError: the folder cannot be written to."""
        check_runs(runs)
        tensors = self._example(inputs)
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        keys = self._layer_keys(shapes)
        times: dict[str, dict[Tile | None, float]] = {}
        for tile in (None, *candidates(self._usual.lanes, self._usual.max_texels > 0, self._usual.by_row)):
            tiles = {} if tile is None else dict.fromkeys(keys.values(), tile)
            for node, ms in self._times_with(tiles, tensors, runs).items():
                if node in keys:
                    known = times.setdefault(keys[node], {})
                    known[tile] = min(ms, known.get(tile, ms))
        best = {key: min(found, key=found.__getitem__) for key, found in times.items()}
        chosen = {
            key: tile for key, tile in best.items() if tile is not None and times[key][tile] * MARGIN < times[key][None]
        }
        others = {key: tile for key, tile in self._target.tiles.items() if key not in times}
        with self._planning:
            self._target = replace(self._usual, tiles=others | chosen)
            self._forget(0)
        save_tiles(self.device.info, self._usual.half, {key: chosen.get(key) for key in times})
        return sorted(chosen.items())

    def _times_with(self, tiles: dict[str, Tile], tensors: list[Any], runs: int) -> Mapping[int, float]:
        """Milliseconds of every node with these tiles; nothing where the device cannot build or hold them."""
        trial = OpenCLModel(self._model, self.device.info.title, STORAGE[int(self._usual.half)])
        trial._target = replace(self._usual, tiles=tiles)
        try:
            trial(*tensors)  # no kernel is timed on numbers that nobody has written
            return trial.session(tuple(tuple(tensor.shape) for tensor in tensors)).times(runs)
        except (OpenCLError, MemoryError, ValueError):
            if not tiles:
                raise
            return {}

    def _layer_keys(self, shapes: tuple[Shape, ...]) -> dict[int, str]:
        """Of every convolution's node."""
        sizes = self._model.infer_shapes(shapes)
        keys = {}
        for i, node in enumerate(self._model.nodes()):
            if node["op"] == "conv":
                n, _, h, w = sizes[node["inputs"][0]]
                keys[i] = layer_key(self._model.layer(i), n, h, w)
        return keys


def _restored(data: bytes, device: str, storage: str) -> OpenCLModel:
    """A pickled model: on the device of this name, or else on the one that is taken without a name."""
    model = NativeModel.from_bytes(data)
    try:
        return OpenCLModel(model, device, storage)
    except BackendUnavailable:
        return OpenCLModel(model, None, storage)


def _usual_target(device: Device, half: bool) -> Target:
    """Vectors for CPUs; GPUs make one output an item, but for those whose memory moves 128 bits at a time. Adreno's
    first cache is that of its images (docs/PERFORMANCE.md, OpenCL)."""
    name = device.info.title.lower()
    if device.info.kind == "cpu":
        return Target(8, half, by_row=True)
    lanes = 4 if any(word in name for word in ("adreno", "mali", "powervr")) else 1
    texels = device.max_texels if lanes == TEXEL else 0
    return Target(lanes, half, images="adreno" in name, max_texels=texels)


def _as_numpy(x: Any) -> Any:
    return x if isinstance(x, np.ndarray) else x.detach().numpy()
