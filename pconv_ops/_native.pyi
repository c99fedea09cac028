"""Types of the Cython binding. Addresses are plain integers; the caller keeps their owners alive and checks shapes."""

from collections.abc import Mapping, Sequence
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

# ---- networks (_network.pxi) ----------------------------------------------------------------------------------------

NodeChoice = tuple[int, str, str, tuple[int, int, int]]  # node, isa, ukernel, (n, h, w) of its input
TensorPlace = tuple[str, int, int, tuple[int, ...], int]  # base, index, offset, shape, step

def operators() -> list[dict[str, Any]]:
    """Rows of src/graph/ops.def: name; ints, floats, data: lists of names, as there."""

class ModelBuilder:
    """Builds a NativeModel: inputs, nodes in an order in which they can run, outputs. ValueError: what is added breaks
    a rule of docs/OPERATORS.md or FORMAT.md."""

    def add_input(self, name: str, dims: Sequence[int], free_dims: int = 0) -> int:
        """A value's number. free_dims: bit i allows another dims[i]."""
    def add_node(
        self,
        op: str,
        name: str,
        inputs: Sequence[int],
        ints: Sequence[int],
        floats: Sequence[float],
        data: Mapping[str, npt.NDArray[np.float32] | PackedConv],
        fp16: bool = False,
    ) -> int:
        """A value's number. fp16: weights are rounded to fp16 and stored so."""
    def add_output(self, name: str, value: int) -> None: ...
    def finish(self, single: bool) -> NativeModel: ...

class NativeModel:
    """A network in the core: immutable, shared by sessions."""

    @staticmethod
    def from_bytes(data: Any) -> NativeModel:
        """Reads the bytes of a model file. PConvFormatError: they break docs/FORMAT.md."""
    @staticmethod
    def load(path: bytes) -> NativeModel: ...
    def to_bytes(self, choices: Sequence[NodeChoice] = ()) -> bytes: ...
    def save(self, path: bytes, choices: Sequence[NodeChoice] = ()) -> None:
        """Whenever this is stopped, the file is the old one or the new one."""
    @property
    def info(self) -> dict[str, int]:
        """n_inputs, n_nodes, n_outputs, n_choices, single_output; layer_bytes, index_bytes (of them), tensor_bytes: in
        a file; dense_bytes: all of it dense in fp32."""
    def inputs(self) -> list[tuple[str, tuple[int, ...], int]]:
        """(name, shape, free_dims)."""
    def outputs(self) -> list[tuple[str, tuple[int, ...], int]]:
        """(name, shape, value)."""
    def choices(self) -> list[NodeChoice]: ...
    def nodes(self) -> list[dict[str, Any]]:
        """Rows: name, op, inputs, output (values), shape, ints, floats, data (rows of data())."""
    def data(self, node: int, index: int) -> dict[str, Any]:
        """name, bytes in a file, is_fp16, shared_with; of a tensor count; of a layer conv, block, n_patterns,
        n_kernels, n_weights, has_bias."""
    def layer(self, node: int) -> PackedConv:
        """A copy of the layer of a `conv` node."""
    def values(self, node: int, index: int) -> npt.NDArray[np.float32]: ...
    def infer_shapes(self, shapes: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """The shapes of all values, inputs and nodes in order, for inputs of these shapes. ValueError: the network does
        not take them."""
    def plan(
        self,
        shapes: Sequence[Sequence[int]] | None = None,
        isa: str | None = None,
        choices: Sequence[NodeChoice] = (),
    ) -> NativeSession:
        """For inputs of these shapes (None: those in the file). Releases the GIL."""

class NativeSession:
    """A model planned for input shapes; runs one call at a time."""

    output_shapes: list[tuple[int, ...]]
    def run(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        n_threads: int = 0,
        step_seconds: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """From contiguous fp32 tensors at addresses `inputs` to those at `outputs`. Releases the GIL."""
    @property
    def info(self) -> dict[str, Any]:
        """n_steps, arena_bytes, live_bytes, weight_bytes, scratch_bytes_per_thread, isa."""
    def steps(self) -> list[dict[str, Any]]:
        """Rows in the order in which they run: node, name, op, ukernel (None: no convolution), macs, max_pool (0: not
        pooled), inputs and output (TensorPlace)."""
