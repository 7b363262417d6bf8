"""What a person sees of a long work that is no training: a bar, where somebody looks, with the time that is left."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ppl_vae.display.training import SHOWN, is_watched
from ppl_vae.errors import UserError, shown

__all__ = ["showing", "shows_progress", "stepping", "tracked", "working"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Asked:
    """What the caller of a function asked for, and whether one of its loops is shown already."""

    def __init__(self, progress: Any) -> None:
        self.progress, self.busy = progress, False


ASKED: ContextVar[_Asked | None] = ContextVar("progress", default=None)

PATIENCE = 1.0
"""So many seconds nothing is shown: most work is done by then."""


@contextmanager
def working(words: str, total: int, progress: Any = "auto") -> Iterator[Callable[..., None]]:
    """A function to call after every step of `total`, or with the number of steps that are done.

    Args:
        words: what is done.
        total: how many steps there are.
        progress: "auto" shows a bar on a terminal and in a notebook, True elsewhere, too, False or None nothing; a
            function is told how many steps are done, and of how many.

    Raises:
        UserError: for something else.

    Example:
        >>> with working("rows", 2, lambda done, total: print(done, "of", total)) as step:
        ...     step()
        ...     step()
        1 of 2
        2 of 2
    """
    _check(progress)
    if callable(progress):
        yield _Told(total, progress)
    elif progress is True or (progress == "auto" and is_watched()):
        bar = _Bar(words, total)
        try:
            yield bar
        finally:
            bar.end()
    else:
        yield _nothing


@contextmanager
def showing(progress: Any) -> Iterator[None]:
    """Within the block, `tracked` loops show what was asked for.

    Raises:
        UserError: for something else than `working` takes.
    """
    _check(progress)
    before = ASKED.set(_Asked(progress))
    try:
        yield
    finally:
        ASKED.reset(before)


def shows_progress(function: Callable[P, R]) -> Callable[P, R]:
    """A function with an argument `progress`, which says what the `tracked` loops within it show.

    Example:
        >>> @shows_progress
        ... def double(numbers, progress="auto"):
        ...     return [2 * n for n in tracked(numbers, "doubling")]
        >>> double([1, 2], progress=lambda done, total: print(done, "of", total))
        1 of 2
        2 of 2
        [2, 4]
    """

    @functools.wraps(function)
    def shown_while(*args: P.args, **kwargs: P.kwargs) -> R:
        with showing(kwargs.get("progress", "auto")):
            return function(*args, **kwargs)

    return shown_while


def tracked(items: Iterable[T], words: str, total: int | None = None) -> Iterator[T]:
    """The items of a loop, each counted when it is done; loops within this one show nothing, unless it has one item.

    Args:
        items: what is gone through.
        words: what is done.
        total: how many items there are, where they are made one after the other.
    """
    if total is None:
        total = len(items) if isinstance(items, Collection) else 0
    with stepping(words, total) as step:
        for item in items:
            yield item
            step()


@contextmanager
def stepping(words: str, total: int) -> Iterator[Callable[..., None]]:
    """As `working`, for what the caller of the function that is running asked for; nothing within another of these.

    Args:
        words: what is done.
        total: how many steps there are; a single one is not shown.
    """
    asked = ASKED.get()
    if asked is None or asked.busy or total < 2:
        yield _nothing
        return
    asked.busy = True
    try:
        with working(words, total, asked.progress) as step:
            yield step
    finally:
        asked.busy = False


def _check(progress: Any) -> None:
    if not (callable(progress) or progress in (None, True, False, "auto")):
        raise UserError(f'progress must be "auto", True, False, or a function of two numbers, got {shown(progress)}')


def _nothing(done: int | None = None) -> None:
    """Nobody looks."""


class _Told:
    def __init__(self, total: int, tell: Callable[[int, int], Any]) -> None:
        self.done, self.total, self.tell = 0, total, tell

    def __call__(self, done: int | None = None) -> None:
        self.done = self.done + 1 if done is None else done
        self.tell(self.done, self.total)


class _Bar:
    """A bar from the first step after `PATIENCE` on; none inside of another one, which has the line already."""

    def __init__(self, words: str, total: int) -> None:
        self.begun, self.done, self.words, self.total = time.monotonic(), 0, words, total
        self.bar: Progress | None = None

    def __call__(self, done: int | None = None) -> None:
        self.done = self.done + 1 if done is None else done
        if self.bar is None and not SHOWN and time.monotonic() - self.begun >= PATIENCE and self.done < self.total:
            self._begin()
        if self.bar is not None:
            self.bar.update(self.bar.tasks[0].id, completed=self.done)

    def _begin(self) -> None:
        columns = (BarColumn(bar_width=16), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.bar = Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True), transient=True)
        self.bar.add_task(self.words, total=self.total)
        self.bar.start()
        SHOWN.append(self)

    def end(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            SHOWN.remove(self)
