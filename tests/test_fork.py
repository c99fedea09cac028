"""A process that has used the library starts others, by every start method: none hangs, all compute the same.

Each start method runs in a process of its own, so that a hang ends with a time limit and a clear name.
"""

import subprocess
import sys

import pytest

CHILD = """
import hashlib, multiprocessing, os, sys
import numpy as np
import pconv_ops

def layer():
    weight = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    weight[:, :, 0] = 0
    return pconv_ops.pack(weight, padding=1)

def digest(packed):
    x = np.random.default_rng(1).standard_normal((2, 16, 33, 17)).astype(np.float32)
    return hashlib.sha256(pconv_ops.conv2d(x, packed).tobytes()).hexdigest()

def work(packed, queue):
    pconv_ops.set_num_threads(3)
    queue.put(digest(packed))

def main(method, rounds):
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["numpy", "pconv_ops"])
    pconv_ops.set_num_threads(3)
    packed = layer()
    expected = digest(packed)  # the pool is running
    at_once = 4
    for first in range(0, rounds, at_once):
        queue = context.Queue()
        n = min(at_once, rounds - first)
        children = [context.Process(target=work, args=(packed, queue)) for _ in range(n)]
        for child in children:
            child.start()
        results = [queue.get(timeout=60) for _ in children]
        for child in children:
            child.join(60)
            assert child.exitcode == 0, child.exitcode
        assert results == [expected] * n
        assert digest(packed) == expected  # the parent still works
    print("rounds", rounds)

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
"""

BUSY_FORK = """
import os, sys, threading, time
import numpy as np
import pconv_ops

pconv_ops.set_num_threads(3)
packed = pconv_ops.pack(np.ones((16, 16, 3, 3), np.float32), padding=1)
x = np.ones((2, 16, 33, 17), np.float32)
expected = pconv_ops.conv2d(x, packed).tobytes()
stop = threading.Event()

def busy():
    while not stop.is_set():
        pconv_ops.conv2d(x, packed)

workers = [threading.Thread(target=busy) for _ in range(3)]
for worker in workers:
    worker.start()
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if pconv_ops.conv2d(x, packed).tobytes() == expected else 1)
    deadline = time.monotonic() + 60
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            stop.set()
            raise SystemExit("a forked child hangs")
        time.sleep(0.001)
    assert status == 0, status
stop.set()
for worker in workers:
    worker.join()
print("rounds", sys.argv[1])
"""


def run(script, *arguments):
    command = [sys.executable, str(script), *map(str, arguments)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=500)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"{arguments}: hangs; stderr: {(error.stderr or b'')[-2000:]!r}")
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip() == f"rounds {arguments[-1]}"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_compute_after_use(method, tmp_path, soak):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    run(script, method, 100 if soak else 20)


def test_fork_while_other_threads_compute(tmp_path, soak):
    script = tmp_path / "busy_fork.py"
    script.write_text(BUSY_FORK)
    run(script, 100 if soak else 20)
