"""What the commands say to a person: lines, warnings, tables."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from ppl_vae.distributed.launcher import says_it
from ppl_vae.errors import StreamWarning, UnsavedWarning, harmless, one_line
from ppl_vae.saving.locks import InUse

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment
    from rich.table import Table

__all__ = [
    "Interrupted",
    "last_word",
    "listen",
    "note",
    "print_table",
    "read_rows",
    "say",
    "spared",
    "terminal_width",
    "told_rows",
    "told_warnings",
]


class Interrupted(Exception):
    """The user stopped a command; says how to go on."""


_listening = False


def listen() -> None:
    """Say nothing from now on but what ends the command: another process of the run speaks for all."""
    global _listening
    _listening = True


def note(text: str) -> None:
    """A line on stderr."""
    if not _listening:
        typer.echo(f"ppl-vae: {one_line(text)}", err=True)


def last_word(text: str) -> None:
    """The line that says what ended the command; of several processes of a run one says it."""
    if says_it():
        typer.echo(f"ppl-vae: {one_line(text)}", err=True)


def say(text: str) -> None:
    """Lines on stdout, with the spaces that they have."""
    typer.echo(harmless(text))


def told_rows() -> Callable[[int, int], None]:
    """What tells on stderr how far a pass over rows is, every two seconds."""
    last = [time.monotonic()]

    def tell(done: int, rows: int) -> None:
        if time.monotonic() - last[0] >= 2:
            last[0] = time.monotonic()
            note(f"read {done:,} of {rows:,} rows")

    return tell


def read_rows() -> Any:
    """What `load` tells of reading on stderr: a bar on a terminal, elsewhere a line every two seconds for a stream."""
    from ppl_vae.display.training import is_watched

    return "auto" if is_watched() else told_rows()


@contextmanager
def told_warnings() -> Iterator[None]:
    """Within the block warnings are told in a line each, of whatever library; what could not be saved always."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UnsavedWarning)
        warnings.simplefilter("always", StreamWarning)

        def tell(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, UnsavedWarning | StreamWarning):
                note(f"warning: {message}")
            else:
                note(f"warning: {message} ({category.__name__})")

        warnings.showwarning = tell
        yield


@contextmanager
def spared(what: str) -> Iterator[None]:
    """A file that cannot be written costs the file, not what was found: a line says so, and the command goes on."""
    try:
        yield
    except OSError as error:
        note(f"warning: {what} is not written ({error.strerror or error}: {error.filename})")
    except InUse as error:
        note(f"warning: {what} is not written: {error}")


class _Harmless:
    """A table whose letters are all to be seen."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.table, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text))


def print_table(table: Table) -> None:
    """A table on stdout; in a pipe no line is folded to the width of a terminal that is not there."""
    from rich.console import Console

    console = Console(markup=False, emoji=False)  # names may have brackets
    (console if console.is_terminal else Console(width=200, markup=False, emoji=False)).print(_Harmless(table))


def terminal_width() -> int | None:
    """How many letters a line of the terminal has; None in a pipe."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else None
