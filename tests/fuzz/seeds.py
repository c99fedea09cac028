"""Model files for the fuzzer to begin with, into tests/fuzz/corpus: one for every operator, and one of everything."""

import sys
from pathlib import Path

import numpy as np

from pconv_ops import pack
from pconv_ops._native import ModelBuilder

FOLDER = Path(__file__).parent / "corpus"


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def layer(kernel=3, groups=1, **geometry):
    """4 channels to 4, some kernels and taps missing."""
    weight = random(4, 4 // groups, kernel, kernel)
    weight[:2, :, ::2] = 0
    weight[2, 0] = 0
    return pack(weight, random(4), groups=groups, **geometry)


ACTIVATION, NONE = [1], [0.0, 6.0]
CASES = {
    "conv": ("conv", ACTIVATION, NONE, {"layer": layer(padding=1)}),
    "conv_strided": ("conv", ACTIVATION, NONE, {"layer": layer(5, stride=2, padding=2)}),
    "conv_depthwise": ("conv", ACTIVATION, NONE, {"layer": layer(groups=4, padding=1)}),
    "conv_pointwise": ("conv", [3], NONE, {"layer": layer(1), "slope": random(4)}),
    "linear": ("linear", ACTIVATION, NONE, {"weight": random(3, 6), "bias": random(3)}),
    "activate": ("activate", [9], NONE, {}),
    "max_pool": ("max_pool", [3, 3, 2, 2, 1, 1, 1, 1, 1], [], {}),
    "avg_pool": ("avg_pool", [3, 3, 2, 2, 1, 1, 1, 0, 0], [], {}),
    "adaptive_avg_pool": ("adaptive_avg_pool", [3, 2], [], {}),
    "mean": ("mean", [2, 1], [], {}),
    "concat": ("concat", [1], [], {}),
    "slice": ("slice", [1, 1, 4, 2], [], {}),
    "upsample": ("upsample", [1, 0, 0, 0], [2.0, 1.5], {}),
    "pixel_shuffle": ("pixel_shuffle", [2], [], {}),
    "softmax": ("softmax", [1, 1], [], {}),
    "reshape": ("reshape", [0, -1, 3], [], {}),
    "flatten": ("flatten", [1, 3], [], {}),
    "permute": ("permute", [0, 2, 3, 1], [], {}),
    "pad": ("pad", [0, 0, 1, 0, -1, 2, 0, 3], [0.5], {}),
}


def one_operator(op, ints, floats, data, fp16=False):
    """A network of an input of [2, 4, 6, 6], the operator, and its sum with a constant."""
    builder = ModelBuilder()
    x = builder.add_input("x", (2, 4, 6, 6), 1)
    y = builder.add_node(op, "op", [x], ints, floats, data, fp16)
    scale = builder.add_node("constant", "scale", [], [1], [], {"value": random(1)})
    builder.add_output("y", builder.add_node("mul", "scaled", [y, scale], [0], [0.0, 0.0], {}))
    builder.add_output("again", y)
    return builder.finish(False).to_bytes()


def everything():
    """Branches that share a layer, a residual, parts of a concatenation, a choice."""
    builder = ModelBuilder()
    x, other = builder.add_input("x", (1, 4, 6, 6), 13), builder.add_input("other", (1, 4, 6, 6), 13)
    shared = {"layer": layer(padding=1)}
    a = builder.add_node("conv", "a", [x], [1], [0.0, 6.0], shared)
    b = builder.add_node("conv", "b", [a, other], [5], [0.0, 0.0], shared)
    joined = builder.add_node("concat", "joined", [a, b, x], [1], [], {})
    part = builder.add_node("slice", "part", [joined], [1, 4, 8, 1], [], {})
    builder.add_output("y", builder.add_node("add", "sum", [part, other], [1], [0.0, 1.0], {}))
    return builder.finish(True).to_bytes([(0, "scalar", "f32_taps_2x4_scalar", (1, 6, 6))])


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, (op, ints, floats, data) in CASES.items():
        (FOLDER / f"seed-{name}").write_bytes(one_operator(op, ints, floats, data))
    (FOLDER / "seed-fp16").write_bytes(one_operator("conv", [1], [0.0, 6.0], {"layer": layer()}, fp16=True))
    (FOLDER / "seed-everything").write_bytes(everything())
    print(f"{len(list(FOLDER.iterdir()))} files in {FOLDER}", file=sys.stderr)


if __name__ == "__main__":
    main()
