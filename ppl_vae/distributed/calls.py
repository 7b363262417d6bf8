"""Which random calls programs make on the rows of a batch, and where the rows are in what each call takes and gives.

A program is run on two numbers of rows. A dim that is a multiple of both is one of rows: of rows alone, or, where it is
flattened, of rows and the plates around them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ppl_vae.errors import UserError, option

__all__ = ["Axis", "Call", "Reading", "Site", "is_random", "read_calls", "unshared"]


class Axis(NamedTuple):
    """A dim that holds [outer, rows, inner] flattened, row-major."""

    dim: int
    outer: int = 1
    inner: int = 1


class Site(Messenger):
    """Knows the sample statement that is drawn now, and how many elements its plates outside of the rows have."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.outer = dim, 1
        self.name: str | None = None
        self.last: str | None = None

    def _pyro_sample(self, msg: Message) -> None:
        if site_is_subsample(msg):
            return
        shape = getattr(msg["fn"], "batch_shape", ())
        self.name = self.last = str(msg["name"])
        self.outer = math.prod(shape[: len(shape) + self.dim]) if len(shape) >= -self.dim else 1

    def _pyro_post_sample(self, msg: Message) -> None:
        self.name, self.outer = None, 1


@dataclass(frozen=True)
class Seen:
    """One random call as it was made: tensors and sizes that it was given and gave."""

    op: Any
    given: tuple[Any, ...]
    sizes: frozenset[int]
    gave: tuple[Any, ...]
    site: str | None
    outer: int


@dataclass(frozen=True)
class Call:
    """A random call, by what it is about: where rows are in each of its arguments and results, None where they are not.

    `op` draws what all rows share where rows are nowhere. `sizes` are of the arguments that are no tensors, `shapes`
    of the results, as they were for a number of rows.
    """

    op: Any
    site: str | None
    given: tuple[Axis | None, ...] = ()
    gave: tuple[Axis | None, ...] = ()
    sizes: tuple[Axis | None, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def is_of_rows(self) -> bool:
        """Whether every row has its own part of what is drawn."""
        return any(axis is not None for axis in self.gave)


@dataclass(frozen=True)
class Reading:
    """The random calls of a run in their order, and the functions of torch that make them."""

    calls: tuple[Call, ...]
    functions: frozenset[Hashable]


def is_random(op: Any) -> bool:
    """Whether an operation may draw: torch marks most of them, and all take a generator."""
    tagged = torch.Tag.nondeterministic_seeded in op.tags
    return tagged or any(argument.name == "generator" for argument in op._schema.arguments)


def unshared(site: str | None, reason: str) -> UserError:
    """The error for draws that several processes cannot share."""
    where = f"at site {site!r}" if site else "outside of its sample statements"
    return UserError(
        f"a program draws {where} {reason}, which processes cannot share as one would draw it: train in one process, "
        f"{option('distributed', 'off')}"
    )


class _Look(TorchDispatchMode):
    """Notes the random operations, and whether each moved the generator."""

    def __init__(self, site: Site, device: torch.device) -> None:
        super().__init__()
        self.site, self.device = site, device
        self.seen: list[Seen] = []

    def _state(self) -> Tensor:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before, given = self._state(), _shapes([*args, *kwargs.values()])
        found = func(*args, **kwargs)
        if torch.equal(before, self._state()) and kwargs.get("generator") is None:
            return found  # it may draw, and did not: attention without dropout
        if not is_random(func):
            raise unshared(self.site.name, f"by {func}, of which it is not known what it draws,")
        self.seen.append(Seen(func, given, _sizes(args), _shapes(found), self.site.name, self.site.outer))
        return found


class _Ask(TorchFunctionMode):
    """Notes the functions of torch in which random operations are made."""

    def __init__(self, look: _Look) -> None:
        super().__init__()
        self.look = look
        self.functions: set[Hashable] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = len(self.look.seen)
        found = func(*args, **(kwargs or {}))
        if len(self.look.seen) > before:
            self.functions.add(func)
        return found


def _shapes(values: Any) -> tuple[Any, ...]:
    """Shapes of tensors, and numbers of elements, in their order."""
    if isinstance(values, Tensor):
        return (tuple(values.shape),)
    return tuple(_shape(leaf) for leaf in tree_leaves(values))


def _sizes(args: Any) -> frozenset[int]:
    """The places of those leaves that are in a list: numbers of elements."""
    places: set[int] = set()
    start = 0
    for arg in args:
        count = len(tree_leaves(arg))
        if isinstance(arg, list | tuple):
            places |= set(range(start, start + count))
        start += count
    return frozenset(places)


def _shape(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape)
    return leaf if isinstance(leaf, int | float | bool | str) else None


@contextmanager
def _looked(dim: int, device: torch.device) -> Iterator[tuple[_Look, _Ask]]:
    site = Site(dim)
    look = _Look(site, device)
    ask = _Ask(look)
    with look, ask, site:
        yield look, ask


def read_calls(run: Callable[[int], Any], rows: tuple[int, int], dim: int, device: torch.device) -> Reading:
    """The random calls of a run, which is made on two numbers of rows.

    Args:
        run: from a number of rows to a run of the programs on so many.
        rows: two numbers.
        dim: of the rows' plate.
        device: where the programs draw.

    Raises:
        UserError: naming the site, for draws whose number or places do not follow from the number of rows.
    """
    found: list[list[Seen]] = []
    functions: set[Hashable] = set()
    for number in rows:
        with _looked(dim, device) as (look, ask):
            run(number)
        found.append(look.seen)
        functions |= ask.functions
    few, many = found
    if [s.op for s in few] != [s.op for s in many]:
        odd = next((s for s, o in zip(few, many, strict=False) if s.op != o.op), (few or many)[-1])
        raise unshared(odd.site, "as often as its values ask for")
    return Reading(tuple(_call(a, b, rows, dim) for a, b in zip(few, many, strict=True)), frozenset(functions))


def _call(few: Seen, many: Seen, rows: tuple[int, int], dim: int) -> Call:
    given: list[Axis | None] = []
    sizes: list[Axis | None] = []
    for place, (a, b) in enumerate(zip(few.given, many.given, strict=True)):
        axis = None
        if isinstance(a, tuple):
            axis = _axis(few, a, b, rows, dim)
        elif a != b:
            if place not in few.sizes:
                raise unshared(few.site, f"by {few.op} with numbers that depend on how many rows there are")
            axis = _axis(few, (a,), (b,), rows, dim)
        (given if isinstance(a, tuple) else sizes).append(axis)
    gave = tuple(_axis(few, a, b, rows, dim) for a, b in zip(few.gave, many.gave, strict=True))
    return Call(few.op, few.site, tuple(given), gave, tuple(sizes), few.gave)


def _axis(seen: Seen, few: tuple[int, ...], many: tuple[int, ...], rows: tuple[int, int], dim: int) -> Axis | None:
    """The dim of a shape that is of rows."""
    if few == many:
        return None
    apart = [i for i, (a, b) in enumerate(zip(few, many, strict=False)) if a != b]
    if len(few) != len(many) or len(apart) != 1:
        raise unshared(seen.site, f"by {seen.op} of shape {few} for {rows[0]} rows and {many} for {rows[1]}")
    times, rest = divmod(few[apart[0]], rows[0])
    if rest or times * rows[1] != many[apart[0]]:
        raise unshared(seen.site, f"by {seen.op} of shape {few} for {rows[0]} rows and {many} for {rows[1]}")
    # flattened with the plates around: those to the left of the rows' are outside, as numbers lie in memory
    outer = times if dim == -1 and (seen.site is None or times % seen.outer) else min(times, seen.outer)
    if times % outer:
        raise unshared(seen.site, f"by {seen.op} with rows flattened among {times} others")
    return Axis(apart[0], outer, times // outer)
