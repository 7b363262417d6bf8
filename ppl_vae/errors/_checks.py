"""Checks of arguments: the value as Python has it, or the line that says what was expected and what came."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from ppl_vae.errors._classes import UserError, unknown_name
from ppl_vae.errors._wording import shown

__all__ = [
    "check_choice",
    "check_flag",
    "check_known",
    "check_number",
    "check_several",
    "check_whole",
    "made_by",
    "told_by",
]


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


def check_known(kind: str, name: object, known: Iterable[str]) -> str:
    """The name, if it is one of those that there are.

    Raises:
        UserError: if it is anything else, with the nearest right ones.

    Example:
        >>> check_known("field", ["x"], ("x", "y"))
        Traceback (most recent call last):
        ppl_vae.errors.UserError: unknown field ['x'] (known: x, y)
    """
    names = tuple(known)
    if isinstance(name, str) and name in names:
        return name
    raise unknown_name(kind, name, names)


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


def made_by(name: str, function: Any, *args: object, of: str) -> Any:
    """What a function of the user's makes of these arguments; it may raise what it likes, but has to take them.

    Raises:
        UserError: a TypeError or an AttributeError came out of it, as of what is no function of these.

    Example:
        >>> made_by("encoder", lambda: 3, "fields", of="the fields")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: encoder expects a function of the fields, and this one fails (<lambda>() takes 0 ...
    """
    try:
        return function(*args)
    except (TypeError, AttributeError) as error:
        raise UserError(f"{name} expects a function of {of}, and this one fails ({error})") from error


def told_by(name: str, function: Any, of: str) -> Callable[..., Any]:
    """A function of the user's that is told something, to be called with what it is told; None is told nothing.

    Raises:
        UserError: it is no function, now; or it does not take what it is told, when it is called.

    Example:
        >>> told_by("progress", "yes", "words, such as print")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: progress must be a function of words, such as print, or None, got 'yes'
    """
    if function is None:
        return lambda *told: None
    if not callable(function):
        raise UserError(f"{name} must be a function of {of}, or None, got {shown(function)}")
    return lambda *told: made_by(name, function, *told, of=of)
