"""The clockwork of the benchmarks: rounds, pauses, medians, on a clock that the tests turn."""

import pytest

from pconv_ops import timing


class Clock:
    """Stands in for the time module: runs advance it, sleeps are noted."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.log.append(("sleep", seconds))

    def run(self, name, durations):
        durations = iter(durations)

        def call():
            self.now += next(durations)
            self.log.append((name, None))

        return call


def test_interleave_repeats_pauses_and_alternates(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    forever = [0.004] * 1000
    ms = timing.interleave({"ours": clock.run("ours", forever), "torch": clock.run("torch", forever)}, rounds=3)
    assert ms == pytest.approx({"ours": 4.0, "torch": 4.0})
    timed = clock.log[clock.log.index(("sleep", timing.QUIET_S)) :]
    assert timing.QUIET_S >= 0.020
    blocks = []
    for name, _ in timed:
        if name == "sleep":
            blocks.append([])
        else:
            blocks[-1].append(name)
    # 40 ms of warming up at 4 ms a call, then 20 ms on the clock.
    calls = 10 + 5
    assert blocks == [["ours"] * calls, ["torch"] * calls] * 3


def test_interleave_reports_the_median(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    # One call warms up, one counts: first to calibrate, then in 3 rounds.
    durations = [9.0, 0.1, 9.0, 0.1, 9.0, 0.9, 9.0, 0.2]
    assert timing.interleave({"a": clock.run("a", durations)}, rounds=3) == pytest.approx({"a": 200.0})


def test_interleave_without_rounds_is_an_error():
    with pytest.raises(ValueError, match="rounds: got 0"):
        timing.interleave({}, rounds=0)


def test_freed_memory_stays_with_the_process():
    assert timing.keep_freed_memory() in (True, False)  # False: no glibc here
