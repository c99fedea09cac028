"""PatternConv2d: a packed convolution as an nn.Module, the drop-in for a pruned nn.Conv2d.

Holds the packed bytes as a buffer and calls the operator; packing.py makes the bytes, torch_op.py runs them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import torch_op
from ._native import PackedConv
from .handles import read_packed, tensor_from
from .packing import pack, parse_activation


class PatternConv2d(nn.Module):
    """A pruned convolution with its weights packed; for inference.

    The only state is the buffer `packed`, uint8 [n_bytes] (docs/FORMAT.md), so state_dict, pickle, deepcopy and
    torch.save carry the packed bytes. Input float32 [N, C, H, W] or [C, H, W] on the CPU, contiguous or channels_last;
    the output keeps the layout. train() and eval() change nothing; dtype conversions leave the bytes alone; a module
    moved to another device raises when it is called.
    """

    packed: torch.Tensor
    _stands_for_conv = False

    def __init__(self, packed: PackedConv, activation: str | tuple[float, float] | None = None) -> None:
        super().__init__()
        if not isinstance(packed, PackedConv):
            raise TypeError(f"packed: expected a PackedConv as pack() returns it, got {type(packed).__name__}")
        self.in_channels = packed.in_channels
        self.out_channels = packed.out_channels
        self.kernel_size = packed.kernel_size
        self.stride = packed.stride
        self.dilation = packed.dilation
        self.groups = packed.groups
        self.padding = packed.padding  # (top, left, bottom, right)
        self._call_text = torch_op.call_text(activation, packed)
        self.register_buffer("packed", tensor_from(packed))

    @classmethod
    def from_dense(cls, conv: nn.Conv2d, activation: str | tuple[float, float] | None = None) -> PatternConv2d:
        """Packs the weights of `conv` (any zeros in them count), which stays as it is.

        TypeError: not an nn.Conv2d (a transposed one included), or not float32 on the CPU. ValueError: a geometry that
        does not run: padding_mode other than 'zeros'.
        """
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"conv: expected an nn.Conv2d, got {type(conv).__name__}")
        obstacle = geometry_obstacle(conv)
        if obstacle:
            raise ValueError(f"conv: {obstacle}")
        packed = pack(conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        layer = cls(packed, activation)
        layer._stands_for_conv = True
        return layer

    @property
    def activation(self) -> str:
        """'', 'relu', 'relu6' or 'clamp(min,max)'; fixed when the layer is made."""
        return self._call_text.partition("@")[0]

    @property
    def weight(self) -> torch.Tensor:
        """The dense weights, float32 OIHW, of a layer that from_dense() made, for code that reads those of the
        convolution that stood here: unpacked at each use, so writing to them changes nothing. AttributeError: the
        layer was made in another way; its weights may have a BatchNorm folded in."""
        return torch.from_numpy(self._dense("weight")[0])

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias, or None; as `weight`, to be read only."""
        bias = self._dense("bias")[1]
        return None if bias is None else torch.from_numpy(bias)

    def _dense(self, name: str) -> Any:
        if not self._stands_for_conv:  # nn.Module then looks among its parameters, where a graph may put its own
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return self.packed_conv.to_dense()

    @property
    def packed_conv(self) -> PackedConv:
        """The native layer behind the bytes."""
        return read_packed(self.packed)

    def to_dense(self) -> nn.Conv2d:
        """An nn.Conv2d with the same weights and zeros where they were pruned. The activation is not part of it.

        ValueError: the padding differs between opposite sides, which nn.Conv2d does not have.
        """
        top, left, bottom, right = self.padding
        if top != bottom or left != right:
            raise ValueError(
                f"padding: nn.Conv2d pads opposite sides alike, got (top, left, bottom, right) {self.padding}"
            )
        weight, bias = self.packed_conv.to_dense()
        conv = nn.utils.skip_init(
            nn.Conv2d,
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            stride=self.stride,
            padding=(top, left),
            dilation=self.dilation,
            groups=self.groups,
            bias=bias is not None,
            dtype=torch.float32,
        )
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(weight))
            if bias is not None:
                conv.bias.copy_(torch.from_numpy(bias))
        return conv.train(self.training)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """activation(conv(x) + bias + residual), float32 [N, O, out_h, out_w]; see pconv_ops.conv2d."""
        return torch_op.call(x, self._buffers["packed"], residual, self._call_text)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts.append(f"padding={self.padding}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.activation:
            parts.append(f"activation='{self.activation}'")
        if self.packed.device.type == "cpu":
            parts.append(f"bias={self.packed_conv.has_bias}, density={self.packed_conv.density:.3f}")
        return ", ".join(parts)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Bytes of any length load once they are known to be a layer of this geometry.

        PConvFormatError: bad bytes. TypeError: not a uint8 tensor. ValueError: not [n_bytes], another geometry.
        Nothing was replaced.
        """
        value = state_dict.get(prefix + "packed")
        if value is not None:
            self._check_loaded(prefix + "packed", value)
            if value.shape != self.packed.shape:
                self.packed = torch.empty(value.shape, dtype=torch.uint8, device=self.packed.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_loaded(self, key: str, value: Any) -> None:
        if not isinstance(value, torch.Tensor) or value.dtype is not torch.uint8:
            raise TypeError(f"{key}: expected a uint8 tensor, got {getattr(value, 'dtype', type(value).__name__)}")
        if value.dim() != 1:
            raise ValueError(f"{key}: expected shape [n_bytes], got {list(value.shape)}")
        packed = PackedConv.from_bytes(value.detach().cpu().contiguous().numpy())
        for name in ("out_channels", "in_channels", "groups", "kernel_size", "stride", "dilation", "padding"):
            if getattr(packed, name) != getattr(self, name):
                raise ValueError(f"{key}: expected {name} {getattr(self, name)}, got {getattr(packed, name)}")


class ResidualConv2d(PatternConv2d):
    """A PatternConv2d that stands for activation(conv(x) + residual) in a converted network.

    The residual may have any shape and dtype that torch can add: one that does not match the output is added behind the
    layer, since a network may meet an input size at which its addition broadcasts. Takes and gives what PatternConv2d
    does.
    """

    def __init__(self, packed: PackedConv, activation: str | tuple[float, float] | None = None) -> None:
        super().__init__(packed, activation)
        self._plain_text = torch_op.call_text(None, packed)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """activation(conv(x) + bias + residual), float32 [N, O, out_h, out_w] unless the residual is larger."""
        try:
            if residual is None or residual.dtype is torch.float32:
                return super().forward(x, residual)
            y = torch_op.call(x, self._buffers["packed"], None, self._plain_text)
        except ValueError:
            if residual is None or residual.dtype is not torch.float32:
                raise
            y = torch_op.call(x, self._buffers["packed"], None, self._plain_text)
            if y.shape == residual.shape:
                raise
        y = y + residual
        low, high = parse_activation(self.activation)
        return y.clamp(low, high) if self.activation else y


def geometry_obstacle(conv: nn.Conv2d) -> str:
    """Why a convolution of this geometry cannot run; '' when it can."""
    if conv.padding_mode != "zeros":
        return f"padding_mode '{conv.padding_mode}': only 'zeros' runs"
    return ""
