"""A family of distributions over R^d as a user names it: a guide class, one with options, or a callable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from ppl_vae.errors import UserError
from ppl_vae.nn.heads import LowRankNormal

__all__ = ["LARGE", "START", "Family", "family_of", "low_rank", "made_at"]

START = 0.1
"""The scale at which the posterior of a latent shared by all rows starts, as in Pyro's own guides."""

LARGE = 500
"""Over more numbers than this, shared by all rows, a joint family is of low rank."""

LARGE_RANK = 10


class Family(NamedTuple):
    """From (features, size) to a module from features to a distribution over R^size; `joint`: over several sites."""

    name: str
    make: Callable[[int, int], nn.Module]
    joint: bool = True


def family_of(name: str, value: Any) -> Family:
    """The family that a user named for a site.

    Raises:
        UserError: for something else.
    """
    if isinstance(value, Family):
        return value
    if isinstance(value, type) and callable(getattr(value, "family", None)):
        value = value()
    if callable(getattr(value, "family", None)):
        options = ", ".join(f"{n}={v!r}" for n, v in getattr(value, "recorded", {}).items())
        return Family(
            f"{type(value).__name__}({options})" if options else type(value).__name__, value.family, value.joint
        )
    if callable(value) and not isinstance(value, type):
        return Family(getattr(value, "__name__", type(value).__name__), value)
    raise UserError(
        f"the family of {name!r} must be a guide class, one with options such as IAF(flows=2), or a callable from "
        f"(features, size) to a module, got {type(value).__name__}"
    )


def low_rank(rank: int, width: int) -> Family:
    """A normal of low rank plus diagonal over `width` numbers; rank 0 stands for the one of large blocks."""
    rank = min(rank or LARGE_RANK, width)
    return Family(f"LowRank(rank={rank})", lambda features, size: LowRankNormal(features, size, min(rank, size), START))


@contextmanager
def made_at(scale: float, make: Callable[[int, int], nn.Module]) -> Iterator[None]:
    """Let the guide whose family this is make modules that start at another scale."""
    guide: Any = getattr(make, "__self__", None)
    kept = getattr(guide, "init_scale", None)
    if kept is None:
        yield
        return
    guide.init_scale = scale
    try:
        yield
    finally:
        guide.init_scale = kept
