"""Read a model for a generated guide: one run of it, on a few rows, tells all that a guide has to know."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from ppl_vae.autoguide.inversion import ancestors
from ppl_vae.autoguide.sites import Site, read_site
from ppl_vae.checks.contract import data_plate
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.programs.dependencies import Parents, dependencies
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Program
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import frames, sample_sites, shapes_only

__all__ = ["Reading", "read_model"]


@dataclass(frozen=True)
class Reading:
    """A model's data plate, its latents inside (`local`) and outside of it (`shared`), and who depends on whom.

    `observed` names the fields that the posterior is read from; a label that is known in some rows is one of them
    only if it is drawn after other latents, which have to see it there. A model may name these fields itself, in its
    attribute `encodes`, be they observed or not. `repeated` names those whose leading dimension is a plate of
    exchangeable measurements of a row. `touching` are the latents next to the data: what is observed depends on them
    directly, or they on it. In `order` the model wants its latents drawn, if it wants one: only then are these read.
    """

    plate: str
    dim: int
    local: dict[str, Site]
    shared: dict[str, Site]
    parents: Parents
    observed: tuple[str, ...]
    repeated: frozenset[str]
    touching: frozenset[str] | None = None
    order: tuple[str, ...] = ()


def read_model(program: Program, batch: Mapping[str, Tensor]) -> Reading:
    """Run a model on a few rows and read its latents.

    Raises:
        UserError: if there is nothing latent, or a site that a generated guide cannot draw, by name.
    """
    holes = Holes(None, batch=batch)
    with preserved_randomness(), torch.no_grad(), shapes_only():
        torch.manual_seed(0)
        trace = traced(holes(program), batch)
        sites = sample_sites(trace)
        frame = data_plate(sites)
        dim = int(frame.dim or -1)
        latent = {n: s for n, s in sites.items() if not s["is_observed"]}
        if not latent:
            raise UserError("the model has no latent site: there is nothing to infer, train it by maximum likelihood")
        inside = {n for n, s in latent.items() if any(f.dim == dim for f in frames(s))}
        local = {n: read_site(n, latent[n], dim) for n in latent if n in inside}
        shared = {n: read_site(n, latent[n], dim) for n in latent if n not in inside}
        parents = dependencies(holes(program), batch, [*sites])
        known = holes.found.keys() & latent.keys()
        first = {n for n in known if not (n in local and local[n].plates) and not ancestors(n, parents) & latent.keys()}
        fields = {n: v for n, v in batch.items() if n not in first}
        asked = program.select(fields)
        observed = tuple(n for n in fields if any(v is fields[n] for v in asked.values())) or tuple(fields)
        observed = _encoded(program, batch) or observed
        repeated = frozenset() if any(s.plates for s in local.values()) else _repeated(program, batch, trace, dim)
        order = _order(program, [*local])
        touching = _touching(program, batch, trace, parents, latent.keys()) if order else None
    return Reading(frame.name, dim, local, shared, parents, observed, repeated & {*observed}, touching, order)


def _order(program: Program, latents: Sequence[str]) -> tuple[str, ...]:
    """The model's attribute `order`, of those of its sites that are latent in this data."""
    asked = tuple(getattr(program.program, "order", ()))
    order = tuple(name for name in asked if name in latents)
    if asked and sorted(order) != sorted(latents):
        raise UserError(f"the model's order must name each of its latents {', '.join(latents)} once, got {asked}")
    return order


def _touching(
    program: Program, batch: Mapping[str, Tensor], trace: Trace, parents: Parents, latents: Collection[str]
) -> frozenset[str]:
    """The latents next to the data: those that an observed site depends on, and those that depend on a field.

    The latter are found by giving every row the fields of another: with the same latents, their density changes.
    """
    found = {above for site, all_above in parents.items() if site not in latents for above in all_above}
    other = {name: value.roll(1, 0) for name, value in batch.items()}
    again = traced(poutine.replay(Holes(None, batch=other)(program), trace=trace), other)
    for name in latents:
        before, after = (t.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]) for t in (trace, again))
        if not torch.equal(before, after):
            found.add(name)
    return frozenset(found)


def _encoded(program: Program, batch: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The fields that a model says its guide reads, if it says so."""
    names = tuple(getattr(program.program, "encodes", ()))
    for name in names:
        if name not in batch:
            raise unknown_name("field of the model's `encodes`", name, batch)
    return names


def _repeated(program: Program, batch: Mapping[str, Tensor], trace: Trace, dim: int) -> frozenset[str]:
    """The fields whose measurements may be shuffled within a row without changing the row's probability.

    A plate says that they are independent given the latents, not that they are alike: items of a test have
    difficulties of their own. So the probability is compared, with parameters moved apart that start equal.
    """
    found = set()
    for name, site in sample_sites(trace).items():
        inner = [f for f in frames(site) if f.dim != dim]
        if not site["is_observed"] or name not in batch or len(inner) != 1 or inner[0].size < 2:
            continue
        if batch[name].shape[1:] != (inner[0].size, *site["fn"].event_shape):
            continue
        shuffled = {**batch, name: batch[name].flip(1)}
        with _scattered(program):
            before, after = (_log_likelihood(program, b, trace, name, dim) for b in (batch, shuffled))
        if torch.allclose(before, after, rtol=1e-4, atol=1e-4):
            found.add(name)
    return frozenset(found)


def _log_likelihood(program: Program, batch: Mapping[str, Tensor], trace: Trace, name: str, dim: int) -> Tensor:
    holes = Holes(None, batch=batch)
    site = traced(poutine.replay(holes(program), trace=trace), batch).nodes[name]
    log_p = site["fn"].log_prob(site["value"]).movedim(dim, -1)
    return log_p.reshape(-1, log_p.shape[-1]).sum(0)


@contextmanager
def _scattered(program: nn.Module) -> Iterator[None]:
    """Parameters moved by a little noise for the time being."""
    kept = [p.clone() for p in program.parameters()]
    for parameter in program.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    try:
        yield
    finally:
        for parameter, value in zip(program.parameters(), kept, strict=True):
            parameter.copy_(value)
