"""What a person sees of the cells of a comparison, on stderr: bars on a terminal, a line for each one elsewhere."""

from __future__ import annotations

import re
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ppl_vae.errors import harmless

__all__ = ["CellsDisplay"]


class CellsDisplay:
    """The cells of a comparison that are trained at the same time: bars on a terminal, a line for each one elsewhere.

    It is told of the lines that cells print, and reads the epochs off those of `TrainingDisplay`.
    """

    def __init__(self, total: int, done: int, headline: str) -> None:
        self.total, self.done, self.headline = total, done, headline
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.started: dict[str, float] = {}
        self.tasks: dict[str, TaskID] = {}
        self.bar: Progress | None = None

    def __enter__(self) -> Self:
        self.console.print(harmless(self.headline), markup=False)
        if self.console.is_terminal:
            self.bar = Progress(
                BarColumn(bar_width=16),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
                TextColumn("{task.description}", markup=False),
                console=self.console,
                transient=True,
            )
            self.all = self.bar.add_task("cells", total=self.total, completed=self.done)
            self.bar.start()
        return self

    def begin(self, name: str) -> None:
        """A cell was started."""
        self.started[name] = time.monotonic()
        if self.bar is not None:
            self.tasks[name] = self.bar.add_task(name, total=None)

    def line(self, name: str, text: str) -> None:
        """A cell says something."""
        found = re.match(r"epoch (\d+)/(\d+): (.*)", text)
        if found and self.bar is not None:
            epoch, epochs, words = found.groups()
            self.bar.update(
                self.tasks[name], completed=int(epoch), total=int(epochs), description=f"{name}: {words.split(';')[0]}"
            )

    def end(self, name: str, reason: str | None) -> None:
        """A cell is over; with the reason if it failed."""
        self.done += 1
        seconds = time.monotonic() - self.started[name]
        words = f"in {seconds:.0f} s" if reason is None else f"failed: {reason}"
        self.console.print(f"{self.done}/{self.total} {name}: {words}", markup=False)
        if self.bar is not None:
            self.bar.remove_task(self.tasks.pop(name))
            self.bar.update(self.all, completed=self.done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
