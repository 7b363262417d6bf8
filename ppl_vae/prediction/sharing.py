"""What all rows share, held while rows are gone through: every draw has one value of it, the same for all rows."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace

from ppl_vae.errors import UserError
from ppl_vae.evaluation.shared_draws import SharedDraws
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Batch, Pair, Programs
from ppl_vae.programs.structure import frames, sample_sites

__all__ = [
    "HasShared",
    "given_draws",
    "held_guide",
    "held_pair",
    "posterior_draws",
    "shared_names",
    "shared_traces",
]


class HasShared(Protocol):
    """Draws of what all rows share, such as `ppl_vae.posterior` gives."""

    shared_draws: SharedDraws | None


def shared_names(pair: Pair, batch: Batch) -> frozenset[str]:
    """The latents of a guide that all rows share, its own joint draws of them among these: in no plate of the rows.

    A plate of the rows is one that another row makes wider.
    """
    few, more = _sites(pair, batch), _sites(pair, {n: torch.cat([v, v[:1]]) for n, v in batch.items()})
    sizes = {f.name: f.size for site in few.values() for f in frames(site)}
    rows = {f.name for site in more.values() for f in frames(site) if f.size != sizes.get(f.name)}
    return frozenset(name for name, site in few.items() if not rows & {f.name for f in frames(site)})


def _sites(pair: Pair, batch: Batch) -> dict[str, Any]:
    trace = traced(Holes(None, batch=batch)(pair.guide), batch)
    return {name: site for name, site in sample_sites(trace).items() if not site["is_observed"]}


def shared_traces(pair: Pair, names: frozenset[str], batch: Batch, draws: int, given: HasShared | None) -> list[Trace]:
    """So many draws of what all rows share, as traces on which the guide is replayed: the given ones, or the guide's.

    Raises:
        UserError: for given draws of something else.
    """
    if given is None:
        return list(_drawn(pair, names, batch, draws))
    shared = given_draws(given, names, draws)
    return [shared.at(k).trace() for k in torch.arange(draws).split(1)]


def given_draws(given: HasShared, names: frozenset[str], draws: int) -> SharedDraws:
    """So many of the given draws, evenly among them, or again from the first where they are fewer.

    Raises:
        UserError: for draws of something else than these latents.
    """
    shared = getattr(given, "shared_draws", None)
    if not isinstance(shared, SharedDraws) or not names or not names <= shared.values.keys():
        wanted = f"draws of {', '.join(sorted(names))}" if names else "and the rows of this one share no latent"
        raise UserError(f"posterior= expects what ppl_vae.posterior gives for this pair: {wanted}")
    order = torch.arange(draws)
    return shared.at(order * len(shared) // draws if draws <= len(shared) else order % len(shared))


def posterior_draws(names: frozenset[str], draws: int, given: HasShared | None, purpose: str) -> SharedDraws | None:
    """So many draws from the posterior of what all rows share; None where they share nothing.

    Raises:
        UserError: where they share something and no posterior is given: the guide's own draws would judge the guide.
    """
    if not names and given is None:
        return None
    if given is None:
        raise UserError(
            f"{', '.join(sorted(names))} is shared by all rows, and {purpose} needs draws from its posterior: pass "
            "posterior=ppl_vae.posterior(model, guide, data), data being the rows that the pair was fitted to"
        )
    return given_draws(given, names, draws)


def _drawn(pair: Pair, names: frozenset[str], batch: Batch, draws: int) -> Iterator[Trace]:
    for _ in range(draws):
        held = Trace()
        sites = _sites(pair, batch) if names else {}
        for name in names & sites.keys():
            held.add_node(name, **sites[name])
        yield held


def held_guide(pair: Programs, held: Trace) -> Any:
    """The guide with what all rows share at a draw."""
    return poutine.replay(pair.guide, trace=held) if held.nodes else pair.guide


def held_pair(pair: Programs, held: Trace) -> Any:
    """The model, and the guide with what all rows share at a draw."""
    return SimpleNamespace(model=pair.model, guide=held_guide(pair, held))
