"""What goes wrong for a user, in one sentence: what was expected, where, what came, and the remedy."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Literal

__all__ = [
    "Finding",
    "NoDensity",
    "ProgramError",
    "UnsavedWarning",
    "UserError",
    "absent_field",
    "check_choice",
    "check_number",
    "check_whole",
    "on_command_line",
    "option",
    "spelled",
    "unknown_name",
]

_on_command_line = False


@contextmanager
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


class UserError(ValueError):
    """A mistake that the user can mend; the command line prints it as one line and exits with status 2.

    Example:
        >>> raise UserError("batch_size must be at least 1, got 0")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: batch_size must be at least 1, got 0
    """


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
    return UserError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")


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
    except TypeError:
        number = least - 1
    if least <= number < 2**63 and not isinstance(value, bool):
        return number
    raise UserError(f"{name} must be a whole number of at least {least}{otherwise}, got {value!r}")


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
    came = f"{value:g}" if isinstance(value, float) else repr(value)
    raise UserError(f"{name} must be {'positive' if positive else 'at least 0'} and finite{otherwise}, got {came}")


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
