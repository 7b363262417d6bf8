"""How a message is worded: for Python or the command line, in one line that a screen can show."""

from __future__ import annotations

import contextlib
import re
import reprlib
from collections.abc import Iterator

__all__ = ["escaped", "harmless", "on_command_line", "one_line", "one_unit_words", "option", "shown", "spelled"]

_on_command_line = False


@contextlib.contextmanager
def on_command_line() -> Iterator[None]:
    """Within, messages name options as the command line has them."""
    global _on_command_line
    before, _on_command_line = _on_command_line, True
    try:
        yield
    finally:
        _on_command_line = before


def spelled(python: str, command_line: str) -> str:
    """What is said to somebody who calls from Python, or who is on the command line."""
    return command_line if _on_command_line else python


def one_unit_words() -> str:
    """How somebody says that all data are one unit.

    Example:
        >>> one_unit_words()
        'fit(..., rows=None) or load(..., rows=None)'
    """
    return spelled("fit(..., rows=None) or load(..., rows=None)", "--rows none")


def option(name: str, value: object = None) -> str:
    """An argument, with a value, as whoever reads the message writes it.

    Example:
        >>> with on_command_line():
        ...     option("latent_dim"), option("bound", "elbo")
        ('--latent-dim', '--bound elbo')
        >>> option("latent_dim"), option("bound", "elbo")
        ('latent_dim', "bound='elbo'")
    """
    there = f"--{name.replace('_', '-')}"
    return spelled(name, there) if value is None else spelled(f"{name}={value!r}", f"{there} {value}")


SCREEN = 1200
"""Letters of a message at most: what fits on a screen beside what else is there."""


def escaped(text: str) -> str:
    """Text with its control characters as their numbers.

    Example:
        >>> print(escaped(chr(27) + "[31mred"))
        \\x1b[31mred
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def harmless(text: str) -> str:
    """Lines without the control characters that names of files and columns may hold.

    Example:
        >>> print(harmless("a" + chr(27) + "[31mred" + chr(10) + "b"))
        a\\x1b[31mred
        b
    """
    return "\n".join(map(escaped, text.split("\n")))


def one_line(text: str) -> str:
    """Text as a line of a terminal: control characters, which a column of a table may hold, as their numbers; cut.

    Example:
        >>> print(one_line("a" + chr(27) + "[31mred" + chr(10) + " b"))
        a\\x1b[31mred b
        >>> len(one_line("x" * 10**6))
        1200
    """
    line = escaped(re.sub(r"\s*[\r\n]\s*", " ", text.strip()))
    head = SCREEN * 3 // 4
    return line if len(line) <= SCREEN else f"{line[:head]} ... {line[head + 5 - SCREEN :]}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def shown(value: object) -> str:
    """What came, in a few letters of a message, whatever it is.

    Example:
        >>> print(shown("three"), shown(0.5), shown([1, "a"]), shown(memoryview(b"12")))
        'three' 0.5 [1, 'a'] memoryview of shape (2,)
    """
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and len(shape):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, float):
        return f"{value:g}"
    return one_line(_SHORT.repr(value))
