"""What a person or a tracker is told of a run while it trains: callbacks, and the bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ppl_vae.display.training import TrainingDisplay, is_watched
from ppl_vae.errors import UserError, made_by, shown
from ppl_vae.runs.result import Record, Result

__all__ = ["Callback", "Told", "telling"]


class Callback:
    """Told when a run starts, of every epoch, and when it ends; subclass it and write what you want to be told.

    Example:
        >>> from ppl_vae.programs.toy import model, posterior
        >>> import torch, ppl_vae
        >>> class Enough(Callback):
        ...     def on_epoch(self, record):
        ...         return record["epoch"] < 2
        >>> result = ppl_vae.fit(model, posterior, torch.zeros(8), epochs=9, callbacks=[Enough()])
        >>> len(result.history), result.stopped
        (2, 'on_epoch')
    """

    def on_start(self, settings: Mapping[str, Any]) -> None:
        """Before the first epoch, with the settings of the run."""

    def on_epoch(self, record: Record) -> Any:
        """After an epoch, with its record (see `Result`); False ends the training."""

    def on_end(self, result: Result) -> None:
        """After the last epoch, with the result, also where the run was interrupted."""


class Told:
    """Several listeners as one: `on_epoch` of the user, callbacks, and a bar if somebody watches."""

    def __init__(
        self,
        on_epoch: Callable[[Record], Any] | None,
        callbacks: Sequence[Callback],
        display: TrainingDisplay | None,
        words: Callable[[str], None] | None,
    ) -> None:
        self._on_epoch, self._callbacks, self._display = on_epoch, callbacks, display
        self.words = words if display is None else display.prepare

    def epoch(self, record: Record) -> Any:
        """Tell all of an epoch; False if any of them returned it."""
        own = self._on_epoch
        listeners = [] if own is None else [lambda told: made_by("on_epoch", own, told, of="the record of an epoch")]
        listeners += [callback.on_epoch for callback in self._callbacks]
        if self._display is not None:
            self._display(record)
        answers = [listener(record) for listener in listeners]
        return not any(answer is False for answer in answers)

    def start(self, settings: Mapping[str, Any]) -> None:
        """The run begins."""
        for callback in self._callbacks:
            callback.on_start(settings)

    def end(self, result: Result) -> None:
        """The run is over."""
        for callback in self._callbacks:
            callback.on_end(result)


@contextmanager
def telling(
    on_epoch: Callable[[Record], Any] | None,
    callbacks: Sequence[Callback],
    progress: Any,
    epochs: int,
    headline: str,
    leads: bool,
) -> Iterator[Told]:
    """Who is told of a run.

    Args:
        on_epoch: of the user.
        callbacks: of the user.
        progress: "auto", True, False, None, or a function of words.
        epochs: how many there are at most.
        headline: what is trained.
        leads: whether this process speaks for the run.

    Raises:
        UserError: for something else.
    """
    if on_epoch is not None and not callable(on_epoch):
        raise UserError(f"on_epoch must be a function of the record of an epoch, got {shown(on_epoch)}")
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Sequence):
        raise UserError(f"callbacks expects a list of ppl_vae.training.Callback, got {shown(callbacks)}")
    for callback in callbacks:
        if not all(callable(getattr(callback, name, None)) for name in ("on_start", "on_epoch", "on_end")):
            raise UserError(
                "expected a callback with on_start, on_epoch and on_end, such as a subclass of "
                f"ppl_vae.training.Callback, got {shown(callback)}"
            )
    words = progress if callable(progress) else None
    is_auto = isinstance(progress, str) and progress == "auto"
    if words is None and not (is_auto or progress is None or progress is True or progress is False):
        raise UserError(
            f'progress must be "auto", True, False, or a function of words such as print, got {shown(progress)}'
        )
    if leads and words is None and (progress is True or (is_auto and is_watched())):
        with TrainingDisplay(epochs, headline) as display:
            yield Told(on_epoch, callbacks, display, None)
    else:
        yield Told(on_epoch, callbacks, None, words)
