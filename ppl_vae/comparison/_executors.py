"""Calls that any `concurrent.futures.Executor` runs, here or on other machines; one that is lost is told by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future, as_completed
from typing import Any

from ppl_vae.comparison._workers import Watcher
from ppl_vae.errors import one_line

__all__ = ["elsewhere_done"]


def elsewhere_done(
    executor: Executor, function: Callable[..., str | None], calls: Mapping[str, tuple[Any, ...]], watcher: Watcher
) -> dict[str, str]:
    """Call a function for each name, and return the reasons of those that failed, by name.

    What it returns is a reason; what it raises is one, too, and so is a worker that is gone. When interrupted, what
    waits is not begun, and KeyboardInterrupt is raised.
    """
    waiting: dict[Future[str | None], str] = {}
    reasons: dict[str, str] = {}
    try:
        for name, given in calls.items():
            waiting[executor.submit(function, *given)] = name
            watcher.begin(name)
        for future in as_completed(list(waiting)):
            reason = _reason(future)
            watcher.end(waiting[future], reason)
            if reason is not None:
                reasons[waiting[future]] = reason
    except BaseException:
        for future in waiting:
            future.cancel()
        raise
    return {name: reasons[name] for name in calls if name in reasons}


def _reason(future: Future[str | None]) -> str | None:
    try:
        return future.result()
    except CancelledError:
        return "it was cancelled"
    except Exception as error:  # whatever a worker, or what became of it, may raise
        return one_line(f"{type(error).__name__}: {error}")[:300]
