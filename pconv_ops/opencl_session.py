"""A network planned for input shapes on an OpenCL device: one arena for activations (buffers of their own for those
that are read as images), kernels with their arguments set, run in order on one queue. Nothing is built, allocated or
uploaded after planning but inputs and outputs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np

from ._native import NativeModel
from .graph import Shape
from .opencl_device import Device, translated
from .opencl_ops import Call, NodeView, Step, Target, Texels, Use, is_view, lower

_SLACK = 1  # a float behind every tensor: there are no buffers of 0 bytes


@dataclass
class Region:
    """A tensor's part of the arena. first, last: the nodes during which it is needed."""

    n_bytes: int
    first: int
    last: int
    offset: int = 0


def place_regions(regions: Sequence[Region], alignment: int) -> int:
    """Gives every region an offset, largest first at the lowest place that is free while it lives; bytes of all."""
    placed: list[Region] = []
    for region in sorted(regions, key=lambda region: -region.n_bytes):
        offset = 0
        for other in placed:  # by offset
            if other.first > region.last or region.first > other.last:
                continue
            if offset + region.n_bytes <= other.offset:
                break
            offset = max(offset, -(-(other.offset + other.n_bytes) // alignment) * alignment)
        region.offset = offset
        placed.append(region)
        placed.sort(key=lambda other: other.offset)
    return max((region.offset + region.n_bytes for region in regions), default=0)


def share_buffers(regions: Sequence[Region]) -> list[list[Region]]:
    """Regions in lists of such as can lie in the same memory, one after the other."""
    shared: list[list[Region]] = []
    for region in sorted(regions, key=lambda region: -region.n_bytes):
        for there in shared:
            if all(region.first > other.last or other.first > region.last for other in there):
                there.append(region)
                break
        else:
            shared.append([region])
    return shared


class Launch:
    """A kernel with its arguments and sizes."""

    def __init__(self, kernel: Any, size: tuple[int, ...], local: tuple[int, ...], node: int) -> None:
        self.kernel, self.local, self.node = kernel, local, node
        self.size = tuple(-(-n // m) * m for n, m in zip(size, local, strict=True))


def local_size(size: tuple[int, ...], device: Device) -> tuple[int, ...]:
    """Items of a work-group. A CPU runs a group on one thread: columns of a row of tiles for many filters, so that the
    tile is read from its cache; a GPU reads neighbouring columns together."""
    info, most = device.info, device.info.handle.max_work_group_size
    if len(size) < 3:
        wanted = (min(size[0], 256 if info.kind == "cpu" else 128, most), *[1] * (len(size) - 1))
        return wanted
    if info.kind != "cpu":
        across = min(32, most, 1 << max(size[0] - 1, 0).bit_length())
        return (across, min(max(min(128, most) // across, 1), 1 << max(size[1] - 1, 0).bit_length()), 1)
    across = min(size[0], 32, most)
    groups = -(-size[0] // across) * size[1]
    deep = max(1, min(64, most // across, size[2] * groups // (4 * info.units)))
    return (across, 1, deep)


class Session:
    """run() is called by one thread at a time; its lock sees to that."""

    def __init__(
        self, model: NativeModel, device: Device, shapes: Sequence[Shape], target: Target, constants: dict[Any, Any]
    ) -> None:
        """constants: what was uploaded before, by a digest of its content; `used` says what this session needs."""
        self.device, self.target, self.constants = device, target, constants
        self.used: set[Any] = set()
        self.lock = threading.Lock()
        self.shapes = model.infer_shapes(shapes)
        self.nodes = model.nodes()
        self.n_inputs = len(shapes)
        self.outputs = [value for _, _, value in model.outputs()]
        self.roots = self._find_roots()
        self.steps = [self._lower(model, i) for i in range(len(self.nodes))]
        self.item_bytes = 2 if target.half else 4
        self._plan_memory(model)
        self.images: list[Any] = []
        self.launches = [self._launch(i, call) for i, step in enumerate(self.steps) for call in step.calls]
        self._stage()

    # ---- planning

    def _find_roots(self) -> list[int]:
        """Of every value the one in whose memory it lies: views are their input."""
        roots = list(range(len(self.shapes)))
        for node in self.nodes:
            if is_view(node["op"]):
                roots[node["output"]] = roots[node["inputs"][0]]
        return roots

    def _lower(self, model: NativeModel, i: int) -> Step:
        node = self.nodes[i]
        if node["op"] == "constant" or is_view(node["op"]):
            return Step(())
        data: dict[str, Callable[[], Any]] = {}
        for k, row in enumerate(node["data"]):
            data[row["name"]] = partial(model.layer, i) if row["name"] == "layer" else partial(model.values, i, k)
        shapes = tuple(self.shapes[value] for value in node["inputs"])
        view = NodeView(
            *(node["op"], node["name"], tuple(node["inputs"]), node["output"], shapes, self.shapes[node["output"]]),
            *(node["ints"], node["floats"], data),
        )
        return lower(view, self.target)

    def _plan_memory(self, model: NativeModel) -> None:
        """Regions by root value, and of each node's scratch."""
        end = len(self.nodes)
        overread = dict.fromkeys(range(len(self.shapes)), 0)
        last = {root: 0 for root in self.roots}
        for i, (node, step) in enumerate(zip(self.nodes, self.steps, strict=True)):
            for k, value in enumerate(node["inputs"]):
                root = self.roots[value]
                last[root] = max(last[root], i)
                overread[root] = max(overread[root], step.overread if k == 0 else 0)
        for value in self.outputs:
            last[self.roots[value]] = end
        regions: dict[Any, Region] = {}
        self.fixed: dict[int, Any] = {}
        for value, root in enumerate(self.roots):
            if value != root:
                continue
            i = value - self.n_inputs
            if i >= 0 and self.nodes[i]["op"] == "constant":
                array = self._stored(i, np.reshape(model.values(i, 0), -1), overread[value])
                self.fixed[value] = self._constant(array)
                continue
            first = max(i, 0)
            floats = math.prod(self.shapes[value]) + overread[value]
            regions[value] = self._region(floats, first, max(first, last[value]))
        for i, step in enumerate(self.steps):
            for k, floats in enumerate(step.scratch):
                regions[i, k] = self._region(floats, i, i)
        alone = self._read_as_images()
        shared = share_buffers([region for key, region in regions.items() if key in alone])
        parts = [region for key, region in regions.items() if key not in alone]
        in_arena = place_regions(parts, self.device.alignment)
        self.arena_bytes = in_arena + sum(there[0].n_bytes for there in shared)
        self.live_bytes = max(
            (sum(r.n_bytes for r in regions.values() if r.first <= i <= r.last) for i in range(end + 1)), default=0
        )
        most = self.device.info.handle.max_mem_alloc_size
        largest = max([in_arena, *(there[0].n_bytes for there in shared)])
        if largest > most:
            raise MemoryError(f"opencl: activations take {largest} bytes, the device allows {most} at once")
        with translated(f"allocate {self.arena_bytes} bytes"):
            self.parts = self._allocate(regions, in_arena, shared)

    def _read_as_images(self) -> set[Any]:
        """Regions that have to be buffers of their own."""
        found: set[Any] = set()
        for i, step in enumerate(self.steps):
            for arg in (arg for call in step.calls for arg in call.args if isinstance(arg, Texels)):
                found.add((i, -1 - arg.value) if arg.value < 0 else self.roots[arg.value])
        return found

    def _allocate(self, regions: Mapping[Any, Region], in_arena: int, shared: list[list[Region]]) -> dict[Any, Any]:
        """For each region a part of one buffer, or one that it shares with others."""
        cl = self.device.cl

        def buffer(n_bytes: int) -> Any:
            return cl.Buffer(self.device.context, cl.mem_flags.READ_WRITE, n_bytes)

        arena = buffer(max(in_arena, 4))
        whole: dict[int, Any] = {}
        for there in shared:
            memory = buffer(there[0].n_bytes)  # the largest
            whole.update((id(region), memory) for region in there)
        return {
            key: whole[id(region)] if id(region) in whole else arena.get_sub_region(region.offset, region.n_bytes)
            for key, region in regions.items()
        }

    def _region(self, floats: int, first: int, last: int) -> Region:
        return Region((floats + _SLACK) * self.item_bytes, first, last)

    def _stored(self, node: int, floats: Any, overread: int) -> Any:
        padded = np.concatenate([floats, np.zeros(overread + _SLACK, np.float32)])
        if not self.target.half:
            return padded
        if np.abs(padded[np.isfinite(padded)]).max(initial=0) > np.finfo(np.float16).max:
            raise ValueError(f"storage: '{self.nodes[node]['name']}' has a constant beyond fp16's largest number")
        return padded.astype(np.float16)

    def _constant(self, array: Any) -> Any:
        key = (array.dtype.str, array.shape, blake2b(np.ascontiguousarray(array).data, digest_size=16).digest())
        self.used.add(key)
        if key not in self.constants:
            self.constants[key] = self.device.upload(np.ascontiguousarray(array))
        return self.constants[key]

    def _buffer(self, value: int, node: int) -> Any:
        if value < 0:
            return self.parts[node, -1 - value]
        root = self.roots[value]
        return self.fixed[root] if root in self.fixed else self.parts[root]

    def _launch(self, i: int, call: Call) -> Launch:
        kernel = self.device.kernel(call.source, call.kernel, call.defines)
        with translated(f"set the arguments of {call.kernel}"):
            kernel.set_args(*(self._argument(arg, i) for arg in call.args))
        return Launch(kernel, call.size, self._local_size(kernel, call.size), i)

    def _local_size(self, kernel: Any, size: tuple[int, ...]) -> tuple[int, ...]:
        """local_size(), made smaller where a kernel needs so many registers that the device runs fewer items of it."""
        local = list(local_size(size, self.device))
        what = self.device.cl.kernel_work_group_info.WORK_GROUP_SIZE
        with translated("ask for the size of work-groups"):
            most = kernel.get_work_group_info(what, self.device.info.handle)
        while math.prod(local) > max(most, 1):
            widest = local.index(max(local))
            local[widest] = (local[widest] + 1) // 2
        return tuple(local)

    def _argument(self, arg: Any, node: int) -> Any:
        if isinstance(arg, Use):
            return self._buffer(arg.value, node)
        if isinstance(arg, Texels):
            return self._image(arg, node)
        if isinstance(arg, np.ndarray):
            return self._constant(arg)
        return np.float32(arg) if isinstance(arg, float) else np.int32(arg)

    def _image(self, arg: Texels, node: int) -> Any:
        image = self.device.image(self._buffer(arg.value, node), arg.count, self.target.half)
        self.images.append(image)  # a kernel does not keep its arguments alive
        return image

    def _stage(self) -> None:
        """With fp16 tensors: buffers of fp32 for inputs and outputs, and the kernels between both."""
        self.staged: dict[int, Any] = {}
        self.before: list[Launch] = []
        self.after: list[Launch] = []
        if not self.target.half:
            return
        cl = self.device.cl
        for value in dict.fromkeys((*range(self.n_inputs), *self.outputs)):
            n, incoming = math.prod(self.shapes[value]), value < self.n_inputs
            if not n:
                continue
            kernel = self.device.kernel("move.cl", "from_float" if incoming else "to_float", {"STORAGE_HALF": 1})
            if value not in self.staged:
                with translated("allocate inputs and outputs"):
                    self.staged[value] = cl.Buffer(self.device.context, cl.mem_flags.READ_WRITE, 4 * n)
            both = (self.staged[value], self._buffer(value, -1))
            kernel.set_args(*(both if incoming else both[::-1]), np.int32(n))
            launch = Launch(kernel, (n,), self._local_size(kernel, (n,)), -1)
            (self.before if incoming else self.after).append(launch)

    # ---- running

    def end(self, value: int) -> Any:
        """The buffer of fp32 that an input is written to, or an output read from."""
        return self.staged[value] if value in self.staged else self._buffer(value, -1)

    def enqueue(self, launches: Sequence[Launch]) -> list[Any]:
        """Events of kernels that were put into the queue."""
        cl, queue = self.device.cl, self.device.queue
        return [cl.enqueue_nd_range_kernel(queue, one.kernel, one.size, one.local) for one in launches]

    def run(self, write: Callable[[int, Any], Any], read: Callable[[int, Any], Any]) -> None:
        """write(i, buffer) fills input i, read(i, buffer) takes output i; both return events."""
        events = []  # kept until all is done: one that goes away waits for its transfer, and no other thread runs
        with self.lock, translated("run"):
            for i in range(self.n_inputs):
                if math.prod(self.shapes[i]):
                    events.append(write(i, self.end(i)))
            for launches in (self.before, self.launches, self.after):
                self.enqueue(launches)
            for i, value in enumerate(self.outputs):
                if math.prod(self.shapes[value]):
                    events.append(read(i, self.end(value)))
            self.device.queue.finish()

    def times(self, runs: int) -> Mapping[int, float]:
        """Median milliseconds of the kernels of each node, by the device's clock."""
        launches = [*self.before, *self.launches, *self.after]
        sums: dict[int, list[float]] = {}
        with self.lock, translated("run"):
            for _ in range(runs):
                events = self.enqueue(launches)
                self.device.queue.finish()
                found: dict[int, float] = {}
                for launch, event in zip(launches, events, strict=True):
                    ms = 1e-6 * (event.profile.end - event.profile.start)
                    found[launch.node] = found.get(launch.node, 0.0) + ms
                for node, ms in found.items():
                    sums.setdefault(node, []).append(ms)
        return {node: float(np.median(found)) for node, found in sums.items()}
