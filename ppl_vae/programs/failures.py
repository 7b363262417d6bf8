"""What a model or guide raises, as one line: which program, at which site, on which rows, why, and the remedy."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import NonlocalExit
from torch import Tensor

from ppl_vae.errors import ProgramError, UserError, one_unit_words

__all__ = ["PASSING", "all_rows_alone", "failed", "our_error", "place_of", "reason_of", "remedy_for"]

PASSING = (UserError, NonlocalExit)
"""What goes through a program as it is: our own lines, and the exception by which Pyro's handlers leave a program."""

REMEDIES = (
    (
        r"more than 1 value per channel",
        "batch normalisation has no variance of a single row: choose another batch_size=, or a LayerNorm",
    ),
    (r"mask to be a BoolTensor", "a field of True and False comes as the numbers 1 and 0: mask with field.bool()"),
    (
        r"Multiple sample sites named|Multiple .* sites named",
        "give every statement a name of its own; a plate that is entered twice is made once, p = pyro.plate(...)",
    ),
    (r"out of memory|can't allocate", "take fewer rows or particles at once: a smaller batch_size="),
    (r"used as indices|indices .*\bint|IntTensor", "an index is a whole number: index with field.long()"),
    (r"index.* out of (bounds|range)", "size what is indexed by all values of the field, not by those of a batch"),
    (
        r"scalar type|dtype|can't be cast|\b(Float|Double|Long|Int)\b.* but (got|found)",
        "bring both to one type: .float() for measurements, .long() for categories and indices",
    ),
    (r"on the same device|Expected all tensors", "make tensors on the device of the rows, or register them as buffers"),
    (
        r"to satisfy the constraint|within the support|invalid values",
        "keep the parameter in its domain (softplus or exp of a scale), and the data in the likelihood's support",
    ),
    (r"cholesky|positive.definite|singular", "add a small number to the diagonal of the matrix"),
    (r"ZeroDivisionError|division by zero", "keep the divisor away from 0 for any rows"),
    (r"NotImplementedError", "use a distribution or an operation that has what is missing, or write it"),
    (
        r"is not a tensor|\.item|Boolean value of Tensor",
        "compute with tensors of any number of rows, without `if` and .item() on their values",
    ),
    (
        r"shape|size|dimension|\bdims?\b|broadcast|expand|mat1|must match|view|stack|concatenat",
        "declare event dims with .to_event(), index with ..., and flatten only event dims, never the rows",
    ),
    (r"", "mend that line of the program, for any number of rows"),
)
"""The remedy by what an error says, the first that fits."""


def failed(
    role: str,
    site: str | None,
    fields: Mapping[str, Any],
    error: BaseException,
    plates: Mapping[str, int] | None = None,
) -> ProgramError:
    """The error of a program in one line; `site` is the last that it came to, `plates` are those that it made.

    Example:
        >>> print(failed("model", "z", {"x": torch.zeros(8, 3)}, KeyError("mean")).problem)
        the model fails at or after site 'z' (KeyError: 'mean') on a batch with x (8, 3)
    """
    reason = reason_of(error)
    named = re.search(r" at site (\S+) dim", reason)  # Pyro's plates say which site they cannot hold
    site = named[1] if named else site
    where = f"at site {site!r}" if named else f"at or after site {site!r}" if site else "before its first site"
    shapes = ", ".join(f"{n} {tuple(v.shape)}" for n, v in fields.items() if isinstance(v, Tensor))
    rows = f"a batch with {shapes}" if shapes else "no rows"
    remedy = _of_holes(str(error), fields) or _of_another_size(str(error), plates or {}, fields) or remedy_for(error)
    return ProgramError(site, f"the {role} fails {where} ({reason}) on {rows}", remedy)


def all_rows_alone(error: UserError | None, rows: int, few: int) -> ProgramError:
    """The error of programs that run on all rows, but not on a few of them.

    Example:
        >>> print(all_rows_alone(ProgramError("z8", "the model fails after site 'z8'", "mend it"), 20, 8))
        the programs run on all 20 rows but not on 8 (the model fails after site 'z8'): size everything by the rows ...
    """
    said = error if isinstance(error, ProgramError) else None
    problem = said.problem if said is not None else str(error)
    return ProgramError(
        said.site if said is not None else None,
        f"the programs run on all {rows} rows but not on {few} ({problem})",
        said.remedy
        if said is not None and one_unit_words() in said.remedy
        else "size everything by the rows that came, pyro.plate('data', len(x)): batch size belongs to inference; or "
        f"take all data as one unit, {one_unit_words()}",
    )


def our_error(error: BaseException) -> UserError | None:
    """The innermost error of ours behind an exception: Pyro raises errors anew, with the shapes of its trace."""
    passed: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        if any(cause is other for other in passed):  # an exception raised twice may be its own context
            return None
        passed.append(cause)
        cause = cause.__cause__ or cause.__context__
    while cause is not None and isinstance(cause.__cause__, UserError) and cause.__cause__ is not cause:
        cause = cause.__cause__
    return cause


def reason_of(error: BaseException) -> str:
    """What an exception says, without the traces that Pyro adds, its kind where that says more, and the line."""
    text = " ".join(str(error).split("Trace Shapes")[0].split())[:300]
    if type(error) not in (RuntimeError, ValueError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = place_of(error)
    return f"{text or type(error).__name__}, {place}" if place else text or type(error).__name__


def remedy_for(error: BaseException) -> str:
    """What to do about an exception of a program.

    Example:
        >>> remedy_for(IndexError("tensors used as indices must be long, byte or bool tensors"))
        'an index is a whole number: index with field.long()'
    """
    text = f"{type(error).__name__}: {error}"
    return next(remedy for pattern, remedy in REMEDIES if re.search(pattern, text, re.IGNORECASE))


def _of_another_size(text: str, plates: Mapping[str, int], fields: Mapping[str, Any]) -> str | None:
    """The remedy where a plate has a number as its size, and as many rows came as the error names beside it."""
    named = {int(n) for n in re.findall(r"\d+", text)}
    counts = {len(v) for v in fields.values() if isinstance(v, Tensor) and v.dim()}
    beyond = re.search(r"index.* out of (bounds|range)", text) is not None
    for name, size in plates.items():
        if beyond and len(counts) == 1 and counts <= named and size > max(counts):
            return (
                f"plate {name!r} has {size} elements, and {counts.pop()} rows came: fit chooses rows, so index none by "
                f"hand (subsample=), or take all data as one unit, {one_unit_words()}"
            )
        if len(counts) == 1 and size > 1 and {size, *counts} <= named and size not in counts:
            field = next(n for n, v in fields.items() if isinstance(v, Tensor) and v.dim())
            return (
                f"plate {name!r} has the fixed size {size}, and {counts.pop()} rows came: size it by them, "
                f"pyro.plate({name!r}, len({field})), or take all data as one unit, {one_unit_words()}"
            )
    return None


def _of_holes(text: str, fields: Mapping[str, Any]) -> str | None:
    """The remedy where a parameter is NaN, and so are fields: what is observed may be missing, an input may not."""
    if not re.search(r"to satisfy the constraint.*\bnan\b", text, re.DOTALL):
        return None  # before values are looked at, which cannot be done in capture
    holed = [n for n, v in fields.items() if isinstance(v, Tensor) and v.is_floating_point() and bool(v.isnan().any())]
    if not holed:
        return None
    return (
        f"{', '.join(holed)} {'has' if len(holed) == 1 else 'have'} missing entries (NaN; after the end of a row, "
        f"too): a site that observes them is skipped there, an input has to be filled, {holed[0]}.nan_to_num()"
    )


def place_of(error: BaseException) -> str | None:
    """The line of the user's program at which an exception came up, `file.py:12`; None if it is none of theirs."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None


def _is_library(path: str) -> bool:
    return path.startswith(("<frozen", "<eval_with_key")) or any(Path(path).is_relative_to(home) for home in _LIBRARIES)


_LIBRARIES = (
    *(
        Path(home)
        for name, home in sysconfig.get_paths().items()
        if name in ("stdlib", "platstdlib", "purelib", "platlib")
    ),
    *(Path(str(library.__file__)).parent for library in (torch, pyro)),
    Path(__file__).parent.parent,
)
