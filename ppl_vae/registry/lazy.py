"""Public names of a package that are imported when they are first used, so that a name costs no import of torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["lazily", "loaded"]


def loaded(home: str) -> Any:
    """What is at "module:name".

    Example:
        >>> loaded("ppl_vae.errors:UserError").__name__
        'UserError'
    """
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)


def lazily(
    package: str, homes: Iterable[str], rooms: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose public things are at "module:name".

    `rooms` are packages inside of it that a person may go into without an import statement.

    Editors and mypy read what they are from imports under `if TYPE_CHECKING`, which are the same names.

    Example:
        >>> get, _, names = lazily("ppl_vae", ["ppl_vae.errors:UserError", "ppl_vae.errors:Finding"])
        >>> names, get("Finding").__name__
        (['Finding', 'UserError'], 'Finding')
    """
    found = {home.rpartition(":")[2]: home for home in homes}
    inside = frozenset(rooms)

    def get(name: str) -> Any:
        if name in found:
            return loaded(found[name])
        if name in inside:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    names = sorted(found)
    return get, lambda: list(names), names
