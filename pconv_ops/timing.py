"""Rounds of several callables in turn, medians of each: the clockwork of benchmark.py, which knows what is timed.

Nothing here knows torch. A round of every variant follows a quiet moment, so that a slow moment of the machine, or the
idle workers of the variant before, meet all alike.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Mapping

MIN_ROUND_S = 0.020  # a round repeats the call at least this long
QUIET_S = 0.020  # torch's idle workers spin about 5 ms after a round and would take a core from the next one
WARM_S = 0.040  # uncounted runs before each round: planes of 12.8 MB need that long to be back in the caches
MALLOC_LIMIT = 1 << 30  # bytes; larger than any activation that is timed


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed blocks instead of giving them back to the system; False where there is no mallopt.

    Every variant returns a fresh output. Above 128 KB glibc may map and unmap it anew each time, and then a run of
    12.8 MB pays thousands of page faults, 1 ms and more, by the luck of the heap's shape. All variants gain alike.
    """
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # A block above 32 MB may not be kept out of mmap by its threshold: forbid mmap altogether.
    return all(
        mallopt(name, value) == 1
        for name, value in ((trim_threshold, MALLOC_LIMIT), (mmap_threshold, 32 << 20), (mmap_max, 0))
    )


def seconds_per_run(run: Callable[[], object], repeats: int, warm_s: float | None = None) -> float:
    """Mean seconds of `repeats` runs, after uncounted ones of warm_s (None: WARM_S)."""
    warm = time.perf_counter() + (WARM_S if warm_s is None else warm_s)
    run()
    while time.perf_counter() < warm:
        run()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def take_rounds(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    round_s: float,
    warm_s: float,
    quiet_s: float,
    decided: Callable[[Mapping[str, list[float]]], bool] | None = None,
) -> dict[str, list[float]]:
    """Seconds per run of each variant in each of `rounds` rounds, or in fewer once `decided(so far)` is true.

    In a round each variant has quiet_s of silence, warm_s of uncounted runs (at least one) and >= round_s of counted
    ones (at least one).
    """
    if rounds < 1:
        raise ValueError(f"rounds: got {rounds}, need >= 1")
    repeats, times = {}, {name: [] for name in variants}  # type: dict[str, int], dict[str, list[float]]
    for name, run in variants.items():
        repeats[name] = max(1, math.ceil(round_s / max(seconds_per_run(run, 1, warm_s), 1e-7)))
    for _ in range(rounds):
        for name, run in variants.items():
            time.sleep(quiet_s)
            times[name].append(seconds_per_run(run, repeats[name], warm_s))
        if decided is not None and decided(times):
            break
    return times


def interleave(variants: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """Median milliseconds of each variant: `rounds` rounds, in each a quiet moment, WARM_S of uncounted runs and
    >= 20 ms of every variant."""
    times = take_rounds(variants, rounds, MIN_ROUND_S, WARM_S, QUIET_S)
    return {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
