"""What a person sees of a long work that is no training: a bar, where somebody looks, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ppl_vae.display.training import SHOWN, is_watched
from ppl_vae.errors import UserError, shown

__all__ = ["working"]

PATIENCE = 1.0
"""So many seconds nothing is shown: most work is done by then."""


@contextmanager
def working(words: str, total: int, progress: Any = "auto") -> Iterator[Callable[[], None]]:
    """A function to call after every step of `total`.

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
    if not (callable(progress) or progress in (None, True, False, "auto")):
        raise UserError(f'progress must be "auto", True, False, or a function of two numbers, got {shown(progress)}')
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


def _nothing() -> None:
    """Nobody looks."""


class _Told:
    def __init__(self, total: int, tell: Callable[[int, int], Any]) -> None:
        self.done, self.total, self.tell = 0, total, tell

    def __call__(self) -> None:
        self.done += 1
        self.tell(self.done, self.total)


class _Bar:
    """A bar from the first step after `PATIENCE` on; none inside of another one, which has the line already."""

    def __init__(self, words: str, total: int) -> None:
        self.begun, self.done, self.words, self.total = time.monotonic(), 0, words, total
        self.bar: Progress | None = None

    def __call__(self) -> None:
        self.done += 1
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
