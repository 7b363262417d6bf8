"""Make an object of a class from what is known and what a user asked for, and say what it does not take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ppl_vae.errors import UserError, option

__all__ = ["accepted", "construct"]


def accepted(cls: type) -> dict[str, bool]:
    """The arguments of a constructor, with whether each is required; looks through **kwargs to its bases."""
    found: dict[str, bool] = {}
    for part in cls.__mro__:
        if "__init__" not in vars(part) or part.__module__.startswith(("torch.", "pyro.", "builtins")):
            continue
        parameters = list(inspect.signature(vars(part)["__init__"]).parameters.values())[1:]
        for p in parameters:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                found.setdefault(p.name, p.default is p.empty)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    # A class that takes options by **kwargs may say which.
    said: Any = vars(cls).get("__signature__")
    for p in said.parameters.values() if said is not None else ():
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            found.setdefault(p.name, p.default is p.empty)
    return found


def construct(
    target: Callable[..., Any], known: Mapping[str, Any], options: Mapping[str, Any], name: str
) -> tuple[Any, dict[str, Any]]:
    """An object of a class, from the arguments that it takes; anything else is used as it is.

    Args:
        target: a class, a function or an object.
        known: what it may ask for (the data, the model), passed if it does.
        options: what the user asked for, by argument name.
        name: of the target, for messages.

    Returns:
        The object and the arguments that it was given (an empty dict if it was used as it is).

    Raises:
        UserError: for an option that the class does not take, or an argument that nobody gave.
    """
    takes = accepted(target) if inspect.isclass(target) else {}
    for given in options:
        if given not in takes:
            what = "does not take it" if inspect.isclass(target) else "is used as it is and takes no options"
            offers = f"; it takes {', '.join(n for n in takes if n not in known)}" if takes else ""
            raise UserError(f"{option(given)} was given, but {name} {what}: leave it out{offers}")
    if not inspect.isclass(target):
        return target, {}
    arguments = {k: v for k, v in known.items() if k in takes} | dict(options)
    absent = [k for k, required in takes.items() if required and k not in arguments]
    if absent:
        raise UserError(
            f"{name} needs the argument {absent[0]!r}, but is given {', '.join([*known, *options]) or 'none'}: "
            "give it a default value, or in Python pass an object"
        )
    try:
        return target(**arguments), arguments
    except TypeError as error:
        if not options:
            raise
        said = ", ".join(f"{k}={v!r}" for k, v in options.items())
        raise UserError(f"{name} cannot be made with {said}: {error}") from error
