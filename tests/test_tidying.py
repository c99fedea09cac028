"""Each pass that makes graphs plain by itself: what it finds, what it leaves alone, and that outputs stay the same."""

import pytest
import torch
from graph_reference import applied, check_graph, interpret, ops
from torch.nn import functional as F

from pconv_ops import tidying
from pconv_ops.graph import Activation, Graph

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- tidying


def test_remove_dead():
    count, graph = applied(
        lambda m, x: [y := x * 2, F.max_pool2d(x, 2, return_indices=True), m.a(x)][2], tidying.remove_dead
    )
    assert (count, ops(graph)) == (0, "conv")  # torch has done it
    graph.add("reshape", "dead", [graph.inputs[0]], (1,))
    assert tidying.remove_dead(graph) == 1 and ops(graph) == "conv"


IDENTITIES = {
    "zero": (lambda m, x: x + 0, 1),
    "zeros": (lambda m, x: x - torch.zeros(8, 1, 1), 1),
    "one": (lambda m, x: m.a(1 * x), 1),
    "minus": (lambda m, x: 0 - x, 0),
    "broadcast": (lambda m, x: x.mean((2, 3), True) + torch.zeros(1, 1, 9, 11), 0),
    "cat of one": (lambda m, x: torch.cat([x], 1) + x, 1),
    "there and back": (lambda m, x: x.mT.mT, 0),
}


@pytest.mark.parametrize("case", IDENTITIES)
def test_remove_identities(case):
    forward, expected = IDENTITIES[case]
    count, graph = applied(forward, tidying.remove_identities)
    assert count == expected and (expected == 0 or "concat" not in ops(graph))


def test_identities_that_export_does_not_make():
    graph = Graph()
    value = x = graph.add_input("x", (2, 3, 4, 5))
    for op, attributes in (
        ("activate", {}),
        ("reshape", {"dims": (0, 3, 4, 5)}),
        ("permute", {"dims": (0, 1, 2, 3)}),
        ("pad", {"dims": (0,) * 8, "value": 1.0}),
        ("slice", {"dim": 1, "start": 0, "end": 2**63 - 1, "step": 1}),
    ):
        value = graph.add(op, op, [value], x.shape, attributes)
    graph.outputs = [value]
    assert tidying.remove_identities(graph) == 5 and graph.outputs == [x] and not graph.nodes


def test_fold_constants():
    graph = Graph()
    x = graph.add_input("x", (1, 4))
    value = graph.add("add", "sum", [graph.constant("a", [[1.0, 2.0]]), graph.constant("b", 1.0)], (1, 2))
    value = graph.add("concat", "cat", [value, graph.add("sub", "less", [value, value], (1, 2))], (1, 4), {"dim": 1})
    value = graph.add("permute", "turn", [value], (4, 1), {"dims": (1, 0)})
    value = graph.add("flatten", "flat", [value], (4,), {"start_dim": 0, "end_dim": 1})
    value = graph.add("reshape", "row", [value], (1, 4), {"dims": (1, -1)})
    graph.outputs = [graph.add("mul", "product", [x, value], (1, 4))]
    before = interpret(graph, torch.ones(1, 4))
    assert tidying.fold_constants(graph) == 6
    graph.remove_dead()
    check_graph(graph)
    assert ops(graph) == "constant mul" and graph.nodes[0].data["value"].tolist() == [[2, 3, 0, 0]]
    assert torch.equal(interpret(graph, torch.ones(1, 4))[0], before[0])


def test_constants_with_an_activation_stay():
    graph = Graph()
    constant = graph.constant("a", [-1.0])
    graph.outputs = [graph.add("add", "sum", [constant, constant], (1,), {"activation": 1, "beta": 1.0})]
    assert tidying.fold_constants(graph) == 0


def test_compose_permutes():
    steps = tidying.compose_permutes, tidying.remove_identities, tidying.remove_dead
    counts, graph = applied(lambda m, x: x.permute(0, 2, 3, 1).permute(0, 2, 3, 1).mT, *steps)
    assert counts == [2, 0, 2] and ops(graph) == "permute" and graph.nodes[0].numbers("dims") == (0, 3, 2, 1)
    counts, graph = applied(lambda m, x: m.a(x).mT.mT, *steps)
    assert counts == [1, 1, 1] and ops(graph) == "conv"
    # Read by two: one of them goes around it.
    counts, graph = applied(lambda m, x: [y := x.mT, y.transpose(1, 2) + y.transpose(1, 2)][1], *steps)
    assert counts == [2, 0, 1]


RESHAPES = {
    "reshape, reshape": (lambda m, x: m.a(x).view(x.shape[0], 4, -1).view(x.shape[0], 2, 4, 99), 1, (0, 2, 4, 99)),
    "reshape, flatten": (lambda m, x: x.view(x.shape[0], 4, 6, 33).flatten(1), 1, (0, -1)),
    "flatten, reshape": (lambda m, x: x.flatten(1).view(x.shape[0], 3, -1), 1, (0, 3, -1)),
    "flatten, flatten": (lambda m, x: x.flatten(2).flatten(1), 1, (0, -1)),
    "batch folded": (lambda m, x: x.view(-1, 4, 9, 11).view(x.shape[0], -1), 1, (-1, 792)),
    "middle": (lambda m, x: x.flatten(1, 2).view(x.shape[0], 4, 2, 9, 11), 0, None),
}


@pytest.mark.parametrize("case", RESHAPES)
def test_compose_reshapes(case):
    forward, expected, dims = RESHAPES[case]
    counts, graph = applied(forward, tidying.compose_reshapes, tidying.remove_dead)
    assert counts == [expected, expected]
    assert dims is None or graph.nodes[-1].numbers("dims") == dims


def test_copied_sizes_are_those_of_the_right_tensor():
    """The outer reshape copies dim 1 of the inner one, which is none of the input."""
    graph = Graph()
    x = graph.add_input("x", (2, 12))
    inner = graph.add("reshape", "inner", [x], (2, 3, 4), {"dims": (0, 3, 4)})
    graph.outputs = [graph.add("reshape", "outer", [inner], (2, 3, 2, 2), {"dims": (0, 0, 2, 2)})]
    assert tidying.compose_reshapes(graph) == 0
    inner.node.attributes["dims"] = (0, -1, 4)
    assert tidying.compose_reshapes(graph) == 0


CLAMPS = [((-1, 2), (0, 5), (0, 2)), ((0, 6), (1, 3), (1, 3)), ((0, 1), (2, 3), (2, 2)), ((2, 3), (0, 1), (1, 1))]


@pytest.mark.parametrize(("inner", "outer", "both"), CLAMPS)
def test_compose_clamps(inner, outer, both):
    count, graph = applied(lambda m, x: m.b(x).clamp(*inner).clamp(*outer) + x, tidying.compose_clamps)
    assert count == 1 and ops(graph) == "conv activate add"
    assert (graph.nodes[1].real("alpha"), graph.nodes[1].real("beta")) == both


def test_clamps_that_others_read_stay():
    count, _ = applied(lambda m, x: [y := x.clamp(0, 1), y.clamp(0.5, 2) + y][1], tidying.compose_clamps)
    assert count == 0
    assert applied(lambda m, x: F.leaky_relu(x).clamp(-1, 1), tidying.compose_clamps)[0] == 0


POOLINGS = {
    "flatten": (lambda m, x: torch.flatten(F.adaptive_avg_pool2d(x, 1), 1), 2, "mean", 0),
    "view": (lambda m, x: F.adaptive_avg_pool2d(x, (1, 1)).view(x.shape[0], -1), 2, "mean", 0),
    "squeeze": (lambda m, x: x.mean((2, 3), keepdim=True).flatten(1), 1, "mean", 0),
    "gate": (lambda m, x: x * F.adaptive_avg_pool2d(x, 1), 1, "mean mul", 1),
    "read twice": (lambda m, x: [y := F.adaptive_avg_pool2d(x, 1), y.flatten(1)], 1, "mean flatten", 1),
    "other": (lambda m, x: F.adaptive_avg_pool2d(x, (1, 2)).flatten(1), 0, "adaptive_avg_pool flatten", None),
}


@pytest.mark.parametrize("case", POOLINGS)
def test_pool_to_mean(case):
    forward, expected, left, keepdim = POOLINGS[case]
    count, graph = applied(forward, tidying.pool_to_mean)
    assert (count, ops(graph)) == (expected, left)
    assert keepdim is None or graph.nodes[0].number("keepdim") == keepdim


# ---- patterns

HARD = {
    "swish": (lambda m, x: m.a(x) + x * F.relu6(x + 3) / 6, Activation.HARD_SWISH),
    "swish divided first": (lambda m, x: x * (F.relu6(x + 3) / 6), Activation.HARD_SWISH),
    "swish by a factor": (lambda m, x: (F.relu6(3 + x) * x) * (1 / 6), Activation.HARD_SWISH),
    "swish by hardsigmoid": (lambda m, x: F.hardsigmoid(x) * x, Activation.HARD_SWISH),
    "sigmoid": (lambda m, x: F.relu6(x + 3) / 6, Activation.HARD_SIGMOID),
    "sigmoid by clamp": (lambda m, x: (x + 3).clamp(0, 6).mul(1 / 6), Activation.HARD_SIGMOID),
    "silu": (lambda m, x: x * torch.sigmoid(x), Activation.SILU),
    "silu reversed": (lambda m, x: torch.sigmoid(x) * x, Activation.SILU),
    "gate of another": (lambda m, x: m.a(x) * F.relu6(x + 3) / 6, Activation.CLAMP),
    "other bounds": (lambda m, x: x * (x + 3).clamp(0, 5) / 6, Activation.CLAMP),
    "other shift": (lambda m, x: x * F.relu6(x + 2) / 6, Activation.CLAMP),
    "other factor": (lambda m, x: x * F.relu6(x + 3) / 5, Activation.CLAMP),
    "other gate": (lambda m, x: x * torch.tanh(x), Activation.TANH),
}


@pytest.mark.parametrize("case", HARD)
def test_activations_written_by_hand(case):
    forward, kind = HARD[case]
    counts, graph = applied(forward, tidying.recognise_hard_activations, tidying.recognise_gates, tidying.remove_dead)
    (found,) = [node.activation for node in graph.nodes if node.op == "activate"]
    assert found is kind and (sum(counts[:2]) > 0) == (kind not in (Activation.CLAMP, Activation.TANH))


def test_a_sum_that_others_read_stays():
    count, _ = applied(lambda m, x: [y := x + 3, F.relu6(y) / 6 + y][1], tidying.recognise_hard_activations)
    assert count == 0
