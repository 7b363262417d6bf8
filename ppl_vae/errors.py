"""What goes wrong for a user, in one sentence: what was expected, where, what came, and the remedy."""

from __future__ import annotations

import contextlib
import difflib
import math
import operator
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

__all__ = [
    "Finding",
    "NoDensity",
    "ProgramError",
    "UnsavedWarning",
    "UserError",
    "absent_field",
    "check_choice",
    "check_flag",
    "check_number",
    "check_several",
    "check_whole",
    "escaped",
    "is_memory",
    "on_command_line",
    "one_line",
    "option",
    "shown",
    "spelled",
    "unknown_name",
    "within_memory",
]

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


class UserError(ValueError):
    """A mistake that the user can mend; the command line prints it as one line and exits with status 2.

    Whatever was put into the message, it is a line that fits on a screen.

    Example:
        >>> raise UserError("batch_size must be at least 1, got 0")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: batch_size must be at least 1, got 0
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class UnsavedWarning(UserWarning):
    """A file could not be written; the numbers are right and the work goes on."""


def unknown_name(kind: str, name: object, known: Iterable[str], synonyms: Mapping[str, str] | None = None) -> UserError:
    """The error for a name (or what came in its place) that is not in a table, with the nearest right ones.

    `synonyms` are names that others use, each with ours.

    Example:
        >>> print(unknown_name("guide", "meen_field", ["mean_field", "iaf"]))
        unknown guide 'meen_field': did you mean 'mean_field'? (known: iaf, mean_field)
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.5) if isinstance(name, str) else []
    if isinstance(name, str) and synonyms and name in synonyms:
        near = [synonyms[name]]
    hint = f": did you mean {' or '.join(repr(n) for n in near)}?" if near else ":"
    return UserError(f"unknown {kind} {shown(name)}{hint} (known: {', '.join(names)})")


def absent_field(name: str, there: Iterable[str]) -> UserError:
    """The error for a field that rows do not have and cannot do without.

    Example:
        >>> str(absent_field("b", ["a", "y"])).partition(" (")[0]
        "expected field 'b', got only a, y: pass it"
    """
    return UserError(
        f"expected field {name!r}, got only {', '.join(there) or 'none'}: pass it (a field may be left out, missing in "
        "every row, only if some training rows missed it: load(..., missing='allow'))"
    )


def check_whole(name: str, value: object, least: int = 1, *, otherwise: str = "") -> int:
    """The number as Python's own, if it is whole, at least `least` and of 63 bits. NumPy's numbers count, bools do not.

    `otherwise` is what else the option may be, for the message.

    Raises:
        UserError: if it is anything else.

    Example:
        >>> check_whole("particles", 2.5)
        Traceback (most recent call last):
        ppl_vae.errors.UserError: particles must be a whole number of at least 1, got 2.5
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what is none says so
    except Exception:  # what others raise for what is none: a tensor says so with another class
        number = least - 1
    if least <= number < 2**63 and not isinstance(value, bool):
        return number
    raise UserError(f"{name} must be a whole number of at least {least}{otherwise}, got {shown(value)}")


def check_number(name: str, value: object, *, positive: bool = False, otherwise: str = "") -> float:
    """The number as Python's own, if it is finite and not negative (positive). NumPy's numbers count, bools do not.

    `otherwise` is what else the option may be, for the message.

    Raises:
        UserError: if it is anything else.

    Example:
        >>> check_number("lr", 0, positive=True)
        Traceback (most recent call last):
        ppl_vae.errors.UserError: lr must be positive and finite, got 0
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        number: float = value.item() if hasattr(value, "item") else value  # type: ignore[assignment]
        if math.isfinite(number) and (number > 0 if positive else number >= 0):
            return number
    what = "positive" if positive else "at least 0"
    raise UserError(f"{name} must be {what} and finite{otherwise}, got {shown(value)}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """The value, if it is one of these words.

    Raises:
        UserError: if it is anything else, with the nearest right ones.

    Example:
        >>> check_choice("compile", "of", ("auto", "on", "off"))
        Traceback (most recent call last):
        ppl_vae.errors.UserError: unknown value of compile 'of': did you mean 'off'... (known: auto, off, on)
    """
    if isinstance(value, str) and value in choices:
        return value
    raise unknown_name(f"value of {name}", value, choices)


def check_flag(name: str, value: object) -> bool:
    """True or False, Python's or NumPy's.

    Raises:
        UserError: if it is anything else; what is empty or not is no answer.

    Example:
        >>> check_flag("paired", "no")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: paired must be True or False, got 'no'
    """
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise UserError(f"{name} must be True or False, got {shown(value)}")


def check_several(name: str, value: object, what: str) -> tuple[Any, ...]:
    """What can be gone through: a list, a tuple, an array, or the like; one word is none.

    Raises:
        UserError: if it is anything else.

    Example:
        >>> check_several("iwae", 5, "numbers of particles, such as (1, 5)")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: iwae expects numbers of particles, such as (1, 5), got 5
    """
    try:
        if not isinstance(value, str | bytes | Mapping | type):
            return tuple(value)  # type: ignore[arg-type]  # what cannot be gone through says so
    except TypeError:
        pass
    raise UserError(f"{name} expects {what}, got {shown(value)}")


_ALLOCATION = re.compile(r"allocate (\d+) bytes|allocate ([\d.]+ [KMGT]i?B)")


def is_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, of the machine or of a GPU."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("allocate memory", "out of memory", "can't allocate", "not enough memory")
    )


@contextlib.contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Inside, a lack of memory is told in a line, with how much was asked for at once.

    Raises:
        UserError: there is not enough memory, or a tensor is larger than any memory.

    Example:
        >>> with within_memory("the draws"):
        ...     raise MemoryError("can't allocate memory: you tried to allocate 8000000000000 bytes")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: the draws needs more memory than there is (7,451 GiB at once): take smaller numbers
    """
    try:
        yield
    except (MemoryError, RuntimeError, OverflowError) as error:
        text = str(error)
        huge = "too large" in text or "Storage size calculation overflowed" in text or "numel: integer mult" in text
        if not (huge or is_memory(error)):
            raise
        found = _ALLOCATION.search(text)
        much = ""
        if found:
            much = f" ({int(found[1]) / 2**30:,.0f} GiB at once)" if found[1] else f" ({found[2]} at once)"
        raise UserError(f"{what} needs more memory than there is{much}: take smaller numbers") from error


class NoDensity(UserError):
    """Asked for evidence or importance weights of a pair that has none: a point mass in the place of q(z | x)."""


class ProgramError(UserError):
    """A model or guide that breaks the contract: the site, the problem and the remedy, apart and as one line.

    Example:
        >>> print(ProgramError("z", "site 'z' is missing from the guide", "add it"))
        site 'z' is missing from the guide: add it
    """

    def __init__(self, site: str | None, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.site, self.problem, self.remedy = site, problem, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.site, self.problem, self.remedy)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the site (or plate, field or parameter) it is about, the problem, the remedy.

    `fit` refuses on "error"; a "warning" trains, but worse or slower than it could.
    """

    site: str | None
    problem: str
    remedy: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.severity}: {self.problem}: {self.remedy}"
