"""Lists and numbers in words, "a,b" or "256,128"."""

from __future__ import annotations

from collections.abc import Sequence

from ppl_vae import errors
from ppl_vae.errors import UserError

__all__ = [
    "check_choice",
    "check_number",
    "check_whole",
    "column_likelihoods",
    "field_columns",
    "kind_words",
    "marks",
    "split_words",
    "whole_numbers",
]


def check_whole(option: str, value: int | None, least: int) -> None:
    """Refuse an option that is there and is no whole number of at least `least`."""
    if value is not None:
        errors.check_whole(option, value, least)


def check_number(option: str, value: float | None, *, positive: bool = False) -> None:
    """Refuse an option that is there and is not finite, or negative (not positive)."""
    if value is not None:
        errors.check_number(option, value, positive=positive)


def check_choice(option: str, value: str | None, choices: Sequence[str]) -> None:
    """Refuse an option that is there and is none of these words."""
    if value is not None:
        errors.check_choice(option, value, choices)


def split_words(option: str, text: str | None) -> list[str] | None:
    """The words of "a,b".

    Example:
        >>> split_words("--columns", "a, b")
        ['a', 'b']
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UserError(f"{option} expects names with commas between them, got {text!r}")
    return words


def field_columns(texts: list[str] | None) -> dict[str, str | list[str]] | None:
    """The columns of each field of "NAME=A,B", or of "NAME" alone; one column is a name, several are a list.

    Example:
        >>> field_columns(["size=height,weight", "visits"])
        {'size': ['height', 'weight'], 'visits': 'visits'}
    """
    if not texts:
        return None
    found: dict[str, str | list[str]] = {}
    for text in texts:
        name, equals, columns = (part.strip() for part in text.partition("="))
        words = split_words("--field", columns if equals else name) or []
        if not name.isidentifier() or name in found:
            raise UserError(f"--field expects NAME=A,B with a different NAME each time, got {text!r}")
        found[name] = words[0] if len(words) == 1 else words
    return found


def kind_words(texts: list[str] | None) -> dict[str, str] | None:
    """The kinds of fields of "NAME=KIND".

    Example:
        >>> kind_words(["y=real"])
        {'y': 'real'}
    """
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, kind = (part.strip() for part in text.partition("="))
        if not name or not equals or not kind or name in found:
            raise UserError(f"--kind expects NAME=KIND with a different NAME each time, got {text!r}")
        found[name] = kind
    return found or None


def column_likelihoods(text: str | None) -> dict[str, str]:
    """The likelihoods of columns in "age=normal,income=student_t:df=4"; none in the name of a single likelihood.

    Example:
        >>> column_likelihoods("age=normal,income=student_t:df=4"), column_likelihoods("student_t:df=4")
        ({'age': 'normal', 'income': 'student_t:df=4'}, {})
    """
    found: dict[str, str] = {}
    if text is None or ":" in text.partition("=")[0] or "=" not in text:
        return found
    for part in split_words("--likelihood", text) or []:
        name, equals, word = (each.strip() for each in part.partition("="))
        if not name or not equals or not word or name in found:
            raise UserError(f"--likelihood expects a name, or COLUMN=NAME with a different COLUMN each, got {text!r}")
        found[name] = word
    return found


def marks(text: str | None) -> list[str] | None:
    """The missing marks of "?,NA"; an empty text says that there are none.

    Example:
        >>> marks("?,NA"), marks(""), marks(None)
        (['?', 'NA'], [], None)
    """
    return None if text is None else [mark.strip() for mark in text.split(",") if mark.strip()]


def whole_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """The numbers of "256,128", each at least 1.

    Example:
        >>> whole_numbers("--hidden", "256,128")
        (256, 128)
    """
    if text is None:
        return None
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"{option} expects whole numbers with commas between them, got {text!r}") from error
    for number in numbers:
        check_whole(option, number, 1)
    return numbers
