"""The classes of what goes wrong for a user, and the two messages that are needed everywhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ppl_vae.errors._wording import one_line, shown

__all__ = [
    "Finding",
    "NoDensity",
    "ProgramError",
    "StreamWarning",
    "UnsavedWarning",
    "UserError",
    "absent_field",
    "unknown_name",
]


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


class StreamWarning(UserWarning):
    """Rows are streamed, which nobody asked for."""


class UnsavedWarning(UserWarning):
    """A file could not be written; the numbers are right and the work goes on."""


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
    hint = f": did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
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
