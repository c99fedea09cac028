"""The data structure: who reads what, changes, names, text."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_import import BLOCK_TORCH

from pconv_ops.graph import MAX_RANK, UPSAMPLE_MODES, Activation, Graph, constant_of

ROOT = Path(__file__).parent.parent


@pytest.fixture
def graph():
    """x -> a (relu) -> b = a + a -> c = b * 2, outputs b and c; a dead d."""
    g = Graph()
    x = g.add_input("x", (1, 4))
    a = g.add("activate", "a", [x], (1, 4), {"activation": 1, "alpha": 0.0, "beta": 6.0}, module="net.a")
    b = g.add("add", "b", [a, a], (1, 4))
    c = g.add("mul", "c", [b, g.constant("two", 2.0)], (1, 4))
    g.add("flatten", "d", [a], (4,), {"start_dim": 0, "end_dim": 1})
    g.outputs = [b, c]
    return g


def node(graph, name):
    return next(node for node in graph.nodes if node.name == name)


def names(graph):
    return [node.name for node in graph.nodes]


def test_readers(graph):
    a, b, c, d = (node(graph, name) for name in "abcd")
    assert graph.readers(graph.inputs[0]) == [a] and graph.readers(a.output) == [b, b, d]
    assert graph.only_reader(graph.inputs[0]) is a
    assert graph.only_reader(a.output) is None and graph.only_reader(c.output) is None
    assert graph.readers(b.output) == [c] and graph.only_reader(b.output) is None  # an output too


def test_readers_follow_changes(graph):
    a, b, d = (node(graph, name) for name in "abd")
    assert graph.remove_dead() == 1 and graph.readers(a.output) == [b, b]
    graph.set_inputs(b, [a.output, graph.inputs[0]])
    assert graph.readers(graph.inputs[0]) == [a, b] and graph.only_reader(a.output) is b
    graph.add("flatten", "e", [a.output], (4,), {"start_dim": 0, "end_dim": 1})
    assert [reader.name for reader in graph.readers(a.output)] == ["b", "e"] and d not in graph.nodes


def test_replace_reaches_outputs(graph):
    a, b, c = (node(graph, name) for name in "abc")
    graph.replace(b.output, a.output)
    assert graph.outputs == [a.output, c.output] and c.inputs[0] is a.output
    assert graph.remove_dead() == 2 and names(graph) == ["a", "two", "c"]


def test_bypass(graph):
    a, b = node(graph, "a"), node(graph, "b")
    graph.bypass(a)
    assert b.inputs == [graph.inputs[0]] * 2 and "a" not in names(graph)


def test_insertion_and_moves(graph):
    b = node(graph, "b")
    graph.constant("early", [1.0], before=b)
    assert names(graph) == ["a", "early", "b", "two", "c", "d"]
    graph.move(node(graph, "early"), before=node(graph, "d"))
    assert names(graph) == ["a", "b", "two", "c", "early", "d"]


def test_names_are_unique(graph):
    assert graph.add("flatten", "a", [], ()).name == "a__2"
    assert graph.add("flatten", "x", [], ()).name == "x__2"
    assert graph.add("flatten", "a", [], ()).name == "a__3"
    assert graph.add("flatten", "a__3", [], ()).name == "a__3__2"


def test_constants_are_copies():
    g, array = Graph(), np.arange(6.0).reshape(2, 3)[:, ::2]
    value = g.constant("c", array)
    array[:] = 9
    held = constant_of(value)
    assert held is not None and held.dtype == np.float32 and held.flags.c_contiguous
    assert held.tolist() == [[0, 2], [3, 5]] and value.shape == (2, 2)
    assert constant_of(g.add_input("x", (1,))) is None and constant_of(g.add("flatten", "f", [value], (4,))) is None


def test_attributes_by_type(graph):
    a, d = node(graph, "a"), node(graph, "d")
    assert (a.activation, a.real("beta"), d.number("end_dim"), d.activation) == (Activation.CLAMP, 6.0, 1, 0)
    assert node(graph, "two").numbers("dims") == ()
    assert node(graph, "b").attributes == {"activation": 0, "alpha": 0.0, "beta": 0.0}
    with pytest.raises(AssertionError, match="a: beta"):
        a.number("beta")
    with pytest.raises(AssertionError, match="d: end_dim"):
        d.numbers("end_dim")


def test_text(graph):
    assert str(graph).splitlines() == [
        "input %x [1, 4]",
        "%a [1, 4] = activate(%x, activation=clamp, alpha=0, beta=6)  # 'net.a'",
        "%b [1, 4] = add(%a, %a)",
        "%two [] = constant(value 2, dims=())",
        "%c [1, 4] = mul(%b, %two)",
        "%d [4] = flatten(%a, start_dim=0, end_dim=1)",
        "output %b, %c",
    ]


def test_text_of_hostile_names():
    g = Graph()
    g.outputs = [g.add("flatten", "a\n% b", [g.add_input("", (1,))], (1,), module="m\n")]
    assert str(g).splitlines() == ["input %'' [1]", "%'a\\n% b' [1] = flatten(%'')  # 'm\\n'", "output %'a\\n% b'"]


def test_numbers_are_those_of_the_core():
    header = (ROOT / "src" / "kernels" / "tensor_ops.h").read_text(encoding="utf-8")
    body = header[header.index("enum class ActivationKind") :]
    kinds = re.findall(r"^  k(\w+) = (\d+)", body[: body.index("};")], re.MULTILINE)
    assert {name.lower(): int(number) for name, number in kinds} == {
        kind.name.replace("_", "").lower(): int(kind) for kind in Activation
    }
    limits = (ROOT / "src" / "graph" / "node.h").read_text(encoding="utf-8")
    assert f"kMaxRank = {MAX_RANK};" in limits
    resize = (ROOT / "src" / "graph" / "ops_resize.cpp").read_text(encoding="utf-8")
    assert all(f"k{name.title()} = {number}" in resize for number, name in enumerate(UPSAMPLE_MODES))


def test_graphs_and_passes_need_no_torch():
    code = f"""{BLOCK_TORCH}
import numpy as np
from pconv_ops.graph import Graph
from pconv_ops.passes import optimize

graph = Graph()
x = graph.add_input("x", (1, 1, 4, 4))
given = {{"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}}
y = graph.add("conv", "conv", [x], (1, 1, 2, 2), given, {{"weight": np.ones((1, 1, 3, 3), np.float32)}})
graph.outputs = [graph.add("mul", "mul", [y, graph.constant("two", 2.0)], (1, 1, 2, 2))]
assert [node.op for node in optimize(graph).nodes] == ["conv"]
assert graph.nodes[0].data["weight"].max() == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
