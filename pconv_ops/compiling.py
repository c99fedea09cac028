"""compile(): a torch model -> a CompiledModel, by export, passes and encoding, and compared with the original."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from .checking import LOUD, ConversionError, output_deviation
from .compiled import CompiledModel
from .convert import Arguments, call_arguments, check_backend, deep_copy
from .encode import Encoder
from .export import export
from .passes import optimize

BATCH, SIZE = 0b0001, 0b1100  # free dims of the inputs: images; height and width
MORE_IMAGES, MORE_ROWS, MORE_COLUMNS = 2, 32, 64  # what an example is enlarged by to see whether other shapes work


def compile(
    model: nn.Module, example_inputs: Any, backend: str = "cpu", weights: str = "fp32", check: bool = True
) -> CompiledModel:
    """`model` in evaluation mode as one network in the core (PCONV, AAAI 2020, section 5: the DNN as a computational
    graph). `model` itself stays as it is.

    example_inputs: as for convert: a tensor, a tuple of positional arguments or a dict of keyword arguments; tensors
    are float32 on the CPU. weights: 'fp16' rounds weights of convolutions and linear layers to fp16 (half the file,
    computed in fp32). check: the network is run on the example and compared with `model`, and tried with more images
    and with larger ones: where the results agree, the CompiledModel takes any batch, and any size; without it only the
    example's shapes. Pruned weights are found by their zeros, however the model was pruned. Results carry no gradient.

    TypeError, ValueError: as export() raises them, among them UnsupportedOperatorError, which lists all operators that
    cannot be compiled; a weight beyond fp16. ConversionError: results differ from the model's, by a bug of ours.
    BackendUnavailable: another backend than 'cpu'.
    """
    check_backend(backend)
    graph = export(model, example_inputs)
    optimize(graph)
    encoder, arguments = Encoder(graph), call_arguments(example_inputs)
    free_dims = _Checker(model, arguments, encoder).free_dims() if check and arguments is not None else 0
    return CompiledModel(encoder.encode(weights, free_dims))


class _Checker:
    """Compares a compiled network with its original, which is called as its user calls it."""

    def __init__(self, model: nn.Module, arguments: Arguments, encoder: Encoder) -> None:
        self.original, self.arguments, self.encoder = deep_copy(model).eval(), arguments, encoder

    def free_dims(self) -> int:
        """The dims of inputs that may differ from the example's. ConversionError: not even its own results agree."""
        off = self._deviation(CompiledModel(self.encoder.encode()), self.arguments)
        if not off <= LOUD:
            raise ConversionError(f"model: the compiled network's outputs deviate by {off:.1e}, allowed is {LOUD:.0e}")
        free = 0
        for dims, enlarge in ((BATCH, _more_images), (BATCH | SIZE, _larger)):
            compiled = CompiledModel(self.encoder.encode(free_dims=dims))
            if not self._agrees(compiled, tree_map(enlarge, self.arguments)):
                break
            free = dims
        return free

    def _agrees(self, compiled: CompiledModel, arguments: Arguments) -> bool:
        """Whether other shapes work: for the original too, which may not take them."""
        try:
            return self._deviation(compiled, arguments) <= LOUD
        except Exception:  # whatever Python code raises on shapes that it was not made for
            return False

    def _deviation(self, compiled: CompiledModel, arguments: Arguments) -> float:
        positional, named = arguments
        # A forward may write to what it is given.
        copies = tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, arguments)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            want = [leaf for leaf in tree_leaves(self.original(*copies[0], **copies[1])) if leaf is not None]
        tensors = [leaf for leaf in tree_leaves((positional, named)) if isinstance(leaf, torch.Tensor)]
        got = compiled(*[tensor.detach() for tensor in tensors])
        return output_deviation([got] if isinstance(got, torch.Tensor) else list(got), want)


def _more_images(x: Any) -> Any:
    """Other images behind the first ones: copies would hide that results of images are mixed up."""
    if not isinstance(x, torch.Tensor) or not x.dim():
        return x
    extra = x[:1].flip(-1).expand(MORE_IMAGES, *x.shape[1:])
    return torch.cat([x, extra * torch.linspace(0.5, 1.5, MORE_IMAGES).reshape(-1, *[1] * (x.dim() - 1))])


def _larger(x: Any) -> Any:
    """Images of more rows and columns; of inputs that are none, more along the batch alone."""
    more = _more_images(x)
    if not isinstance(x, torch.Tensor) or x.dim() != 4:
        return more
    size = (x.shape[2] + MORE_ROWS, x.shape[3] + MORE_COLUMNS)
    return F.interpolate(more, size, mode="bilinear") if more.numel() else more
