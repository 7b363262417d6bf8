"""What words say: lists and numbers, "a,b" or "256,128", and a name with options, "mixture:components=50"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ppl_vae import errors
from ppl_vae.errors import UserError, option
from ppl_vae.registry.user_files import is_file

__all__ = [
    "check_choice",
    "check_number",
    "check_whole",
    "column_likelihoods",
    "field_columns",
    "kind_words",
    "marks",
    "row_numbers",
    "split_options",
    "split_words",
    "whole_numbers",
]


def check_whole(name: str, value: int | None, least: int) -> None:
    """Refuse an option that is there and is no whole number of at least `least`."""
    if value is not None:
        errors.check_whole(name, value, least)


def check_number(name: str, value: float | None, *, positive: bool = False) -> None:
    """Refuse an option that is there and is not finite, or negative (not positive)."""
    if value is not None:
        errors.check_number(name, value, positive=positive)


def check_choice(name: str, value: str | None, choices: Sequence[str]) -> None:
    """Refuse an option that is there and is none of these words."""
    if value is not None:
        errors.check_choice(name, value, choices)


def split_words(name: str, text: str | None) -> list[str] | None:
    """The words of "a,b".

    Example:
        >>> split_words("--columns", "a, b")
        ['a', 'b']
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UserError(f"{name} expects names with commas between them, got {text!r}")
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
        words = split_words(option("field"), columns if equals else name) or []
        if not name.isidentifier() or name in found:
            raise UserError(f"{option('field')} expects NAME=A,B with a different NAME each time, got {text!r}")
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
            raise UserError(f"{option('kind')} expects NAME=KIND with a different NAME each time, got {text!r}")
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
    for part in split_words(option("likelihood"), text) or []:
        name, equals, word = (each.strip() for each in part.partition("="))
        if not name or not equals or not word or name in found:
            raise UserError(
                f"{option('likelihood')} expects a name, or COLUMN=NAME with a different COLUMN each, got {text!r}"
            )
        found[name] = word
    return found


def marks(text: str | None) -> list[str] | None:
    """The missing marks of "?,NA"; an empty text says that there are none.

    Example:
        >>> marks("?,NA"), marks(""), marks(None)
        (['?', 'NA'], [], None)
    """
    return None if text is None else [mark.strip() for mark in text.split(",") if mark.strip()]


def row_numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers of "3,8", each at least 0.

    Example:
        >>> row_numbers("--rows", "3,0")
        (3, 0)
    """
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"{option} expects whole numbers with commas between them, got {text!r}") from error
    for number in numbers:
        check_whole(option, number, 0)
    return numbers


def whole_numbers(name: str, text: str | None) -> tuple[int, ...] | None:
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
        raise UserError(f"{name} expects whole numbers with commas between them, got {text!r}") from error
    for number in numbers:
        check_whole(name, number, 1)
    return numbers


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """A name of the command line and the options after it: `mixture:components=50`; a user's file has none.

    Values are numbers, true, false, none, words, or several of them with `+` between.

    Raises:
        UserError: for an option that is no KEY=VALUE.

    Example:
        >>> split_options("spline:flows=2,hidden=64+64"), split_options("my.py:Net")
        (('spline', {'flows': 2, 'hidden': (64, 64)}), ('my.py:Net', {}))
    """
    name, colon, rest = text.partition(":")
    if is_file(text) or not colon:
        return text, {}
    found: dict[str, Any] = {}
    for part in rest.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not key.isidentifier() or key in found:
            raise UserError(f"options after a name are KEY=VALUE with commas between them, got {text!r}")
        values = tuple(_value(word) for word in value.split("+"))
        found[key] = values if "+" in value else values[0]
    return name, found


def _value(word: str) -> Any:
    plain = {"true": True, "false": False, "none": None}
    if word.lower() in plain:
        return plain[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
