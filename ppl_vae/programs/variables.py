"""The tensors and modules that a program can reach: its closure, globals that it names, arguments, attributes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["name_of", "variables_of"]

DEPTH = 4
"""So many steps from a program to a variable of a variable: functions that it calls, lists, dicts, attributes."""


def variables_of(program: Any) -> Iterator[tuple[str, Any]]:
    """The tensors and modules that a program can reach, each as "the closure variable NAME of PROGRAM"."""
    waiting, seen = [(0, "", program)], {id(program)}
    while waiting:
        depth, path, thing = waiting.pop(0)
        if isinstance(thing, nn.Module | Tensor):
            yield path or name_of(thing), thing
        if depth >= DEPTH:
            continue
        for word, value in _inside(thing):
            if id(value) not in seen:
                seen.add(id(value))
                waiting.append((depth + 1, path or f"{word} of {name_of(program)}", value))


def _inside(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, functools.partial):
        yield "the function func", thing.func
        yield from ((f"the argument number-{i}", v) for i, v in enumerate(thing.args))
        yield from ((f"the argument {k}", v) for k, v in thing.keywords.items())
    elif inspect.ismethod(thing):
        yield "the object self", thing.__self__
        yield "the function func", thing.__func__
    elif inspect.isfunction(thing):
        yield from ((f"the closure variable {k}", v) for k, v in _closure(thing).items())
        names = _names(thing.__code__)
        yield from ((f"the global variable {k}", v) for k, v in thing.__globals__.items() if k in names)
        defaults = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        yield from ((f"the default argument number-{i}", v) for i, v in enumerate(defaults))
        if hasattr(thing, "__wrapped__"):
            yield "the function wrapped", thing.__wrapped__
    elif isinstance(thing, Mapping):
        yield from ((f"the entry {k}", v) for k, v in list(thing.items()))
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from ((f"the item number-{i}", v) for i, v in enumerate(thing))
    elif not isinstance(thing, Tensor | type) and not inspect.ismodule(thing):
        yield from ((f"the attribute {k}", v) for k, v in list(getattr(thing, "__dict__", {}).items()))
        call = getattr(type(thing), "forward" if isinstance(thing, nn.Module) else "__call__", None)
        if inspect.isfunction(call) and not call.__module__.startswith(("torch.", "pyro.")):
            yield "the method call", call


def _names(code: Any) -> set[str]:
    """The global names of a function and of the functions inside it."""
    inner = [c for c in code.co_consts if inspect.iscode(c)]
    return set(code.co_names).union(*(_names(c) for c in inner))


def _closure(function: Any) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found = {}
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def name_of(program: Any) -> str:
    """What a program is called in messages.

    Example:
        >>> name_of(len)
        'len'
    """
    return str(getattr(program, "__name__", type(program).__name__))
