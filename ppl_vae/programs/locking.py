"""One thread at a time runs programs: Pyro's handlers, torch's global generators and switches are one per process.

Two threads that ran programs side by side would see each other's statements, draw from each other's seeds and leave
validation switched off. So whatever runs a program holds one lock, `fit` as a whole. Python threads would gain nothing
by less: a step is Python for the most part. Other processes do not wait for each other.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from ppl_vae.errors import within_memory

__all__ = ["exclusive", "one_at_a_time"]

P = ParamSpec("P")
R = TypeVar("R")


class _Kept:
    lock = threading.RLock()


def _forget() -> None:
    _Kept.lock = threading.RLock()


os.register_at_fork(after_in_child=_forget)  # in a child nobody will release what another thread of the parent holds


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other thread runs programs; your own Pyro code beside `ppl_vae` in other threads belongs in here.

    A thread that is inside may enter again; if it waits there for a thread that wants to enter, both wait for ever.

    Example:
        >>> with one_at_a_time(), one_at_a_time():
        ...     print("inside")
        inside
    """
    with _Kept.lock:
        yield


def exclusive(function: Callable[P, R]) -> Callable[P, R]:
    """A function that runs in one thread at a time, and beside no other function of this kind.

    Example:
        >>> exclusive(max)(1, 2)
        2
    """

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with _Kept.lock, within_memory(function.__name__):
            return function(*args, **kwargs)

    return alone
