"""Settings as keywords of a function: shown in its signature and docstring, and answered where they are misspelt."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ppl_vae.errors import UserError, unknown_name
from ppl_vae.training.settings import SETTINGS, SYNONYMS, Settings

__all__ = ["described", "refuse_unknown", "with_settings"]


_OTHERS = {"loss": "bound", "objective": "bound", "verbose": "progress", "callback": "callbacks"}
_PARTICLES = ("particles", "num_particles", "n_particles", "num_samples", "n_samples", "k")
_ELSEWHERE = dict.fromkeys(_PARTICLES, "particles are the bound's, as in bound=IWAE(16) or bound='iwae:particles=16'")
_ELSEWHERE |= dict.fromkeys(("target", "y", "labels"), "labels are a field of the data: ppl_vae.load((x, y))")
"""What fit has no option for, and where it is."""


def refuse_unknown(given: Mapping[str, Any], *others: str, what: str = "option of fit") -> None:
    """Raise for names that are no setting and none of the `others`, with the name that was meant.

    Raises:
        UserError: for the first such name.

    Example:
        >>> refuse_unknown({"max_epochs": 3})
        Traceback (most recent call last):
        ppl_vae.errors.UserError: unknown option of fit 'max_epochs': did you mean 'epochs'? (known: batch_size, ...
    """
    for name in given:
        if name in SETTINGS or name in others:
            continue
        if name in _ELSEWHERE:
            raise UserError(f"unknown {what} {name!r}: {_ELSEWHERE[name]}")
        raise unknown_name(what, name, [*SETTINGS, *others], SYNONYMS | _OTHERS)


F = TypeVar("F", bound=Callable[..., Any])


def with_settings(function: F) -> F:
    """Let a function that takes settings by **keywords show them: in its signature, and in its docstring at {settings}.

    Example:
        >>> @with_settings
        ... def train(model, **settings): ...
        >>> inspect.signature(train).parameters["batch_size"].default
        64
    """
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters += [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(Settings)
    ]
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    function.__doc__ = (function.__doc__ or "").replace("{settings}", described(SETTINGS))
    return function


def described(names: Iterable[str], indent: int = 8) -> str:
    """Settings as lines of a docstring's Args, which begin at the indentation given."""
    hanging = " " * (indent + 4)
    lines = [f"{name}: {SETTINGS[name].help} {SETTINGS[name].more}".rstrip() for name in names]
    wrapped = ["\n".join(textwrap.wrap(line, 120 - indent, subsequent_indent=hanging)) for line in lines]
    return f"\n{' ' * indent}".join(wrapped)
