"""Types of the Cython binding. Addresses are plain integers; the caller keeps their owners alive and checks shapes."""

from typing import Any

import numpy as np
import numpy.typing as npt

class PConvFormatError(ValueError):
    """Packed bytes break a rule of docs/FORMAT.md."""

class BackendUnavailable(RuntimeError):
    """An instruction set or backend that was asked for is not there; the text says what is."""

class PackedConv:
    """One pruned convolution in packed form (immutable, thread-safe, pickled as its bytes)."""

    memo: dict[Any, Any]  # what callers derive from the layer and want to keep with it; they bound it

    @staticmethod
    def from_bytes(data: Any) -> PackedConv: ...
    def to_bytes(self) -> bytes: ...
    def to_dense(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def kernel_size(self) -> tuple[int, int]: ...
    @property
    def stride(self) -> tuple[int, int]: ...
    @property
    def dilation(self) -> tuple[int, int]: ...
    @property
    def padding(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) in pixels."""
    @property
    def has_bias(self) -> bool: ...
    @property
    def nnz(self) -> int:
        """Kept weights."""
    @property
    def n_kernels(self) -> int:
        """Kept kernels."""
    @property
    def n_bytes(self) -> int: ...
    @property
    def density(self) -> float:
        """nnz over the dense number of weights."""
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of the arrays of docs/FORMAT.md.

        masks (uint64 [P, W]), filter_order, kernel_start, run_start (uint32), runs (uint32 [R, 2]), channels (uint16).
        """
    def output_shape(self, h: int, w: int) -> tuple[int, int]:
        """(out_h, out_w); ValueError when the kernel does not fit into the padded input."""
    def plan_info(
        self,
        n: int,
        h: int,
        w: int,
        channels_last: bool = False,
        isa: str | None = None,
        ukernel: str | None = None,
    ) -> dict[str, Any]:
        """What would run for this input: isa, ukernel, out_h, out_w, nnz, n_runs, n_lanes, added_taps, prepacked_bytes,
        scratch_bytes_per_thread."""
    def run(
        self,
        x: int,
        y: int,
        n: int,
        h: int,
        w: int,
        channels_last: bool,
        residual: int = 0,
        clamp_min: float = ...,
        clamp_max: float = ...,
        n_threads: int = 0,
        isa: str | None = None,
        ukernel: str | None = None,
    ) -> None:
        """y = clamp(conv(x) + bias + residual) on fp32 buffers at addresses x, y, residual (0: none).

        Releases the GIL. Plans are cached by shape (bounded).
        """

def pack_weights(
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> PackedConv:
    """C-contiguous OIHW fp32 weights -> PackedConv. padding = (top, left, bottom, right)."""

class MaxPool:
    """Max pooling of float32 [planes, *size] into [planes, *output]; pairs are (rows, columns), padding is (top,
    left)."""

    def __init__(
        self,
        planes: int,
        size: tuple[int, int],
        output: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        isa: str | None = None,
    ) -> None: ...
    def run(self, x: int, y: int, n_threads: int = 0) -> None:
        """From address x to address y. Releases the GIL. ValueError: a size is out of range, or x and y overlap."""

def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def version() -> str: ...
def isas() -> list[dict[str, Any]]:
    """Rows of isas.def in this build, best first: name, features, supported, lanes."""

def current_isa() -> str: ...
def ukernels() -> list[dict[str, Any]]:
    """Rows of the kernel table: name, isa, body, stride (0: any), rows, vectors, lanes, block, taps (mask)."""

def patterns() -> list[tuple[str, int]]:
    """Manifest of 3x3 patterns: (name, mask)."""

def measure_peak(isa: str | None = None, n_threads: int = 1, rounds: int = 5) -> float:
    """FMA peak in GFLOP/s."""
