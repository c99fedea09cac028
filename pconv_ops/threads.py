"""How many threads a call may use. The pool itself lives in the core (src/pool.cpp)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index

from . import _native

_ENVIRONMENT = "PCONV_NUM_THREADS"
MAX_THREADS = 1024

_explicit = 0  # set by set_num_threads, or by the environment when first asked; 0: neither
_environment_read = False


def set_num_threads(n: int) -> None:
    """Lets each call use at most n threads, 1 <= n <= 1024. Results do not depend on it.

    TypeError: n is no integer. ValueError: out of range.
    """
    global _explicit
    if isinstance(n, bool):
        raise TypeError(f"n: expected an integer, got {n!r}")
    try:
        number = index(n)
    except TypeError:
        raise TypeError(f"n: expected an integer, got {n!r}") from None
    if not 1 <= number <= MAX_THREADS:
        raise ValueError(f"n: expected 1..{MAX_THREADS} threads, got {number}")
    _native.set_num_threads(number)
    _explicit = number


def get_num_threads() -> int:
    """Threads a call may use: what set_num_threads set, else the environment variable PCONV_NUM_THREADS, else
    torch.get_num_threads() if torch is loaded (a data loader's worker has 1), else the CPUs this process may run on.

    ValueError: PCONV_NUM_THREADS is not a number from 1 to 1024.
    """
    if _explicit or (not _environment_read and _from_environment()):
        return _explicit
    torch = sys.modules.get("torch")
    # A torch that is still being imported has no such name yet.
    torch_threads = getattr(torch, "get_num_threads", None)
    return _native.get_num_threads() if torch_threads is None else min(torch_threads(), MAX_THREADS)


@contextmanager
def restored_num_threads() -> Iterator[None]:
    """Puts the setting back on exit; a number that followed torch follows it again."""
    global _explicit
    before = (_explicit, _native.get_num_threads())
    try:
        yield
    finally:
        _native.set_num_threads(before[1])
        _explicit = before[0]


def _from_environment() -> bool:
    """Reads the variable, for the first and only time; True if it sets the number of threads."""
    global _environment_read
    text = os.environ.get(_ENVIRONMENT, "")
    if text:
        if not text.isdecimal() or not 1 <= int(text) <= MAX_THREADS:
            raise ValueError(f"{_ENVIRONMENT}: expected 1..{MAX_THREADS}, got '{text}'")
        set_num_threads(int(text))
    _environment_read = True
    return bool(text)
