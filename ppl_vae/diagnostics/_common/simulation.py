"""Latents and rows that a model makes itself, in the likeness of given rows; draws of its guide for rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.data import Schema, Split
from ppl_vae.data.convert import missing_in
from ppl_vae.errors import NoDensity, UserError
from ppl_vae.prediction.filling import observing
from ppl_vae.programs.execution import PairTrace, mark_summed, run, traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.simulating import unobserved
from ppl_vae.programs.structure import Structure, TraceSites, sample_sites
from ppl_vae.weights.completion import expanded
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.reduction import WeightParts, reduced

__all__ = [
    "Simulated",
    "by_sampling",
    "contiguous",
    "drawings",
    "entries",
    "entry_names",
    "log_joint",
    "resampled",
    "simulated",
    "specific",
]


class Simulated(NamedTuple):
    """Rows by field, with holes where the given rows have them; the model's sites, among them the latents drawn."""

    batch: dict[str, Tensor]
    sites: TraceSites


def specific(structure: Structure) -> list[str]:
    """The latents of the rows that both programs draw, in the guide's order."""
    return [name for name in structure.latents if name not in structure.auxiliary]


def by_sampling(structure: Structure) -> Structure:
    """The same pair with its guide's discrete latents drawn, not summed out."""
    return replace(structure, summed_guide=frozenset())


def resampled(split: Split, rows: int, seed: int) -> Split:
    """So many rows of a split, each as often as any other up to one."""
    generator = torch.Generator().manual_seed(seed)
    times = -(-rows // len(split))
    order = torch.cat([torch.randperm(len(split), generator=generator) for _ in range(times)])
    return split.rows(order[:rows])


def contiguous(batch: Batch) -> dict[str, Tensor]:
    """Rows in memory of their own, so that a part of them can be found by where it is."""
    return {name: values.clone(memory_format=torch.contiguous_format) for name, values in batch.items()}


def simulated(pair: Pair, structure: Structure, schema: Schema, batch: Batch) -> Simulated:
    """z ~ p(z), x ~ p(x | z), one row for each given one, of which conditions and missing entries are kept.

    Raises:
        NoDensity: for an improper prior.
        UserError: for a site that observes something computed from the fields, so that they cannot be made.
    """
    if structure.improper:
        flat = ", ".join(sorted(structure.improper))
        raise NoDensity(f"no simulations: the prior of site {flat} is improper, and nothing can be drawn from it")
    batch = contiguous(batch)
    sites = sample_sites(traced(unobserved()(pair.model), batch))
    holes = Holes(structure.holes, structure.latents, batch)
    targets = {
        t.site: t for t in observing(pair.model, holes, None if structure.is_one_unit else structure.dim, schema, batch)
    }
    made = dict(batch)
    for at, site in sites.items():
        if not site["infer"].get("was_observed") or isinstance(site["fn"], dist.Delta | dist.Unit):
            continue
        if at not in targets:
            raise UserError(
                f"site {at!r} observes values that are no field of the data nor a part of one, so that rows cannot "
                "be simulated: observe the field itself, obs=x, and compute before it is passed"
            )
        target = targets[at]
        stored = batch[target.name]
        place, inside = target.spread(target.draw(sites)[0].to(stored.dtype))
        made[target.name] = torch.where(inside & ~missing_in(target.field.kind, stored), place, made[target.name])
    return Simulated(made, sites)


def entries(structure: Structure, site: Mapping[str, Any], value: Tensor, particles: int) -> Tensor:
    """A site's value (or what has its dims) as numbers for each row, [particle, row, entry]."""
    whole = expanded(structure, site, value, particles)
    if structure.is_one_unit:
        return whole.reshape(particles, 1, -1)
    return whole.movedim(structure.dim - site["fn"].event_dim, 1).flatten(2) if whole.dim() > 2 else whole.unsqueeze(-1)


def entry_names(structure: Structure, site: Mapping[str, Any], value: Tensor, name: str, particles: int) -> list[str]:
    """What the entries of a site's value are called: z, or z[0], or z[0, 2]."""
    whole = expanded(structure, site, value, particles)
    if not structure.is_one_unit:
        whole = whole.movedim(structure.dim - site["fn"].event_dim, 1)
    shape = [n for n in whole.shape[1 if structure.is_one_unit else 2 :] if n > 1]
    return [f"{name}[{', '.join(map(str, at))}]" if shape else name for at in np.ndindex(*shape)]


def drawings(
    pair: Pair, structure: Structure, batch: Batch, sizes: list[int]
) -> Iterator[tuple[int, PairTrace, WeightParts]]:
    """Draws of every latent from the guide, some particles at a time, and the factors of both programs at them.

    Latents of the model alone are summed out.
    """
    structure = by_sampling(structure)
    for particles in sizes if structure.broadcasts else [1] * sum(sizes):
        drawn = run(pair, structure, batch, particles)
        yield particles, drawn, reduced(Factors(drawn))


def log_joint(pair: Pair, structure: Structure, batch: Batch, latents: Mapping[str, Tensor]) -> WeightParts:
    """log p(x | z) and log p(z) of given latents, which are by site as a run of the model has them: [1, row]."""
    known = Trace()
    for name, value in latents.items():
        known.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
    holes = Holes(structure.holes, structure.latents)
    held: Any = SimpleNamespace(model=holes(pair.model), guide=pair.guide)
    model = mark_summed(held, structure)[0]
    if structure.summed_model:
        model = EnumMessenger(first_available_dim=-1 - structure.nesting)(model)
    trace = holes.hold(traced(poutine.replay(model, trace=known), batch))
    return reduced(Factors(PairTrace(replace(by_sampling(structure), latents=()), 1, Trace(), trace, holes.observed)))
