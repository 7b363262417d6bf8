"""Wherever an object is taken, its name with options will do, or its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppl_vae.errors import UserError
from ppl_vae.registry import catalog, construction
from ppl_vae.registry.words import split_options

__all__ = ["resolve", "resolve_bound"]


def resolve(kind: str, value: Any, known: Mapping[str, Any] | None = None, of: type | tuple[type, ...] = object) -> Any:
    """An object from its name (`mixture:components=50`), its class, or as it is.

    Args:
        kind: what it is, one of `ppl_vae.registry.catalog.KINDS` without the s: "prior".
        value: the word, the class or the object; None stays None.
        known: what a class may ask for, by argument name: the data, the model.
        of: the class that an object must have.

    Raises:
        UserError: for an unknown name, an option that the class does not take, or another thing.

    Example:
        >>> resolve("prior", "mixture:components=3").components, resolve("bound", "iwae:particles=8").particles
        (3, 8)
        >>> resolve("prior", "mixure")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: unknown prior 'mixure': did you mean 'mixture'...
    """
    if value is None:
        return None
    name, options = kind, dict[str, Any]()
    if isinstance(value, str):
        options = split_options(value)[1]
        entry = catalog.find(f"{kind}s", value)
        if entry.is_pyro:
            return resolve_bound(value)
        value, name = entry.load(), f"{kind} {entry.name}"
    if isinstance(value, type):
        name = name if options else f"{kind} {value.__name__}"
        value = construction.construct(value, known or {}, options, name)[0]
    if not isinstance(value, of):
        raise UserError(
            f"{kind} must be a {kind} of ppl_vae.{kind}s, its name or its class, got {type(value).__name__}"
        )
    return value


def resolve_bound(word: str, particles: int | None = None) -> Any:
    """A bound by name, with options (`iwae:particles=16`), and its own number of particles unless one is given.

    Raises:
        UserError: for an unknown name, or an option that it does not take.

    Example:
        >>> resolve_bound("trace_elbo", 4).num_particles
        4
    """
    options = split_options(word)[1]
    entry = catalog.find("bounds", word)
    if particles is not None:
        if "particles" in options:
            raise UserError(f"particles={particles} and bound {word} both say how many: give one of them")
        options = options | {"particles": particles}
    if entry.is_pyro:
        k = options.pop("particles", 1)
        if options or not isinstance(k, int) or k < 1:
            raise UserError(f"bound {word}: Pyro's own bounds take one option, particles, at least 1")
        return entry.load()(num_particles=k, vectorize_particles=k > 1)
    return construction.construct(entry.load(), {}, options, f"bound {entry.name}")[0]
