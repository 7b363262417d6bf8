"""Read a model for a generated guide: runs of it on a few rows tell all that a guide has to know."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.autoguide.chains import Chain, chains
from ppl_vae.autoguide.inversion import ancestors
from ppl_vae.autoguide.members import Members, find_members
from ppl_vae.autoguide.probing import check_sizes, moving_sites, run_model, scattered
from ppl_vae.autoguide.sites import Site, read_site
from ppl_vae.autoguide.starting import starts
from ppl_vae.autoguide.summing import asked_to_be_summed
from ppl_vae.autoguide.timing import read_timing
from ppl_vae.checks.row_plates import informative, nothing_observed, other_number, row_plates
from ppl_vae.data import Schema, Split, WholeBatch, as_one_unit, as_split, units_in
from ppl_vae.data.example import example, spread_rows
from ppl_vae.errors import ProgramError, UserError, unknown_name
from ppl_vae.nn.entries import Timing
from ppl_vae.programs.dependencies import Parents, dependencies
from ppl_vae.programs.execution import masks_as_they_were, traced
from ppl_vae.programs.failures import all_rows_alone
from ppl_vae.programs.missing import Holes, Watch
from ppl_vae.programs.program import Program
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.structure import TraceSites, frames, sample_sites, shapes_only

__all__ = ["Reading", "check_order", "read_model", "read_rows"]


@dataclass(frozen=True)
class Reading:
    """A model's plates of the rows, its latents inside (`local`) and outside (`shared`) of them, who depends on whom.

    Where all data are one unit there are no such plates, and its latents are the shared ones.
    `summed` are the finite latents that no guide draws. `observed` names the fields that the posterior is read from; a
    label that is known in some rows is one of them only if it is drawn after other latents, which have to see it there.
    A model may name these fields itself, in its attribute `encodes`, be they observed or not. `repeated` names those
    whose leading dimension is a plate of exchangeable measurements of a row. `touching` are the latents next to the
    data: what is observed depends on them directly, or they on it. In `order` the model wants its latents drawn, if it
    wants one: only then are these read. `start` is where the posterior of a shared latent starts, by site;
    `subsample_size` the rows of a model that draws them itself. A model `has_rows` if it observes something in a plate.
    `chain` are the latents of a program that goes through time, step by step, `timing` the fields that belong to them;
    `members` are those of a plate of the row that are all alike.
    """

    plates: tuple[str, ...]
    dim: int
    local: dict[str, Site]
    shared: dict[str, Site]
    parents: Parents
    observed: tuple[str, ...]
    repeated: frozenset[str]
    touching: frozenset[str] | None = None
    order: tuple[str, ...] = ()
    summed: dict[str, Site] = field(default_factory=dict)
    start: dict[str, Tensor] = field(default_factory=dict)
    subsample_size: int | None = None
    has_rows: bool = True
    chain: Chain | None = None
    timing: Timing | None = None
    members: Members | None = None


def read_rows(
    program: Program, data: Any, collapse: Sequence[str]
) -> tuple[Schema, Split | None, dict[str, Tensor], Reading]:
    """Data with a few of its rows, and what the model does with them.

    All rows are taken for a model that draws some itself, and all data as one unit for a model without rows.
    """
    if isinstance(data, Schema):
        batch = example(data, None)
        return data, None, batch, read_model(program, batch, None, collapse)
    try:
        split = as_split(data, "train")
        batch = example(split.schema, split)
        with preserved_randomness():
            other = None if split.is_one_unit else spread_rows(split)
        return split.schema, split, batch, read_model(program, batch, other, collapse)
    except UserError as error:
        told: UserError = error
        for wider in (as_split, as_one_unit):
            with suppress(UserError):
                split = wider(data)
                batch = split.batch()
                model = read_model(program, batch, None, collapse)
                if model.subsample_size is not None or not model.has_rows:
                    return split.schema, split, batch, model
                few = units_in(example(split.schema, split))
                if few < len(split) and error.__cause__ is not None:  # it was the program that failed, on a few rows
                    told = all_rows_alone(error, len(split), few)
        raise told from error


def read_model(
    program: Program,
    batch: Mapping[str, Tensor],
    other: Mapping[str, Tensor] | None = None,
    collapse: Sequence[str] = (),
) -> Reading:
    """Run a model on a few rows and read its latents.

    Args:
        program: the model.
        batch: a few rows.
        other: other rows, on which supports and sizes are compared.
        collapse: names of finite latents that are summed out in the model; `*` stands for any letters.

    Raises:
        UserError: if there is nothing latent, or a site that a generated guide cannot draw, by name.
    """
    with preserved_randomness(), torch.no_grad(), shapes_only():
        seed_draws(0)
        holes, watch = Holes(None, batch=batch), Watch()
        trace = run_model(program, batch, lambda p: masks_as_they_were()(holes(watch(p))))
        sites = sample_sites(trace)
        plates = _row_plates(program, batch, sites)
        dim, rows = int(plates[0].dim or -1) if plates else -1, [f.name for f in plates]
        latent = {n: s for n, s in sites.items() if not s["is_observed"]}
        if not latent:
            raise UserError("the model has no latent site: there is nothing to infer, train it by maximum likelihood")
        if len(latent) == len(sites) and any(s["infer"].get("was_observed") for s in sites.values()):
            raise nothing_observed(sites)
        parents = dependencies(holes(program), batch, [*sites])
        summed = asked_to_be_summed(latent, collapse, rows)
        moving = moving_sites(program, batch, other, {n: s for n, s in latent.items() if n not in summed}, rows)
        read = {n: read_site(n, site, rows, n in moving, n in summed) for n, site in latent.items()}
        local = {n: s for n, s in read.items() if s.rows is not None and n not in summed}
        shared = {n: s for n, s in read.items() if s.rows is None and n not in summed}
        check_sizes(program, other, shared)
        known = holes.found.keys() & latent.keys()
        first = {n for n in known if not (n in local and local[n].plates) and not ancestors(n, parents) & latent.keys()}
        fields = {n: v for n, v in batch.items() if n not in first}
        asked = program.select(fields)
        observed = tuple(n for n in fields if any(v is fields[n] for v in asked.values())) or tuple(fields)
        observed = _encoded(program, batch) or observed
        repeated = frozenset() if any(s.plates for s in local.values()) else _repeated(program, batch, trace, dim)
        order = _order(program, [*local])
        chain: Chain | None = None
        timing: Timing | None = None
        of_rows = {n: s for n, s in read.items() if s.rows is not None}
        for chain in () if order else chains(of_rows, parents, [*shared]):
            timing = read_timing(chain, parents, watch.seen, sites, batch, observed, dim)
            if timing:
                break
        alone = order or timing or not plates
        members = (
            None if alone else find_members(program, batch, trace, watch.seen, local, parents, observed, rows, dim)
        )
        return Reading(
            plates=tuple(rows),
            dim=dim,
            local=local,
            shared=shared,
            parents=parents,
            observed=observed,
            repeated=repeated & {*observed},
            touching=_touching(program, batch, trace, parents, latent.keys()) if order else None,
            order=order,
            summed={n: site for n, site in read.items() if n in summed},
            start=starts(program, batch, shared, sites, parents),
            chain=chain if timing else None,
            timing=timing,
            members=members,
            has_rows=any(frames(s) for s in informative(sites).values()),
            subsample_size=next((f.size for f in plates if f.full_size not in (None, f.size)), None),
        )


def _row_plates(program: Program, batch: Mapping[str, Tensor], sites: TraceSites) -> list[CondIndepStackFrame]:
    """The plates of the rows; none where all data are one unit."""
    if isinstance(batch, WholeBatch):
        return []
    rows = len(next(iter(batch.values())))
    others = other_number(sites, batch, rows)
    if others is None:
        return row_plates(sites, rows)
    try:
        found = sample_sites(run_model(program, others))
    except UserError:
        found = None
    return row_plates(sites, rows, found)


def check_order(groups: Sequence[Sequence[str]], model: Reading) -> None:
    """The bounds of a latent's support are known when it is drawn: what they depend on comes before it.

    Args:
        groups: the sites that are drawn together, in the order of the guide.
        model: what was read.

    Raises:
        ProgramError: for a latent whose support depends on one that comes later, or on one that is summed out.
    """
    drawn = [name for group in groups for name in group]
    for name, site in (model.local | model.shared).items():
        after = {*drawn[drawn.index(name) :], *model.summed}
        if site.moving and (late := sorted(model.parents.get(name, frozenset()) & after)):
            raise ProgramError(
                name,
                f"the support of latent site {name!r} may depend on {', '.join(late)}, which this guide does not draw "
                "before it",
                "draw a number that is free and scale it in the model, or give it bounds that are fixed",
            )


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
        with scattered(program):
            before, after = (_log_likelihood(program, b, trace, name, dim) for b in (batch, shuffled))
        if torch.allclose(before, after, rtol=1e-4, atol=1e-4):
            found.add(name)
    return frozenset(found)


def _log_likelihood(program: Program, batch: Mapping[str, Tensor], trace: Trace, name: str, dim: int) -> Tensor:
    holes = Holes(None, batch=batch)
    site = traced(poutine.replay(holes(program), trace=trace), batch).nodes[name]
    log_p = site["fn"].log_prob(site["value"]).movedim(dim, -1)
    return log_p.reshape(-1, log_p.shape[-1]).sum(0)
