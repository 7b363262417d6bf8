"""How many threads torch computes with: all that it has, or one while other processes keep the cores busy.

Torch's threads meet after every parallel operation, and wait for each other by spinning. Where another process has the
core of the one that is waited for, an operation of ten microseconds takes as long as the scheduler's turn: thousands of
times as long, and a training step 30 times. One thread waits for nobody. What is measured is a small parallel operation
with all threads and with one: microseconds on a quiet machine, and never more than a few of those turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ppl_vae.errors import Finding

__all__ = ["Threads", "suitable_threads"]

SIZE = 2**17
"""Numbers in the operation that is timed: torch shares it out, since it does so from 2^15 on."""

SLOWER = 4.0
"""One thread is taken where all of them are this many times slower: many more than where they merely do not pay."""

TRIES, SECONDS = 10, 0.05
"""The operation is timed so often, or until so much time has gone."""


class Threads:
    """Takes one thread or all at every `look`; afterwards there are as many as before.

    Example:
        >>> before = torch.get_num_threads()
        >>> with suitable_threads() as threads:
        ...     threads.look()
        >>> torch.get_num_threads() == before
        True
    """

    def __init__(self) -> None:
        self.all, self.slower = torch.get_num_threads(), 0.0

    def look(self) -> None:
        """Measure, and take what is faster now."""
        if self.all == 1:
            return
        x = torch.zeros(SIZE)
        one = _seconds(x, 1)
        everything = _seconds(x, self.all)
        if everything > SLOWER * one:
            torch.set_num_threads(1)
            self.slower = max(self.slower, everything / one)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What to say of it, once."""
        if not self.slower:
            return ()
        problem = f"other processes keep this machine busy: a shared operation takes {self.slower:,.0f} times as long"
        remedy = f"one thread computes instead of {self.all} while that is so (numbers are rounded otherwise)"
        return (Finding(None, problem, remedy, "warning"),)


def _seconds(x: torch.Tensor, threads: int) -> float:
    torch.set_num_threads(threads)
    x.add_(1)
    start = now = time.perf_counter()
    tries = 0
    while tries < TRIES and now - start < SECONDS:
        x.add_(1)
        tries, now = tries + 1, time.perf_counter()
    return (now - start) / tries


@contextmanager
def suitable_threads() -> Iterator[Threads]:
    """Look once, and put back the number of threads at the end; inside, `look` again as often as you like."""
    threads = Threads()
    try:
        threads.look()
        yield threads
    finally:
        torch.set_num_threads(threads.all)
