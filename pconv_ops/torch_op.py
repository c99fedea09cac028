"""The operator for torch tensors: the eager fast path and its registration as torch.ops.pconv.conv2d.

Imported by ops.py when the first tensor comes, and by modules.py. A plain call (exact CPU tensors, no gradient, no
mode, no tracing, no autocast) goes straight to the core; every other call goes through torch's dispatcher and the
kernels registered here. Computes nothing itself.

    pconv::conv2d(Tensor x, Tensor packed_uint8, Tensor? residual, str activation) -> Tensor

`packed_uint8` holds packed bytes (docs/FORMAT.md). `activation` is '', 'relu', 'relu6' or 'clamp(min,max)', followed by
'@' and the layer's geometry where the caller knows it (call_text() builds it): shapes are inferred without looking
into the bytes, which a traced graph cannot do.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch._prims_common import suggest_memory_format
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

from . import _eager
from ._eager import Layout
from ._native import PackedConv
from .extents import overlap, start
from .handles import HANDLES, read_packed, tensor_from
from .packing import activation_text, output_size, parse_activation, report_copy
from .threads import get_num_threads

_C = torch._C
_is_dynamo_compiling = torch.compiler.is_dynamo_compiling
_EXACT = (torch.Tensor, torch.nn.Parameter)
_AUTOCAST = _C.DispatchKeySet(_C.DispatchKey.AutocastCPU)
_MAX_LAYOUTS = 32  # kept per layer, as plans are


class Geometry(NamedTuple):
    """What shape inference needs of a layer."""

    out_channels: int
    in_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, left, bottom, right

    @classmethod
    def of(cls, packed: PackedConv) -> Geometry:
        return cls(
            packed.out_channels,
            packed.in_channels,
            packed.kernel_size,
            packed.stride,
            packed.dilation,
            packed.padding,
        )

    @classmethod
    def parse(cls, text: str) -> Geometry:
        try:
            v = [int(number) for number in text.split(",")]
        except ValueError:
            v = []
        if len(v) != 12:
            raise ValueError(f"activation: expected 12 numbers of geometry after '@', got '{text}'")
        return cls(v[0], v[1], (v[2], v[3]), (v[4], v[5]), (v[6], v[7]), (v[8], v[9], v[10], v[11]))

    def text(self) -> str:
        sizes = (*self.kernel, *self.stride, *self.dilation, *self.padding)
        return ",".join(str(number) for number in (self.out_channels, self.in_channels, *sizes))

    def output_size(self, h: Any, w: Any) -> tuple[Any, Any]:
        """(out_h, out_w); h and w may be symbolic."""
        top, left, bottom, right = self.padding
        spare_h = h + top + bottom - self.dilation[0] * (self.kernel[0] - 1) - 1
        spare_w = w + left + right - self.dilation[1] * (self.kernel[1] - 1) - 1
        return spare_h // self.stride[0] + 1, spare_w // self.stride[1] + 1


def call_text(activation: Any, packed: PackedConv) -> str:
    """The operator's string for a layer: its activation and its geometry."""
    return f"{activation_text(activation)}@{Geometry.of(packed).text()}"


@lru_cache(maxsize=1024)
def _parse_call(text: str) -> tuple[float, float, Geometry | None]:
    activation, at, geometry = text.partition("@")
    low, high = parse_activation(activation)
    return low, high, Geometry.parse(geometry) if at else None


def conv2d(
    x: torch.Tensor, packed: PackedConv, activation: Any, residual: torch.Tensor | None, out: torch.Tensor | None
) -> torch.Tensor:
    """ops.conv2d() for tensors."""
    if is_plain(x, residual, out):
        low, high = parse_activation(activation)
        if out is None and (y := _eager.run(x, packed, residual, low, high)) is not None:
            return y
        y = _run(x, packed, residual, low, high, out)
        if out is not None:
            torch.autograd.graph.increment_version(out)
        return y
    _check_kinds(x, residual, out=out)
    text = call_text(activation, packed)
    if out is None:
        return torch.ops.pconv.conv2d.default(x, tensor_from(packed), residual, text)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, residual, out)):
        raise ValueError("out: cannot be given when an operand requires a gradient")
    autocast = torch.is_autocast_enabled("cpu")
    batch = _batch_of("x", x)
    shape = (batch.shape[0], packed.out_channels, *output_size(packed, x.shape))
    _checked_out(out, x, residual, shape if x.dim() == 4 else shape[1:], _format_of(x, batch))
    with torch.autocast("cpu", enabled=False):  # out is fp32: nothing may be rounded on the way to it
        if autocast:
            x, residual = _widened(x), None if residual is None else _widened(residual)
        return out.copy_(torch.ops.pconv.conv2d.default(x, tensor_from(packed), residual, text))


def call(x: torch.Tensor, packed_uint8: torch.Tensor, residual: torch.Tensor | None, text: str) -> torch.Tensor:
    """What the operator does, without the dispatcher where it has nothing to add."""
    if not _is_dynamo_compiling():  # a compiler cannot trace what follows
        y = _eager.call(x, packed_uint8, residual, _parse_call(text), HANDLES)
        if y is not None:
            return y
    if is_plain(x, residual) and _is_bytes(packed_uint8):
        low, high, _ = _parse_call(text)
        return _run(x, read_packed(packed_uint8), residual, low, high, None)
    _check_kinds(x, residual, packed=packed_uint8)
    return torch.ops.pconv.conv2d.default(x, packed_uint8, residual, text)


def _is_bytes(packed: Any) -> bool:
    """Whether read_packed() can look at it."""
    return type(packed) in _EXACT and packed.layout is torch.strided and not packed.is_neg()


def _check_kinds(x: Any, residual: Any, **others: Any) -> None:
    for name, value in (("x", x), ("residual", residual), *others.items()):
        if value is None and name != "x":
            continue
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name}: expected a torch tensor, got {type(value).__name__}")
        if value.device.type != "cpu":
            raise TypeError(f"{name}: expected a CPU tensor, got one on {value.device}")
        if value.layout is not torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got layout {value.layout}")
        if forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None:
            raise RuntimeError(
                f"{name}: pconv::conv2d has no forward-mode derivative, packed weights are for inference"
            )


def is_plain(x: Any, second: Any = None, third: Any = None) -> bool:
    """Whether the dispatcher would do nothing but call the CPU kernel. `second` and `third` may be None."""
    # A compiler comes first: it cannot trace the rest.
    return not _is_dynamo_compiling() and _eager.is_plain(x, second, third)


def _layout_of(x: torch.Tensor, packed: PackedConv) -> Layout:
    """What follows from x's shape and strides alone; kept, since a small layer runs in less time than this takes."""
    key = (x.shape, x.stride())
    layout: Layout | None = packed.memo.get(key)
    if layout is None:
        batch = _batch_of("x", x)
        memory_format = _format_of(x, batch)
        dense = batch.is_contiguous(memory_format=memory_format)
        last = memory_format is torch.channels_last
        n, channels, h, w = batch.shape
        if channels != packed.in_channels:
            raise ValueError(f"x: expected {packed.in_channels} channels, got shape {list(x.shape)}")
        shape = (n, packed.out_channels, *output_size(packed, x.shape))
        strides = torch.empty(shape, device="meta", memory_format=memory_format).stride()
        layout = Layout(x, (n, h, w), last, memory_format, dense, shape, strides)
        if len(packed.memo) >= _MAX_LAYOUTS:
            packed.memo.clear()
        packed.memo[key] = layout
    return layout


def _batch_of(name: str, x: torch.Tensor) -> torch.Tensor:
    if x.dim() not in (3, 4):
        raise ValueError(f"{name}: expected shape [N, C, H, W] or [C, H, W], got {list(x.shape)}")
    return x if x.dim() == 4 else x.unsqueeze(0)


def _format_of(x: torch.Tensor, batch: torch.Tensor) -> Any:
    """Memory format that the output of x takes; `batch` is x as [N, C, H, W]."""
    # It cannot read the sizes that torch.jit.trace shows, and the stride that unsqueeze() makes up misleads it.
    if x.dim() == 4 and not torch.jit.is_tracing():
        return suggest_memory_format(batch)
    last = not batch.is_contiguous() and batch.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _run(
    x: torch.Tensor,
    packed: PackedConv,
    residual: torch.Tensor | None,
    low: float,
    high: float,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """Checks the operands and calls the core. Everything is a CPU tensor here."""
    if x.dtype is not torch.float32:
        raise TypeError(f"x: expected float32, got {x.dtype}")
    layout = _layout_of(x, packed)
    batched, memory_format, shape = layout.batched, layout.memory_format, layout.output_shape
    residual_address = 0
    if residual is not None:
        _check_operand("residual", residual, shape if batched else shape[1:])
    if out is None:
        y = x.new_empty_strided(shape, layout.output_strides)
    else:
        y = _checked_out(out, x, residual, shape if batched else shape[1:], memory_format)
    if not layout.dense or x.data_ptr() & 3:
        x = _copied("x", x, memory_format)
    if residual is not None:
        batch = _batch_of("residual", residual)
        if not batch.is_contiguous(memory_format=memory_format) or batch.data_ptr() & 3:
            batch = _copied("residual", residual, memory_format)
        residual_address = batch.data_ptr()
    if y.numel():
        address, size = (x.data_ptr(), y.data_ptr()), (layout.n, layout.h, layout.w)
        packed.run(*address, *size, layout.channels_last, residual_address, low, high, get_num_threads())
    if out is not None:
        return out
    return y if batched else y.squeeze(0)


def _copied(name: str, x: torch.Tensor, memory_format: Any) -> torch.Tensor:
    """[N, C, H, W] copy in a layout that the core reads."""
    report_copy(name, x.shape, x.stride())
    return _batch_of(name, x).clone(memory_format=memory_format)


def _check_operand(name: str, value: torch.Tensor, shape: tuple[int, ...]) -> None:
    if value.dtype is not torch.float32:
        raise TypeError(f"{name}: expected float32, got {value.dtype}")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name}: expected the output's shape {list(shape)}, got {list(value.shape)}")


def _checked_out(
    out: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None, shape: tuple[int, ...], memory_format: Any
) -> torch.Tensor:
    _check_operand("out", out, shape)
    y = _batch_of("out", out)
    if not y.is_contiguous(memory_format=memory_format) or start(y) & 3:
        raise ValueError(f"out: expected {memory_format} like x, got strides {list(out.stride())}")
    if overlap(out, x):
        raise ValueError("out: overlaps x")
    if residual is not None and overlap(out, residual):
        if start(out) != start(residual) or out.stride() != residual.stride():
            raise ValueError("out: overlaps residual without being the same tensor")
    return y


# ---- registration: what each dispatch key does ------------------------------------------------------------------

_LIBRARY = torch.library.Library("pconv", "DEF")
# The output's layout follows the input's strides, so a compiler must hand over the strides it told the fake kernel.
_TAGS = (torch.Tag.pt2_compliant_tag, getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order))
_LIBRARY.define("conv2d(Tensor x, Tensor packed_uint8, Tensor? residual, str activation) -> Tensor", tags=_TAGS)
# Raises when it runs. As an operator of its own it lets torch.compile trace the backward pass of a model that never
# runs it.
_LIBRARY.define("conv2d_backward(Tensor grad, SymInt[] shape) -> Tensor", tags=_TAGS)


def _conv2d_cpu(x: torch.Tensor, packed_uint8: torch.Tensor, residual: Any, activation: str) -> torch.Tensor:
    low, high, geometry = _parse_call(activation)
    packed = read_packed(packed_uint8)
    if geometry is not None and geometry != Geometry.of(packed):
        raise ValueError(f"packed: the call was made for {geometry}, got {Geometry.of(packed)}")
    return _run(x, packed, residual, low, high, None)


def _conv2d_fake(x: torch.Tensor, packed_uint8: torch.Tensor, residual: Any, activation: str) -> torch.Tensor:
    geometry = _parse_call(activation)[2] or _geometry_behind(packed_uint8)
    if x.dtype is not torch.float32:
        raise TypeError(f"x: expected float32, got {x.dtype}")
    batch = _batch_of("x", x)
    if batch.shape[1] != geometry.in_channels:
        raise ValueError(f"x: expected {geometry.in_channels} channels, got shape {list(x.shape)}")
    size = geometry.output_size(batch.shape[2], batch.shape[3])
    shape = (batch.shape[0], geometry.out_channels, *size)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_format_of(x, batch))
    return y if x.dim() == 4 else y.squeeze(0)


def _geometry_behind(fake: torch.Tensor) -> Geometry:
    """Geometry of the layer whose bytes a fake tensor stands for.

    Only for calls without geometry, as a user writes them by hand. The bytes are those of the real tensor that the fake
    mode was shown; if several have this length, their geometries must agree.
    """
    mode = getattr(fake, "fake_mode", None)
    found = set()
    if mode is not None:
        n_bytes = int(fake.numel())
        with _disable_current_modes():
            for real in list(mode.fake_tensor_converter.meta_converter.describer.lookup_tensor):
                if type(real) in _EXACT and real.dtype is torch.uint8 and real.numel() == n_bytes:
                    found.add(Geometry.of(read_packed(real)))
    if len(found) != 1:
        raise ValueError(
            "activation: a call that is traced without the packed bytes needs the layer's geometry after '@', as "
            "PatternConv2d gives it"
        )
    return found.pop()


def _conv2d_autocast(x: torch.Tensor, packed_uint8: torch.Tensor, residual: Any, activation: str) -> torch.Tensor:
    """fp32 inside, autocast's type outside, as nn.Conv2d gives it."""
    with _C._ExcludeDispatchKeyGuard(_AUTOCAST):
        plus = None if residual is None else _widened(residual)
        y = torch.ops.pconv.conv2d.default(_widened(x), packed_uint8, plus, activation)
        return y.to(torch.get_autocast_dtype("cpu"))


def _widened(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _save_shape(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.shape = inputs[0].shape


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, None, Any, None]:
    needs_x, _, needs_residual, _ = ctx.needs_input_grad
    return (
        torch.ops.pconv.conv2d_backward(grad, ctx.shape) if needs_x else None,
        None,
        torch.ops.pconv.conv2d_backward(grad, grad.shape) if needs_residual else None,
        None,
    )


def _conv2d_backward_cpu(grad: torch.Tensor, shape: list[int]) -> torch.Tensor:
    raise RuntimeError(
        "pconv::conv2d has no backward pass: packed weights are for inference. Run it under torch.no_grad(), or train "
        "the dense layer (PatternConv2d.to_dense()) and convert it again"
    )


def _conv2d_backward_fake(grad: torch.Tensor, shape: list[int]) -> torch.Tensor:
    return grad.new_empty(shape)


_LIBRARY.impl("conv2d", _conv2d_cpu, "CPU")
_LIBRARY.impl("conv2d", _conv2d_autocast, "AutocastCPU")
_LIBRARY.impl("conv2d_backward", _conv2d_backward_cpu, "CPU")
torch.library.register_fake("pconv::conv2d", _conv2d_fake, lib=_LIBRARY)
torch.library.register_fake("pconv::conv2d_backward", _conv2d_backward_fake, lib=_LIBRARY)
torch.library.register_autograd("pconv::conv2d", _backward, setup_context=_save_shape, lib=_LIBRARY)
