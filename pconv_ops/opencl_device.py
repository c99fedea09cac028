"""OpenCL devices: which there are, which one is taken, programs for it from the files of cl/, errors in our words.

Needs pyopencl, which is imported on first use. Knows nothing of networks.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from ._native import BackendUnavailable

ENVIRONMENT = "PCONV_OPENCL_DEVICE"  # a part of "platform: device", in any case
_SIMULATORS = ("oclgrind",)  # taken only when they are named
_MAX_PROGRAMS = 1000  # that a device keeps; the one not used for longest goes first
_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)
_HOW = "pip install pyopencl brings a loader; a GPU's driver, or pip install pocl-binary-distribution, brings devices"


class OpenCLError(RuntimeError):
    """A device refused to build or run something, or was lost; the text is the driver's."""


@dataclass(frozen=True)
class DeviceInfo:
    """An OpenCL device. kind: 'cpu', 'gpu' or 'other'; units: compute units."""

    platform: str
    name: str
    version: str
    driver: str
    kind: str
    units: int
    handle: Any = field(repr=False, compare=False)

    @property
    def title(self) -> str:
        return f"{self.platform}: {self.name}"


def import_pyopencl() -> Any:
    """The module. BackendUnavailable: it is not installed."""
    try:
        import pyopencl as module
    except ImportError as error:
        raise BackendUnavailable(f"backend: 'opencl' needs pyopencl ({error}): {_HOW}") from error
    return module


@contextmanager
def translated(what: str) -> Iterator[None]:
    """pyopencl's errors as ours: MemoryError, OpenCLError. `what` was being done."""
    cl = import_pyopencl()
    try:
        yield
    except cl.MemoryError as error:
        raise MemoryError(f"opencl: {what}: the device has no memory left ({_code(error)})") from error
    except cl.Error as error:
        raise OpenCLError(f"opencl: {what}: {_code(error)}") from error


def _code(error: Exception) -> str:
    return " ".join(str(error).split())[:2000]


def devices() -> list[DeviceInfo]:
    """All OpenCL devices. BackendUnavailable: pyopencl is not installed. No driver is no error: there are none then."""
    cl = import_pyopencl()
    found = []
    try:
        platforms = cl.get_platforms()
    except cl.Error:  # the loader finds no driver
        return []
    for platform in platforms:
        try:
            handles = platform.get_devices()
        except cl.Error:  # a driver without a device
            continue
        for handle in handles:
            try:
                found.append(_info_of(platform, handle))
            except cl.Error:  # a device that does not even tell its name
                continue
    return found


def _info_of(platform: Any, handle: Any) -> DeviceInfo:
    cl = import_pyopencl()
    kinds = {cl.device_type.CPU: "cpu", cl.device_type.GPU: "gpu"}
    kind = next((name for bit, name in kinds.items() if handle.type & bit), "other")
    names = (platform.name.strip(), handle.name.strip(), handle.version.strip(), handle.driver_version.strip())
    return DeviceInfo(*names, kind, handle.max_compute_units, handle)


def find_device(name: str | None = None) -> DeviceInfo:
    """The device whose "platform: name" contains `name` or else what the environment variable PCONV_OPENCL_DEVICE
    says; without both the first GPU, or the first device. BackendUnavailable: there is none such."""
    every = devices()
    wanted = os.environ.get(ENVIRONMENT, "") if name is None else name
    fitting = [device for device in every if wanted.lower() in device.title.lower()]
    if not wanted:
        fitting = [device for device in every if not device.platform.lower().startswith(_SIMULATORS)]
    if not fitting:
        there = ", ".join(device.title for device in every) or f"none ({_HOW})"
        raise BackendUnavailable(f"backend: 'opencl': no device {wanted!r}; there are: {there}")
    return min(fitting, key=lambda device: ("gpu", "other", "cpu").index(device.kind))


class Device:
    """A device with a context and a queue of its own, and the programs that were built for it."""

    def __init__(self, info: DeviceInfo) -> None:
        cl = import_pyopencl()
        self.info, self.cl, self._process = info, cl, os.getpid()
        with translated(f"open {info.title}"):
            self.context = cl.Context([info.handle])
            self.queue = cl.CommandQueue(self.context, properties=cl.command_queue_properties.PROFILING_ENABLE)
        self._programs: OrderedDict[str, Any] = OrderedDict()
        self._building = threading.Lock()

    def check_process(self) -> None:
        """OpenCLError: the device was opened before this process was forked. Drivers do not survive that."""
        if os.getpid() != self._process:
            raise OpenCLError("opencl: the device was opened before this process was forked: start it by spawn")

    @property
    def alignment(self) -> int:
        """Bytes that parts of a buffer must begin at multiples of."""
        return max(int(self.info.handle.mem_base_addr_align) // 8, 128)

    @cached_property
    def max_texels(self) -> int:
        """Of an image over a buffer; 0: the device has no such images."""
        cl = self.cl
        try:
            if not self.info.handle.image_support:
                return 0
            buffer = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, 16)
            for half in (False, True):
                self.image(buffer, 1, half)
            return int(self.info.handle.image_max_buffer_size)
        except cl.Error:
            return 0

    def image(self, buffer: Any, texels: int, half: bool) -> Any:
        """Over a whole buffer (PoCL has none over parts), four floats or halves a texel."""
        cl = self.cl
        kind = cl.channel_type.HALF_FLOAT if half else cl.channel_type.FLOAT
        texel = cl.ImageFormat(cl.channel_order.RGBA, kind)
        return cl.create_image(self.context, cl.mem_flags.READ_ONLY, texel, shape=(texels,), buffer=buffer)

    def kernel(self, source: str, name: str, defines: Mapping[str, Any]) -> Any:
        """A new kernel object of a file of cl/. OpenCLError: the driver cannot build it."""
        text = program_text(source, defines)
        with self._building:
            if text not in self._programs:
                self._programs[text] = self._build(source, name, text)
            self._programs.move_to_end(text)
            while len(self._programs) > _MAX_PROGRAMS:  # kernels keep theirs
                self._programs.popitem(last=False)
            with translated(f"make {name}"):
                return self.cl.Kernel(self._programs[text], name)

    def _build(self, source: str, name: str, text: str) -> Any:
        """Drivers keep what they built on disk. A process that was killed meanwhile may have left them half of it: then
        the kernel is missing, and a text that they have not seen is built instead."""
        with translated(f"build {source}"):
            program = self.cl.Program(self.context, text).build()
            if name in program.kernel_names.split(";"):
                return program
            return self.cl.Program(self.context, f"{text}// once more\n").build()

    def upload(self, array: Any) -> Any:
        """A read-only buffer of a numpy array."""
        flags = self.cl.mem_flags
        with translated(f"upload {array.nbytes} bytes"):
            return self.cl.Buffer(self.context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=array)


_opened: dict[int, Device] = {}


def open_device(name: str | None = None) -> Device:
    """find_device(), opened once in a process. OpenCLError: a device was opened before this process was forked."""
    for device in _opened.values():
        device.check_process()
    info = find_device(name)
    if info.handle.int_ptr not in _opened:
        _opened[info.handle.int_ptr] = Device(info)
    return _opened[info.handle.int_ptr]


@cache
def _file(name: str) -> str:
    return (files("pconv_ops") / "cl" / name).read_text(encoding="utf-8")


def program_text(source: str, defines: Mapping[str, Any]) -> str:
    """A file of cl/ behind these macros, what it includes pasted in: a driver needs no folder."""
    text = _file(source)
    while (found := _INCLUDE.search(text)) is not None:
        text = text[: found.start()] + _file(found[1]) + text[found.end() :]
    head = "".join(f"#define {name} {value}\n" for name, value in defines.items())
    return head + text
