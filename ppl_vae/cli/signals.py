"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is done is saved, and a line says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["as_interrupts", "exit_status", "ignore_further", "what_ended"]

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

_received: list[int] = []

_over = False
"""Whether the command is over, and only its last line is left to be said."""


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does.

    A terminal and a parent may both tell a process to end: after the first signal only a second Ctrl-C counts, so that
    saving is not cut short. A signal that is ignored (nohup) stays ignored; in other threads than the first nothing is
    changed.
    """
    global _over
    _received.clear()
    _over = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    mine = [number for number, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    for number in mine:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _over:
        return
    first = not _received
    _received.append(number)
    if first or number == signal.SIGINT:
        raise KeyboardInterrupt


def ignore_further() -> None:
    """From now on no signal interrupts: torchrun sends one to a process that is about to say why it ends."""
    global _over
    _over = True


def exit_status() -> int:
    """128 and the number of the signal that interrupted: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def what_ended() -> str:
    """The word for what happened."""
    number = _received[0] if _received else signal.SIGINT
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
