"""Which sites of a model depend on which, by Pyro's tracking of provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.infer.inspect import get_dependencies

__all__ = ["Parents", "dependencies"]

Parents = Mapping[str, frozenset[str]]


def dependencies(program: Callable[..., Any], batch: Mapping[str, Any], sites: Sequence[str]) -> Parents:
    """The latents that each site of a model directly depends on.

    Where the program uses operations that it cannot follow, every site is taken to depend on all earlier ones,
    which conditions on more than needed but never on less.
    """
    try:
        found: Any = get_dependencies(program, (), dict(batch))["prior_dependencies"]
        return {name: frozenset(found[name]) - {name} for name in sites}
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, IndexError, KeyError):
        return {name: frozenset(sites[:i]) for i, name in enumerate(sites)}
