"""Thread settings, thread safety of one layer, and that the core lets other Python threads run."""

import hashlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import pconv_ops
from pconv_ops import threads

PRINT_THREADS = "import pconv_ops; print(pconv_ops.get_num_threads())"


def run_python(code, **environment):
    env = {k: v for k, v in os.environ.items() if k != "PCONV_NUM_THREADS"} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def keep_threads(monkeypatch):
    """Lets a test change the number of threads."""
    monkeypatch.setattr(threads, "_explicit", threads._explicit)
    native = pconv_ops._native.get_num_threads()
    yield
    pconv_ops._native.set_num_threads(native)


def test_explicit_setting_wins(keep_threads):
    pconv_ops.set_num_threads(3)
    assert pconv_ops.get_num_threads() == 3
    assert pconv_ops._native.get_num_threads() == 3
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert pconv_ops.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_follows_torch_when_nothing_is_set(keep_threads, monkeypatch):
    monkeypatch.setattr(threads, "_explicit", 0)
    monkeypatch.setattr(threads, "_environment_read", True)
    before = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            assert pconv_ops.get_num_threads() == n
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("explicit", [0, 3])
def test_setting_is_restored_as_it_was(keep_threads, monkeypatch, explicit):
    monkeypatch.setattr(threads, "_explicit", explicit)
    monkeypatch.setattr(threads, "_environment_read", True)
    native = pconv_ops._native.get_num_threads()
    with pytest.raises(KeyError), threads.restored_num_threads():
        pconv_ops.set_num_threads(7)
        assert pconv_ops.get_num_threads() == 7
        raise KeyError
    assert threads._explicit == explicit and pconv_ops._native.get_num_threads() == native
    assert pconv_ops.get_num_threads() == (explicit or torch.get_num_threads())


@pytest.mark.parametrize("value", [1.0, "2", None, True])
def test_set_num_threads_refuses_kinds(value):
    with pytest.raises(TypeError, match="n:"):
        pconv_ops.set_num_threads(value)


@pytest.mark.parametrize("value", [0, -1, 1025, 2**70])
def test_set_num_threads_refuses_values(value):
    with pytest.raises(ValueError, match="n:"):
        pconv_ops.set_num_threads(value)


def test_environment_sets_the_number():
    assert run_python(PRINT_THREADS, PCONV_NUM_THREADS="5").stdout.strip() == "5"


def test_default_without_torch_is_the_usable_cpus():
    assert run_python(PRINT_THREADS).stdout.strip() == str(len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("value", ["0", "many", "-1", "1.5", "2000"])
def test_bad_environment_is_an_error(value):
    result = run_python(PRINT_THREADS, PCONV_NUM_THREADS=value)
    assert result.returncode != 0
    assert "ValueError: PCONV_NUM_THREADS" in result.stderr


def small_layer(channels=8, seed=0):
    weight = np.random.default_rng(seed).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    weight[:, :, 0] = 0
    return pconv_ops.pack(weight, padding=1)


def test_bits_do_not_depend_on_threads(keep_threads):
    packed = small_layer(32)
    x = np.random.default_rng(1).standard_normal((2, 32, 23, 19)).astype(np.float32)
    results = []
    for n in (1, 2, 3, 4, 7):
        pconv_ops.set_num_threads(n)
        results.append(pconv_ops.conv2d(x, packed).tobytes())
    assert len(set(results)) == 1
    assert np.count_nonzero(np.frombuffer(results[0], np.float32)) > 0


@pytest.mark.parametrize(("n_threads", "kind"), [(1, "numpy"), (4, "numpy"), (4, "torch")])
def test_sixteen_python_threads_share_a_layer(n_threads, kind, keep_threads):
    """Every one of 16 x 1,000 calls gives the same bytes, whatever shape the others run."""
    pconv_ops.set_num_threads(n_threads)
    packed = small_layer()
    layer = pconv_ops.PatternConv2d(packed)

    def digest_of(x):
        y = pconv_ops.conv2d(x, packed) if kind == "numpy" else layer(torch.from_numpy(x)).numpy()
        return hashlib.sha256(y.tobytes()).digest()

    rng = np.random.default_rng(2)
    inputs = [rng.standard_normal((1, 8, h, 7)).astype(np.float32) for h in (5, 9)]
    expected = [digest_of(x) for x in inputs]
    start = threading.Barrier(16)
    wrong, done = [], []

    def work(i):
        x, digest = inputs[i % 2], expected[i % 2]
        start.wait()
        for call in range(1000):
            if digest_of(x) != digest:
                wrong.append((i, call))
        done.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert sorted(done) == list(range(16))


def test_gil_is_released():
    """A Python thread makes progress while another is inside one call of the core.

    The interpreter hands the GIL over on its own only every `switchinterval`; set to a day, the counter can move
    between the marks around the call only if the call itself lets go.
    """
    packed = small_layer(64)
    x = np.zeros((4, 64, 96, 96), np.float32)
    pconv_ops.conv2d(x, packed)  # the plan exists
    count, stop, running = [0], threading.Event(), threading.Event()

    def tick():
        while not stop.is_set():
            count[0] += 1
            running.set()
            stop.wait(0.0001)  # lets go of the GIL too

    before = sys.getswitchinterval()
    sys.setswitchinterval(86400)
    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        running.wait()
        progress = 0
        for _ in range(20):
            seen = count[0]
            pconv_ops.conv2d(x, packed)
            progress += count[0] - seen
    finally:
        stop.set()
        ticker.join()
        sys.setswitchinterval(before)
    assert progress > 0
