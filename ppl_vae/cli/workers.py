"""Processes that share the rows of a command."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

__all__ = ["rows_workers"]


@contextmanager
def rows_workers(count: int) -> Iterator[Executor | None]:
    """So many processes, or none."""
    if count == 1:
        yield None
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as executor:
        yield executor
