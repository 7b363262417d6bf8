"""Things made one ahead on a thread, so that who uses them never waits while they are quick to make."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

__all__ = ["ahead"]

T = TypeVar("T")

_END = object()


def ahead(source: Iterable[T]) -> Iterator[T]:
    """The same things in the same order, the next made while one is used; what is raised is raised here.

    Example:
        >>> list(ahead(n * n for n in range(4)))
        [0, 1, 4, 9]
    """
    made: queue.Queue[Any] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(thing: Any) -> bool:
        while not stop.is_set():
            try:
                made.put(thing, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for thing in source:
                if not put((thing, None)):
                    return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=work, name="rows ahead", daemon=True)
    thread.start()
    try:
        while True:
            thing, error = made.get()
            if error is not None:
                raise error
            if thing is _END:
                return
            yield thing
    finally:
        stop.set()
        thread.join()
