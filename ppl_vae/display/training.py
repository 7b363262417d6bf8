"""What a person sees of a training run, on stderr: a bar on a terminal or in a notebook, elsewhere a line at times."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ppl_vae.errors import harmless

__all__ = ["SHOWN", "TrainingDisplay", "describe_epoch", "is_watched"]


SHOWN: list[object] = []
"""Whoever has a bar on the screen now: there is one line for it."""


def is_watched() -> bool:
    """Whether somebody looks at a bar: stderr is a terminal, or this is a notebook."""
    return Console(stderr=True).is_terminal or Console().is_jupyter


def describe_epoch(record: Mapping[str, Any], *, points: bool = False) -> str:
    """The record of an epoch in words: bounds in nats per row, the KL weight and the rate.

    Of a guide that draws points these are no bounds, but log p(x | f(x)) and the penalties.

    Example:
        >>> describe_epoch({"epoch": 3, "train": -101.25, "validation": -99.5, "beta": 0.3, "rate": 12.0})
        'bound train -101.25, validation -99.50; KL weight 0.30; rate 12.0'
    """
    if points:
        record = _as_reconstruction(record)
    parts = [f"{'log p(x|f(x))' if points else 'bound'} train {record['train']:.2f}"]
    if record.get("validation") is not None:
        parts[0] += f", validation {record['validation']:.2f}"
    parts.append(f"{'penalty' if points else 'KL'} weight {record['beta']:.2f}")
    if record.get("rate") is not None:
        parts.append(f"{'penalty' if points else 'rate'} {record['rate']:.1f}")
    return "; ".join(parts)


def _as_reconstruction(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record with `train` without the penalties, where these are known."""
    return record if record.get("distortion") is None else {**record, "train": -record["distortion"]}


class TrainingDisplay:
    """Call it with the record of every epoch; `headline` is printed before the first one.

    With `points` the guide draws points, and nothing is called a bound.

    Nothing is printed before the first epoch is over: a run that is refused leaves one line, the reason.
    """

    def __init__(self, epochs: int, headline: str, *, points: bool = False) -> None:
        self.epochs, self.headline, self.points = epochs, headline, points
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.last: Mapping[str, Any] | None = None
        self.printed = 0
        self.started = time.monotonic()
        self.bar: Progress | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bar = Progress(
                SpinnerColumn(),
                TextColumn("epoch {task.completed}/{task.total}"),
                BarColumn(bar_width=16),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=self.console,
                transient=True,
            )
            self.task = self.bar.add_task("preparing", total=self.epochs)
            self.bar.start()
            SHOWN.append(self)
        return self

    def prepare(self, words: str) -> None:
        """Show what takes long before the first epoch."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=words)
        else:
            self.console.print(harmless(words), markup=False)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Show an epoch."""
        if self.last is None:
            self.console.print(harmless(self.headline), markup=False)
        self.last = record
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=record["epoch"], description=_short(record, self.points))
        elif self.printed == 0 or record["epoch"] >= self.printed + max(1, self.epochs // 10):
            self._line(record)

    def _line(self, record: Mapping[str, Any]) -> None:
        self.printed = int(record["epoch"])
        seconds = time.monotonic() - self.started
        words = f"epoch {record['epoch']}/{self.epochs}: {describe_epoch(record, points=self.points)}; {seconds:.0f} s"
        self.console.print(words, markup=False)
        sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
            SHOWN.remove(self)
        if self.last is not None and (self.bar is not None or self.last["epoch"] != self.printed):
            self._line(self.last)


def _short(record: Mapping[str, Any], points: bool = False) -> str:
    """As many words as fit beside a bar on 80 columns."""
    if points:
        record = _as_reconstruction(record)
    text = f"train {record['train']:.1f}"
    if record.get("validation") is not None:
        text += f" valid. {record['validation']:.1f}"
    text += f" beta {record['beta']:.2f}"
    return text if record.get("rate") is None else f"{text} {'pen.' if points else 'KL'} {record['rate']:.1f}"
