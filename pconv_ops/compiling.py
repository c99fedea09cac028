"""compile(): a torch model -> a CompiledModel, by export, passes and encoding, and compared with the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from .checking import LOUD, TOLERANCE, ConversionError, output_deviation
from .compiled import CompiledModel
from .convert import Arguments, check_backend, deep_copy
from .encode import WEIGHTS, Encoder
from .export import arguments_of, export
from .opencl import OpenCLModel
from .opencl_device import find_device
from .passes import optimize

BATCH, SIZE = 0b0001, 0b1100  # free dims of inputs: images; height and width
# (images, rows, columns) that an example is enlarged by to see whether other shapes work: sizes that networks like, and
# some that show what pads or crops to a multiple, or goes by a size.
MORE_IMAGES = ((1, 0, 0), (2, 0, 0))
OTHER_SIZES = ((1, 32, 64), (0, 1, 3), (0, 37, 19), (0, -3, -5), (0, -8, -16))
RANKS = (1, 4)  # the least rank of inputs that have images: a vector may be something else, as factors of channels
# Relative change of the outputs by fp16 weights: rounding makes some 1e-3, tiny weights that become 0 far more.
COARSE = 0.05


def compile(
    model: nn.Module,
    example_inputs: Any,
    backend: str = "cpu",
    weights: str = "fp32",
    check: bool = True,
    device: str | None = None,
) -> CompiledModel:
    """`model` in evaluation mode as one network in the core (PCONV, AAAI 2020, section 5: the DNN as a computational
    graph). `model` itself stays as it is.

    example_inputs: as for convert: a tensor, a tuple of positional arguments or a dict of keyword arguments; tensors
    are float32 on the CPU. weights: 'fp16' rounds weights of convolutions and linear layers to fp16 (half the file,
    computed in fp32). check: the network is run on the example and compared with `model`, and tried with more images
    and with other sizes: where the results agree, the CompiledModel takes any batch, and any size; without it only the
    example's shapes. Pruned weights are found by their zeros, however the model was pruned. Results carry no gradient.
    backend: 'opencl' makes an OpenCLModel, on the device whose "platform: name" contains `device`; without it
    PCONV_OPENCL_DEVICE says which, else it is the first GPU, or the first device.

    TypeError, ValueError: as export() raises them, among them UnsupportedOperatorError, which lists all operators that
    cannot be compiled; weights that fp16 cannot hold. ConversionError: results differ from the model's, by a bug of
    ours. BackendUnavailable: no such backend or device. OpenCLError: the device cannot build or run the network.
    """
    check_backend(backend)
    if backend == "opencl":
        find_device(device)  # before any work
    elif device is not None:
        raise ValueError(f"device: got {device!r}, which is for backend='opencl'")
    if weights not in WEIGHTS:
        raise ValueError(f"weights: expected one of {', '.join(WEIGHTS)}, got {weights!r}")
    graph = export(model, example_inputs)
    optimize(graph)
    encoder = Encoder(graph)
    checker = _Checker(model, arguments_of(model, example_inputs), encoder) if check else None
    compiled = CompiledModel(encoder.encode(weights, checker.free_dims() if checker is not None else ()))
    if checker is not None and weights == "fp16":
        checker.check_rounding(compiled)
    if backend == "cpu":
        return compiled
    on_device = OpenCLModel(compiled.native, device)
    if checker is not None:
        checker.check_same(on_device, compiled)
    return on_device


class _Checker:
    """Compares a compiled network with its original, which is called as its user calls it."""

    def __init__(self, model: nn.Module, arguments: Arguments, encoder: Encoder) -> None:
        self.original, self.arguments, self.encoder = deep_copy(model).eval(), arguments, encoder

    def free_dims(self) -> Sequence[int]:
        """The dims of each input that may differ from the example's. ConversionError: not even its own results
        agree."""
        off = self._deviation(CompiledModel(self.encoder.encode()), self.arguments)
        if not off <= LOUD:
            raise ConversionError(f"model: the compiled network's outputs deviate by {off:.1e}, allowed is {LOUD:.0e}")
        ranks = [len(value.shape) for value in self.encoder.graph.inputs]
        free: list[int] = [0] * len(ranks)
        for least in RANKS:
            for mask, trials in ((BATCH, MORE_IMAGES), (BATCH | SIZE, OTHER_SIZES)):
                wider = [_mask_of(mask, rank, least) for rank in ranks]
                if not self._works(wider, [_resized(self.arguments, trial, least) for trial in trials]):
                    break
                free = wider
            if any(free):
                break
        return free

    def check_rounding(self, compiled: CompiledModel) -> None:
        """ValueError: outputs are far from those that the weights give in fp32."""
        exact = CompiledModel(self.encoder.encode())
        for arguments in (self.arguments, _resized(self.arguments, (0, 0, 0), 1)):
            off = output_deviation(self._computed(compiled, arguments), self._computed(exact, arguments))
            if not off <= COARSE:
                raise ValueError(f"weights: fp16 is too coarse for them: outputs change by {off:.1e}, store fp32")

    def check_same(self, one: CompiledModel, other: CompiledModel) -> None:
        """ConversionError: two forms of the network differ on the example."""
        off = output_deviation(self._computed(one, self.arguments), self._computed(other, self.arguments))
        if not off <= TOLERANCE:
            raise ConversionError(f"model: outputs on the device deviate by {off:.1e}, allowed is {TOLERANCE:.0e}")

    def _works(self, free_dims: Sequence[int], trials: Sequence[Arguments]) -> bool:
        """Whether nothing speaks against these free dims and something for them."""
        compiled = CompiledModel(self.encoder.encode(free_dims=free_dims))
        outcomes = [self._agree(compiled, arguments) for arguments in trials]
        return False not in outcomes and True in outcomes

    def _agree(self, compiled: CompiledModel, arguments: Arguments) -> bool | None:
        """Whether both compute the same from these; None where neither takes them."""
        try:
            want: Any = self._expected(arguments)
        except Exception:  # whatever Python code raises on shapes that it was not made for
            want = None
        try:
            got: Any = self._computed(compiled, arguments)
        except ValueError:
            got = None
        if want is None or got is None:
            return None if want is got else False
        return output_deviation(got, want) <= TOLERANCE

    def _deviation(self, compiled: CompiledModel, arguments: Arguments) -> float:
        return output_deviation(self._computed(compiled, arguments), self._expected(arguments))

    def _expected(self, arguments: Arguments) -> list[torch.Tensor]:
        # A forward may write to what it is given.
        positional, named = tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, arguments)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return tree_leaves(self.original(*positional, **named))

    @staticmethod
    def _computed(compiled: CompiledModel, arguments: Arguments) -> list[torch.Tensor]:
        tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
        got = compiled(*[tensor.detach() for tensor in tensors])
        return [got] if isinstance(got, torch.Tensor) else list(got)


def _mask_of(mask: int, rank: int, least: int) -> int:
    """The dims of an input that a trial changes: rows and columns are those of images alone."""
    return mask if rank == 4 else mask & BATCH if rank >= least else 0


def _resized(arguments: Arguments, more: tuple[int, int, int], least: int) -> Arguments:
    """Random inputs with so many more images, rows and columns: zeros, as examples often are, would prove nothing."""
    generator = torch.Generator().manual_seed(0)

    def resized(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        shape = list(x.shape)
        dims = (0, 2, 3) if x.dim() == 4 else (0,) if x.dim() >= least else ()
        for dim, plus in zip(dims, more, strict=False):
            shape[dim] = max(1, shape[dim] + plus)
        return torch.randn(shape, generator=generator)

    return tree_map(resized, arguments)
