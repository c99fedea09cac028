"""Ours or dense: the rule on times that the tests make up, the checks before it, and the replay of choices."""

import pytest
import torch
from networks import Residual, deviation, prune, random
from torch import nn

from pconv_ops import PatternConv2d, choosing, convert, timing
from pconv_ops.checking import ConversionError
from pconv_ops.choosing import Race


@pytest.fixture
def races(monkeypatch):
    """Sets the times by label: seconds of ours, dense takes 1; all others 0.5. Gives the labels that were timed."""
    seconds, seen = {}, []

    def race(label, ours, dense):
        ours(), dense()
        seen.append(label)
        return Race([seconds.get(label, 0.5)] * 7, [1.0] * 7)

    monkeypatch.setattr(choosing, "race", race)
    return seconds, seen


def model():
    return prune(Residual()).eval()


X = random(1, 3, 16, 16)
N_LAYERS = 9


@pytest.mark.parametrize(
    ("ours", "lost"),
    [
        ([1.0] * 7, False),
        ([1.03] * 7, False),  # not more than 3 %
        ([1.031] * 7, True),
        ([2.0] * 4 + [0.9] * 3, False),
        ([2.0] * 5 + [0.1] * 2, True),
        ([0.1] * 7, False),
    ],
)
def test_the_rule(ours, lost):
    assert Race(ours, [1.0] * 7).lost is lost


class Clock:
    """Stands in for the time module; runs advance it."""

    def __init__(self):
        self.now, self.slept, self.calls = 0.0, [], []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)

    def run(self, name, seconds):
        def call():
            self.calls.append(name)
            self.now += seconds

        return call


@pytest.mark.parametrize(
    ("ours", "dense", "rounds", "lost"), [(0.010, 0.020, 3, False), (0.020, 0.010, 5, True), (0.010, 0.010, 3, False)]
)
def test_races_end_when_the_rule_has_decided(monkeypatch, ours, dense, rounds, lost):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    result = choosing.race("a", clock.run("ours", ours), clock.run("dense", dense))
    assert result.lost is lost and len(result.ours) == len(result.dense) == rounds
    assert result.ms == pytest.approx((1e3 * ours, 1e3 * dense))


def test_short_runs_are_repeated_and_rounds_alternate(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    choosing.race("a", clock.run("o", 0.0005), clock.run("d", 0.0005))
    assert clock.slept == [timing.QUIET_S] * 6
    counted = round(choosing.ROUND_S / 0.0005)
    assert "".join(clock.calls).count("o") >= 3 * counted
    changes = sum(a != b for a, b in zip(clock.calls, clock.calls[1:], strict=False))
    assert changes == 2 * 4 - 1  # calibration and three rounds
    clock.slept.clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    choosing.race("a", clock.run("o", 0.0005), clock.run("d", 0.0005))
    assert clock.slept == [0.0] * 6  # one thread leaves no workers behind


def test_the_faster_one_is_chosen_layer_by_layer(races):
    seconds, seen = races
    seconds["layers.0.conv2"], seconds["stem.0"] = 2.0, 1.02
    net = model()
    fast = convert(net, X)
    rows = {row.name: row for row in fast.report.layers}
    assert seen == [*rows, "network"] and len(rows) == N_LAYERS
    assert [name for name, row in rows.items() if row.chosen == "dense"] == ["layers.0.conv2"]
    slow = rows["layers.0.conv2"]
    assert (slow.ms_ours, slow.ms_dense) == (2000.0, 1000.0) and "7 of 7 rounds" in slow.reason
    assert slow.fused == ("layers.0.bn2", "add", "layers.0.relu") and slow.deviation < 1e-5
    assert "not slower" in rows["stem.0"].reason
    assert type(fast.get_submodule("layers.0.conv2")) is nn.Conv2d
    assert isinstance(fast.get_submodule("layers.0.bn2"), nn.BatchNorm2d)
    assert (fast.report.ms_ours, fast.report.ms_dense) == (500.0, 1000.0)
    with torch.no_grad():
        assert deviation(fast(X), net(X)) < 1e-4


def test_a_slower_network_comes_back_as_it_was(races):
    seconds, _ = races
    seconds["network"] = 1.1
    net = model()
    fast = convert(net, X)
    assert type(fast) is Residual and torch.equal(fast(X), net(X))
    assert {row.chosen for row in fast.report.layers} == {"dense"}
    assert any("original came back" in note for note in fast.report.notes)
    assert all("network is faster dense" in row.reason for row in fast.report.layers)
    assert fast.report.ms_ours == pytest.approx(1100)


def test_a_network_that_wins_rounds_but_not_the_median_comes_back(monkeypatch):
    ours, dense = [9.0, 9.0, 9.0, 1.0, 1.0, 9.0, 9.0], [9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]

    def race(label, *_):
        return Race(ours, dense) if label == "network" else Race([0.5] * 7, [1.0] * 7)

    monkeypatch.setattr(choosing, "race", race)
    assert not Race(ours, dense).lost and Race(ours, dense).slower
    net = model()
    fast = convert(net, X)
    assert type(fast) is Residual and any("original came back" in note for note in fast.report.notes)


def test_races_go_on_while_the_medians_contradict_the_rule(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    times = {"ours": [], "dense": []}
    drawn = {"ours": [9, 9, 1, 1, 1, 9, 9], "dense": [9, 1, 1, 1, 9, 1, 1]}

    def seconds_per_run(run, repeats, warm_s=None):
        name = "ours" if run is ours else "dense"
        if warm_s is not None and repeats == 1 and len(times[name]) == 0:
            times[name].append("calibration")
            return 1.0
        times[name].append(drawn[name][len(times[name]) - 1])
        return times[name][-1]

    def ours(): ...
    def dense(): ...

    monkeypatch.setattr(timing, "seconds_per_run", seconds_per_run)
    result = choosing.race("a", ours, dense)
    # After four rounds three are not dense's, but the medians are 5 and 1; after five both are 1.
    assert len(result.ours) == 5 and not result.lost and not result.slower


def test_nothing_wins(races):
    seconds, seen = races
    net = model()
    for name, _ in net.named_modules():
        seconds[name] = 3.0
    fast = convert(net, X)
    assert type(fast) is Residual and "network" not in seen and torch.equal(fast(X), net(X))
    assert any("nothing was replaced" in note for note in fast.report.notes)


@pytest.mark.parametrize(("fallback", "accelerated"), [("never", N_LAYERS), ("always", 0)])
def test_forced_choices_measure_nothing(races, fallback, accelerated):
    _, seen = races
    report = convert(model(), X, fallback=fallback).report
    assert report.n_accelerated == accelerated and seen == []
    assert all(fallback in row.reason for row in report.layers)


def test_layers_are_timed_on_what_they_get(monkeypatch):
    """In the memory format and at the size that the model gives them, with the operations around them."""
    shapes = []

    def race(label, ours, dense):
        got, want = ours(), dense()
        if label != "network":
            shapes.append((label, tuple(got[0].shape), got[0].stride() == want[0].stride()))
            assert deviation(got[0], want[0]) < 1e-4
            assert deviation(dense()[0], want[0]) == 0.0  # repeated runs see the same residual
        return Race([0.5] * 7, [1.0] * 7)

    monkeypatch.setattr(choosing, "race", race)
    fast = convert(model(), random(2, 3, 16, 16).contiguous(memory_format=torch.channels_last))
    assert {row.layout for row in fast.report.layers} == {"nhwc"}
    assert shapes[0] == ("stem.0", (2, 8, 8, 8), True) and all(same for *_, same in shapes)


# ---- checks


def break_layers(monkeypatch, factor):
    right = PatternConv2d.forward

    def wrong(self, x, residual=None):
        return right(self, x, residual) * factor

    monkeypatch.setattr(PatternConv2d, "forward", wrong)


def test_a_wrong_layer_is_loud(monkeypatch, races):
    break_layers(monkeypatch, 1.01)
    with pytest.raises(ConversionError, match="layer 'stem.0'.*bug"):
        convert(model(), X)


def test_a_layer_that_deviates_stays_dense(monkeypatch, races):
    break_layers(monkeypatch, 1.0005)
    fast = convert(model(), X)
    assert {row.chosen for row in fast.report.layers} == {"dense"}
    assert all("deviates by" in row.reason and row.deviation > 1e-4 for row in fast.report.layers)


def test_nan_from_a_layer_is_loud(monkeypatch, races):
    break_layers(monkeypatch, float("nan"))
    with pytest.raises(ConversionError):
        convert(model(), X)


def test_terms_that_cancel_are_no_bug(races):
    """The output is 1e-5 of its terms: rounding alone makes it deviate, in both."""

    class Cancelling(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 1)

        def forward(self, x):
            return self.conv(torch.cat([x, x + 1e-5 * x.flip(0)], 1))

    net = Cancelling()
    with torch.no_grad():
        half = torch.randn(16, 8, 1, 1)
        net.conv.weight.copy_(torch.cat([half, -half], 1))
        net.conv.bias.zero_()
        fast = convert(net, random(2, 8, 9, 9))
    (row,) = fast.report.layers
    assert row.chosen == "pconv" or "terms cancel" in row.reason


def test_outputs_that_are_not_finite_are_not_compared(races):
    net = nn.Sequential(prune(nn.Conv2d(8, 8, 3)))
    fast = convert(net, torch.full((1, 8, 5, 5), float("nan")))
    assert fast.report.layers[0].chosen == "dense" and "not finite" in fast.report.layers[0].reason


def test_a_wrong_graph_is_loud(monkeypatch, races):
    from pconv_ops.tracing import TracedPlan

    right = TracedPlan.build

    def wrong(self, judge):
        result = right(self, judge)
        for node in result.graph.nodes:
            if node.target == "layers.1.conv1":
                node.args = (node.args[0] * 1,) if not hasattr(node.args[0], "op") else (node.prev.args[0],)
        result.recompile()
        return result

    monkeypatch.setattr(TracedPlan, "build", wrong)
    with pytest.raises(ConversionError, match="outputs of the converted"):
        convert(model(), X)


# ---- replay


@pytest.mark.parametrize("form", ["object", "path", "text"])
def test_choices_replay_without_measuring(races, tmp_path, form):
    seconds, seen = races
    seconds["layers.0.conv1"] = 2.0
    report = convert(model(), X).report
    report.save(tmp_path / "choices.json")
    seen.clear()
    given = {"object": report, "path": tmp_path / "choices.json", "text": str(tmp_path / "choices.json")}[form]
    again = convert(model(), X, choices=given)
    assert seen == [] and [r.chosen for r in again.report.layers] == [r.chosen for r in report.layers]
    assert all("choices" in row.reason for row in again.report.layers)
    assert again.report.n_accelerated == N_LAYERS - 1 and again.report.deviation < 1e-4


def test_choices_without_an_example(races):
    net = nn.Sequential(prune(nn.Conv2d(8, 8, 3)), nn.Conv2d(8, 8, 1))
    report = convert(net, fallback="auto").report
    assert [row.chosen for row in convert(net, fallback="never", choices=report).report.layers] == ["pconv", "dense"]
    assert [row.chosen for row in convert(net, random(1, 8, 5, 5), choices=report).report.layers] == ["pconv", "dense"]


def test_choices_of_another_model_are_refused(races):
    report = convert(model(), X, fallback="never").report
    wider = prune(Residual()).eval()
    wider.stem[0] = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
    with pytest.raises(ValueError, match="choices: layer 'stem.0' has weights"):
        convert(wider, X, choices=report)
    with pytest.raises(ValueError, match="choices: layer 'stem.0' is not in the model"):
        convert(nn.Sequential(nn.Conv2d(3, 8, 3)), X, choices=report)
    larger = model()
    larger.layers.append(nn.Conv2d(16, 16, 1))
    with pytest.raises(ValueError, match="choices: the model's layer 'layers.3' is not in the report"):
        convert(larger, X, choices=report)
    with pytest.raises(ValueError, match=r"'stem.0' gets input \[1, 3, 20, 20\], the report was made for"):
        convert(model(), random(1, 3, 20, 20), choices=report)
    hooked = model()
    hooked.stem[0].register_forward_hook(lambda module, args, y: None)
    with pytest.raises(ValueError, match="'stem.0' cannot be replaced as the report says: has hooks"):
        convert(hooked, X, choices=report)


def test_choices_of_a_wrong_kind(tmp_path):
    with pytest.raises(TypeError, match="choices: expected a ConvertReport"):
        convert(model(), X, choices=["stem.0"])
    with pytest.raises(OSError):
        convert(model(), X, choices=tmp_path / "absent.json")
