"""Recognise the steps of a series in a program, from what depends on what: no name is looked at.

A program that goes through time writes the same sites again and again. Its latents of the rows, in their order, are
then some that come first, and T times the same few: of the same shape and support, each with parents in its own step
and in the few before it, the same ones at every step. What is observed of a step depends on latents of that step, or
of steps as near. Given all observations such a chain is a Markov chain again, so a guide loses nothing if it draws a
step from the steps just before it and from features of what is observed; and one network does so for all steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ppl_vae.autoguide.inversion import moral_graph
from ppl_vae.autoguide.sites import Site
from ppl_vae.programs.dependencies import Parents

__all__ = ["Chain", "chains", "contracted"]

FEWEST = 4
"""A chain has at least so many steps; fewer latents in a row may just be alike."""

FARTHEST = 3
"""The farthest step back that a latent of a chain may depend on."""

MOST = 3
"""So many chains are tried."""

TOGETHER = "\0together"
"""The name of all steps, or members, as one node of the graph: no site has it."""


@dataclass(frozen=True)
class Chain:
    """The latents of every step, in order, how many steps back they depend on, and the earlier latents they look at."""

    steps: tuple[tuple[str, ...], ...]
    lags: int
    given: tuple[str, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """All latents of all steps."""
        return tuple(name for step in self.steps for name in step)


def chains(local: Mapping[str, Site], parents: Parents, known: Sequence[str] = ()) -> Iterator[Chain]:
    """The chains of steps that the latents of the rows may end with, one for each number of sites in a step; a few.

    Two chains side by side, z_t and w_t, are one of twice as many steps as well, if every second of these is a step of
    the other: which of them it is, the fields of the steps say (`timing`).

    Args:
        local: the latents of the rows, in the order of the model.
        parents: the latents that each site of the model depends on.
        known: latents shared by all rows that the rows' own may look at.
    """
    names = [*local]
    layouts = [_layout(site) for site in local.values()]
    told: set[int] = set()
    for first in range(len(names) - FEWEST + 1):
        for size in range(1, (len(names) - first) // FEWEST + 1):
            if (len(names) - first) % size or layouts[first + size :] != layouts[first : len(names) - size]:
                continue
            steps = tuple(tuple(names[i : i + size]) for i in range(first, len(names), size))
            lags = 0 if size in told else _lags(steps, parents)
            if lags and _observed_by_step(steps, lags, parents):
                before = (*known, *names[:first])
                yield Chain(steps, lags, _looked_at(steps, before, parents))
                told.add(size)
                if len(told) == MOST:
                    return


def contracted(parents: Parents, steps: Sequence[Sequence[str]]) -> dict[str, frozenset[str]]:
    """The graph with all steps, or all members of a row, as one node, `TOGETHER`."""
    inside = {name for step in steps for name in step}
    found: dict[str, frozenset[str]] = {}
    for name, above in parents.items():
        child = TOGETHER if name in inside else name
        mapped = {TOGETHER if n in inside else n for n in above} - {child}
        found[child] = found.get(child, frozenset()) | mapped
    return found


def _layout(site: Site) -> tuple[Any, ...]:
    """What sites of different steps have in common; a support that moves is that of no other site."""
    support = site.name if site.moving else str(site.support)
    return site.event_shape, support, site.classified, site.size, site.plates, site.unconstrained_shape


def _lags(steps: Sequence[Sequence[str]], parents: Parents) -> int:
    """How many steps back a step depends on; 0 if steps do not depend on one another, or not all in the same way."""
    place = {name: (t, j) for t, step in enumerate(steps) for j, name in enumerate(step)}
    found = [
        [{(t - place[n][0], place[n][1]) for n in parents.get(name, ()) if n in place} for name in step]
        for t, step in enumerate(steps)
    ]
    usual = found[-1]
    lags = max((lag for above in usual for lag, _ in above), default=0)
    if not 0 < lags <= min(FARTHEST, len(steps) // 2):
        return 0
    for t, step_above in enumerate(found):
        for above, expected in zip(step_above, usual, strict=True):
            # the first steps have no steps before them to look at, and may begin in a way of their own
            if not above <= expected or (t >= lags and above != expected):
                return 0
    return lags


def _observed_by_step(steps: Sequence[Sequence[str]], lags: int, parents: Parents) -> bool:
    """Whether what is observed looks at steps that are near one another, and most steps are looked at."""
    place = {name: t for t, step in enumerate(steps) for name in step}
    seen: set[int] = set()
    for name, above in parents.items():
        times = {place[n] for n in above if n in place}
        if name in place or not times:
            continue
        if max(times) - min(times) > lags:
            return False
        seen.add(max(times))
    return 2 * len(seen) >= len(steps)


def _looked_at(steps: Sequence[Sequence[str]], before: Sequence[str], parents: Parents) -> tuple[str, ...]:
    tied = moral_graph(contracted(parents, steps), {*before, TOGETHER}).get(TOGETHER, set())
    return tuple(name for name in before if name in tied)
