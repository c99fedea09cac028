"""What a Graph computes, by torch's functions: an interpreter for the tests, independent of the core.

And what all graphs must be: in order, with the attributes and data of src/graph/ops.def, unique names.
"""

import re
from pathlib import Path

import torch
from networks import X, net, random
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from pconv_ops.export import export
from pconv_ops.graph import Activation, Graph
from pconv_ops.passes import optimize

ACTIVATIONS = {
    Activation.NONE: lambda x, a, b: x,
    Activation.CLAMP: lambda x, a, b: x.clamp(a, b),
    Activation.LEAKY_RELU: lambda x, a, b: F.leaky_relu(x, a),
    Activation.SIGMOID: lambda x, a, b: x.sigmoid(),
    Activation.SILU: lambda x, a, b: F.silu(x),
    Activation.HARD_SIGMOID: lambda x, a, b: F.hardsigmoid(x),
    Activation.HARD_SWISH: lambda x, a, b: F.hardswish(x),
    Activation.TANH: lambda x, a, b: x.tanh(),
    Activation.GELU: lambda x, a, b: F.gelu(x),
    Activation.GELU_TANH: lambda x, a, b: F.gelu(x, approximate="tanh"),
    Activation.ELU: lambda x, a, b: F.elu(x, a),
}


def conv(x, node, data, residual=None):
    top, left, bottom, right = node.numbers("padding")
    x = F.pad(x, (left, right, top, bottom))
    stride, dilation = node.numbers("stride"), node.numbers("dilation")
    y = F.conv2d(x, data["weight"], data.get("bias"), stride, 0, dilation, node.number("groups"))
    if residual is None:
        return y
    assert residual.shape == y.shape
    return y + residual


def affine(x, node, data):
    shape = [1] * x.dim()
    shape[node.number("dim")] = -1
    return x * data["scale"].reshape(shape) + data["shift"].reshape(shape)


def pairs(node, *names):
    return [(node.number(f"{name}_h"), node.number(f"{name}_w")) for name in names]


def avg_pool(x, node, data):
    more = bool(node.number("ceil_mode")), bool(node.number("count_include_pad")), node.number("divisor") or None
    return F.avg_pool2d(x, *pairs(node, "kernel", "stride", "pad"), *more)


def max_pool(x, node, data):
    return F.max_pool2d(x, *pairs(node, "kernel", "stride", "pad", "dilation"), bool(node.number("ceil_mode")))


def upsample(x, node, data):
    mode = ("nearest", "bilinear")[node.number("mode")]
    align = bool(node.number("align_corners")) if mode == "bilinear" else None
    scale = (node.real("scale_h"), node.real("scale_w"))
    if scale == (0.0, 0.0):
        return F.interpolate(x, pairs(node, "out")[0], mode=mode, align_corners=align)
    assert pairs(node, "out") == [(0, 0)]
    return F.interpolate(x, scale_factor=scale, mode=mode, align_corners=align)


def reshape(x, node, data):
    dims = node.numbers("dims")
    return x.reshape([x.shape[i] if dim == 0 else dim for i, dim in enumerate(dims)])


def slice_(x, node, data):
    start, end, step = (node.number(name) for name in ("start", "end", "step"))
    assert step >= 1
    return torch.ops.aten.slice.Tensor(x, node.number("dim"), start, end, step)


def pad(x, node, data):
    dims = node.numbers("dims")
    sides = [side for i in reversed(range(x.dim())) for side in dims[2 * i : 2 * i + 2]]
    return F.pad(x, sides, value=node.real("value"))


def softmax(x, node, data):
    return (F.log_softmax if node.number("log") else F.softmax)(x, node.number("dim"))


def mean(x, node, data):
    return x.mean(tuple(range(-node.number("n_dims"), 0)), keepdim=bool(node.number("keepdim")))


ONE_INPUT = {
    "linear": lambda x, node, data: F.linear(x, data["weight"], data.get("bias")),
    "activate": lambda x, node, data: x,
    "affine": affine,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "adaptive_avg_pool": lambda x, node, data: F.adaptive_avg_pool2d(x, pairs(node, "out")[0]),
    "mean": mean,
    "slice": slice_,
    "upsample": upsample,
    "pixel_shuffle": lambda x, node, data: F.pixel_shuffle(x, node.number("factor")),
    "softmax": softmax,
    "reshape": reshape,
    "flatten": lambda x, node, data: x.flatten(node.number("start_dim"), node.number("end_dim")),
    "permute": lambda x, node, data: x.permute(node.numbers("dims")),
    "pad": pad,
}
BINARY = {"add": torch.add, "sub": torch.sub, "mul": torch.mul}


def computed(node, inputs, dtype):
    data = {name: torch.from_numpy(array).to(dtype) for name, array in node.data.items()}
    if node.op == "constant":
        assert node.numbers("dims") == node.data["value"].shape
        return data["value"]
    if node.op == "conv":
        y = conv(inputs[0], node, data, *inputs[1:])
    elif node.op in BINARY:
        y = BINARY[node.op](*inputs)
    elif node.op == "concat":
        y = torch.cat(inputs, node.number("dim"))
    else:
        (x,) = inputs
        y = ONE_INPUT[node.op](x, node, data)
    if node.activation is Activation.PRELU:
        return F.prelu(y, data["slope"])
    if "activation" in node.attributes:
        return ACTIVATIONS[node.activation](y, node.real("alpha"), node.real("beta"))
    return y


@torch.no_grad()
def interpret(graph: Graph, *inputs, dtype=torch.float64):
    """The outputs of a graph, a list of tensors, each computed in `dtype`. Shapes on the example are compared where the
    inputs are those of the example."""
    assert len(inputs) == len(graph.inputs)
    known = {value: x.to(dtype) for value, x in zip(graph.inputs, inputs, strict=True)}
    as_example = all(tuple(x.shape) == value.shape for value, x in zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        known[node.output] = computed(node, [known[value] for value in node.inputs], dtype)
        assert not as_example or tuple(known[node.output].shape) == node.output.shape, str(node)
    return [known[value] for value in graph.outputs]


# ---- what every graph must be

_ROW = re.compile(r'^PCONV_OP\(\d+, (\w+), (\d+), (\d+), "(.*?)", "(.*?)", "(.*?)"\)', re.MULTILINE)
_MANIFEST = Path(__file__).parent.parent / "src" / "graph" / "ops.def"


def manifest():
    """{operator: (least inputs, most inputs, attributes, data that may not be missing, data that may)}."""
    rows = {}
    for name, least, most, ints, floats, data in _ROW.findall(_MANIFEST.read_text(encoding="utf-8")):
        attributes = {part.removesuffix("...") for part in f"{ints},{floats}".split(",") if part}
        parts = [part for part in data.split(",") if part]
        needed = {part for part in parts if not part.startswith("[")}
        rows[name] = int(least), int(most), attributes, needed, {part.strip("[]") for part in parts}
    least, most, attributes, _, _ = rows["conv"]  # not packed yet, see graph.py
    attributes = attributes | {"stride", "padding", "dilation", "groups"}
    rows["conv"] = least, most, attributes, {"weight"}, {"weight", "bias", "slope"}
    return rows


def check_graph(graph: Graph, optimized=False):
    rows = manifest() | ({} if optimized else {"affine": (1, 1, {"dim"}, {"scale", "shift"}, {"scale", "shift"})})
    known, names = set(graph.inputs), [value.name for value in graph.values()]
    assert len(names) == len(set(names))
    for node in graph.nodes:
        least, most, attributes, needed, allowed = rows[node.op]
        assert least <= len(node.inputs) <= most and set(node.attributes) == attributes, str(node)
        assert needed <= set(node.data) <= allowed, str(node)
        assert all(value in known for value in node.inputs) and node.output.node is node, str(node)
        dtypes = {str(array.dtype) for array in node.data.values()}
        assert dtypes <= {"float64" if node.op == "affine" else "float32"}, str(node)
        assert (node.activation is Activation.PRELU) == ("slope" in node.data), str(node)
        known.add(node.output)
    assert graph.outputs and all(value in known for value in graph.outputs)
    assert str(graph)


def deviations(model, graph, *inputs):
    """Of each output of the graph from the model's, relative to the largest."""
    with torch.no_grad():
        expected = tree_leaves(model(*[x.clone() for x in inputs]))
    got = interpret(graph, *inputs)
    assert [y.shape for y in got] == [y.shape for y in expected]
    return [float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in zip(got, expected, strict=True)]


def check_same(model, graph, *inputs, optimized=False):
    check_graph(graph, optimized)
    assert max(deviations(model, graph, *inputs)) < 1e-4, str(graph)


def applied(forward, *steps, x=X):
    """(counts of the passes, graph) after passes over an exported network, whose outputs stay what they were."""
    model = forward if isinstance(forward, nn.Module) else net(forward)
    graph = export(model, x)
    counts = []
    for step in steps:
        counts.append(step(graph))
        check_same(model, graph, x)
    check_same(model, graph, random(3, *x.shape[1:], seed=8))
    return counts if len(counts) > 1 else counts[0], graph


def ops(graph):
    return " ".join(node.op for node in graph.nodes)


def checked(model, *inputs, batches=True):
    """The operators of the exported graph, which computes what the model does: as it came and optimized, on the example
    and on inputs of another batch."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph = export(model, inputs)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    others = [random(*(3, *x.shape[1:]) if batches else x.shape, seed=5 + i) for i, x in enumerate(inputs)]
    names = [node.op for node in graph.nodes]
    for optimized in (False, True):
        if optimized:
            optimize(graph)
        check_same(model, graph, *inputs, optimized=optimized)
        check_same(model, graph, *others, optimized=optimized)
    return names
