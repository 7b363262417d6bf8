"""Which finite latents a guide does not draw: the model sums them out alone.

A classifier of every label is the default, and lets what follows be conditioned on it. A latent is left out of the
guide where the user says so (`collapse=`), where the model does (`infer={"enumerate": "parallel"}`, Pyro's word), where
it is a count such as a Binomial one, since some of its values may be impossible for the data, which no classifier's
expectation of log p survives, and where the values of several together would be too many to list, as the states of a
hidden Markov model: given the other latents the model's own sum over them is exact, and cheap along a chain.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from heapq import heapify, heappop, heappush

from ppl_vae.autoguide.inversion import Block
from ppl_vae.autoguide.sites import CLASSIFIED, Site
from ppl_vae.distributions import is_discrete
from ppl_vae.errors import ProgramError, unknown_name
from ppl_vae.programs.dependencies import Parents
from ppl_vae.programs.missing import can_enumerate
from ppl_vae.programs.structure import TraceSites, frames

__all__ = ["JOINT_LIMIT", "SUM_LIMIT", "asked_to_be_summed", "refuse_large_sums", "too_many"]

JOINT_LIMIT = 512
"""The most joint values of the labels that a guide lists for one of its blocks."""

SUM_LIMIT = 2**20
"""The most joint values in one of the tables by which a model's finite latents are summed out."""


def asked_to_be_summed(latent: TraceSites, collapse: Sequence[str], rows: Collection[str]) -> frozenset[str]:
    """The finite latents that the user, or the model's author, wants summed out in the model, and finite counts.

    Where all data are one unit, without plates of `rows`, it is all finite latents.

    Raises:
        UserError: for a pattern that no latent has.
        ProgramError: for a latent that cannot be summed out.
    """
    patterns = (collapse,) if isinstance(collapse, str) else tuple(collapse)
    finite = {n for n, s in latent.items() if can_enumerate(s["fn"])}
    found = {n for n in finite if not rows or latent[n]["infer"].get("enumerate")}
    found |= {n for n in finite if not isinstance(latent[n]["fn"], CLASSIFIED)}
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise unknown_name("latent site in collapse", pattern, latent)
        named = [n for n in latent if fnmatchcase(n, pattern)]
        if not named:
            raise unknown_name("latent site in collapse", pattern, latent)
        for name in named:
            if not can_enumerate(latent[name]["fn"]):
                if name != pattern and not is_discrete(latent[name]["fn"]):
                    continue  # a pattern speaks of the finite ones
                raise ProgramError(
                    name,
                    f"collapse names {name!r}, which is {type(latent[name]['fn']).__name__} and has no finite set of "
                    "values to sum over",
                    "leave it out of collapse",
                )
            found.add(name)
    for name in sorted(found):
        if rows and not any(f.name in rows for f in frames(latent[name])):
            raise ProgramError(
                name,
                f"latent site {name!r} is {type(latent[name]['fn']).__name__} shared by all rows: summing it out would "
                "tie all rows together",
                "fit the model once for each of its values, or write this guide by hand",
            )
    return frozenset(found)


def too_many(blocks: Sequence[Block], sites: Mapping[str, Site]) -> frozenset[str]:
    """The labels of the blocks that would list more joint values than a guide should, those in inner plates apart."""
    found: set[str] = set()
    for block in blocks:
        labels = [n for n in (*block.given, *block.sites) if n in sites and sites[n].classified is not None]
        labels = [n for n in labels if not sites[n].plates]
        if math.prod(sites[n].values for n in labels) > JOINT_LIMIT:
            found.update(labels)
    return frozenset(found)


def refuse_large_sums(summed: Mapping[str, Site], parents: Parents) -> None:
    """Raise where the sums over finite latents in the model need a table of too many joint values.

    The tables are those of variable elimination: the factors that share a latent are joined when it is summed out.

    Raises:
        ProgramError: naming the latents of the largest table.
    """
    joined: dict[str, set[str]] = {n: set() for n in summed}
    for name, above in parents.items():
        together = {name, *above} & summed.keys()
        for member in together:
            joined[member] |= together - {member}

    def size(name: str) -> int:
        return math.prod(summed[m].values for m in (name, *joined[name]))

    waiting = [(size(name), name) for name in summed]
    heapify(waiting)
    while waiting:
        values, name = heappop(waiting)
        if name not in joined or values != size(name):
            continue  # put there before others of its tables were summed out
        if values > SUM_LIMIT:
            raise ProgramError(
                name,
                f"the finite latents {', '.join(sorted({name, *joined[name]}))} depend on one another, and have "
                f"{values} joint values to sum over",
                "let each depend on few others, as along a chain (pyro.markov), or write this guide by hand",
            )
        left = joined.pop(name)
        for other in left:
            joined[other] = (joined[other] | left) - {name, other}
            heappush(waiting, (size(other), other))
