"""Objects of this package as JSON and back: a class by its public name, its arguments by theirs.

Nothing is unpickled and nothing named in a file is imported: names are looked up in this package's own tables.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_vae.errors import UserError, unknown_name
from ppl_vae.saving.recorded import Recorded

__all__ = ["HOMES", "describe", "file_hash", "lookup", "rebuild"]

HOMES = ("models", "guides", "priors", "likelihoods", "decoders", "bounds", "schedules")
"""The modules whose public classes a run folder may name."""


def lookup(home: str, name: str) -> Any:
    """A public class of `ppl_vae.<home>` by its name.

    Raises:
        UserError: for a name that is not there, with the nearest right ones.

    Example:
        >>> lookup("guides", "MeanField").__name__
        'MeanField'
    """
    if home not in HOMES:
        raise unknown_name("kind of object", home, HOMES)
    module = importlib.import_module(f"ppl_vae.{home}")
    if name not in module.__all__:
        raise unknown_name(home.rstrip("s"), name, module.__all__)
    return getattr(module, name)


def describe(value: Any, known: Mapping[int, str] | None = None) -> Any:
    """A value as JSON. `known` names objects that are not described again (the data, the model), by id.

    Example:
        >>> from ppl_vae.likelihoods import Normal
        >>> describe(Normal(scale=0.5))
        {'likelihoods': 'Normal', 'arguments': {'scale': 0.5}}
    """
    known = known or {}
    if id(value) in known:
        return {"the": known[id(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [describe(v, known) for v in value]
    if isinstance(value, Mapping):
        return {str(k): describe(v, known) for k, v in value.items()}
    if isinstance(value, type) and _home(value) is not None:
        return {"class": value.__name__, "of": _home(value)}
    home = _home(type(value))
    if home is not None:
        recorded = getattr(value, "recorded", None) or {}
        if not isinstance(value, Recorded):
            recorded = dict(vars(value))
        return {home: type(value).__name__, "arguments": {k: describe(v, known) for k, v in recorded.items()}}
    return {"foreign": f"{type(value).__module__}.{type(value).__qualname__}"}


def _home(cls: type) -> str | None:
    if getattr(cls, "holds_own_code", False):  # networks of the user's, which no folder can make again
        return None
    for home in HOMES:
        if cls.__module__.startswith(f"ppl_vae.{home}"):
            return home
    return None


def rebuild(spec: Any, known: Mapping[str, Any]) -> Any:
    """The value that `describe` described; `known` gives the objects that were only named.

    Raises:
        UserError: for something that only its author's own code can make.
    """
    if isinstance(spec, list):
        return tuple(rebuild(v, known) for v in spec)
    if not isinstance(spec, dict):
        return spec
    if "the" in spec:
        return known[spec["the"]]
    if "foreign" in spec:
        raise UserError(
            f"{spec['foreign']} is not a class of ppl_vae, and code is never run from a run folder: pass the object"
        )
    if spec.keys() == {"class", "of"}:
        return lookup(spec["of"], spec["class"])
    for home in HOMES:
        if home in spec and "arguments" in spec:
            return lookup(home, spec[home])(**rebuild_arguments(spec["arguments"], known))
    return rebuild_arguments(spec, known)


def rebuild_arguments(spec: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a described object."""
    return {name: rebuild(value, known) for name, value in spec.items()}


def file_hash(path: str | Path) -> str:
    """The SHA-256 of a user's file, by which a run folder recognises it."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
