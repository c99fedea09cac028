"""Test tiers: `make test` leaves out what is marked soak, `make soak` (pytest --soak) runs everything."""

from functools import lru_cache

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long counts too (tests marked soak)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak"):
        return
    long_ones = [item for item in items if item.get_closest_marker("soak")]
    if long_ones:
        config.hook.pytest_deselected(items=long_ones)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.fixture(scope="session")
def soak(pytestconfig: pytest.Config) -> bool:
    """True when the long counts are asked for: tests choose their number of rounds by it."""
    return bool(pytestconfig.getoption("--soak"))


@pytest.fixture
def quick(monkeypatch):
    """Benchmark rounds of one call, without pauses, one peak for all: for tests of everything but the timing."""
    from pconv_ops import _native, benchmark, timing  # only where torch is wanted

    for name in ("MIN_ROUND_S", "QUIET_S", "WARM_S"):
        monkeypatch.setattr(timing, name, 0.0)
    monkeypatch.setattr(benchmark, "PEAK_ROUNDS", 1)
    monkeypatch.setattr(_native, "measure_peak", lru_cache(_native.measure_peak))


@pytest.fixture
def one_thread():
    """torch's threads spin while they wait: on a busy machine small layers would take ten times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
