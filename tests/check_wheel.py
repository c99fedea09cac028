"""What an installed wheel must do with numpy alone; run outside the source tree (make wheel, make wheel-aarch64)."""

import platform
import sys
from pathlib import Path

import numpy as np

import pconv_ops
from pconv_ops import _native

ROOT = Path(__file__).resolve().parent.parent


def integers(*shape, low=-2, high=3, seed=0):
    """Small enough that all sums are exact."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.float32)


def convolution(x, weight, bias):
    """3x3, stride 1, padding 1, in float64."""
    padded = np.pad(x.astype(float), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwyx,ocyx->nohw", windows, weight) + bias[:, None, None]


def main():
    assert Path(pconv_ops.__file__).resolve().parent != ROOT / "pconv_ops", "this is the source tree's package"
    x, weight, bias = integers(2, 8, 9, 13), integers(16, 8, 3, 3, seed=1), integers(16, seed=2)
    weight[:, ::3] = 0
    packed = pconv_ops.pack(weight, bias, padding=1)
    want = np.maximum(convolution(x, weight, bias), 0)
    y = pconv_ops.conv2d(x, packed, activation="relu")
    assert np.array_equal(y, want) and np.count_nonzero(y) > 0.3 * y.size

    builder = _native.ModelBuilder()
    value = builder.add_input("x", (2, 8, 9, 13), 1)
    value = builder.add_node("conv", "conv", [value], [1], [0.0, np.inf], {"layer": packed})
    value = builder.add_node("max_pool", "pool", [value], [2, 2, 2, 2, 1, 1, 0, 0, 0], [], {})
    builder.add_output("y", value)
    net = pconv_ops.CompiledModel(builder.finish(True))
    pooled = want[:, :, :8, :12].reshape(2, 16, 4, 2, 6, 2).max((3, 5))
    assert np.array_equal(net(x), pooled)
    assert np.array_equal(pconv_ops.CompiledModel.from_bytes(net.to_bytes())(x), pooled)
    assert np.array_equal(net(x[:1]), pooled[:1])
    assert "torch" not in sys.modules
    assert (Path(pconv_ops.__file__).parent / "cl").is_dir() and (Path(pconv_ops.__file__).parent / "py.typed").exists()
    print(f"{platform.machine()}, {_native.current_isa()}: pack, conv2d and CompiledModel agree with numpy")


if __name__ == "__main__":
    main()
