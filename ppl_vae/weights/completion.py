"""Particles with a value for every latent of a row: summed ones are drawn given the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.distributions import without_mask
from ppl_vae.programs.execution import PairTrace, for_particles, run, traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure, frames, sample_sites
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.reduction import reduced
from ppl_vae.weights.states import Chosen, drawn_values
from ppl_vae.weights.value_sums import ValueSums

__all__ = [
    "Particles",
    "Parts",
    "Sites",
    "completed",
    "concatenate",
    "expanded",
    "fixed",
    "latent_values",
    "picked",
    "replayed",
]

Sites = dict[str, dict[str, Any]]


class Particles(NamedTuple):
    """Log weights [particle, row] in nats, the latents by site, [particle, plates, *event], and the model's sites.

    With discrete latents summed out, the weight is that of the other draws, and the discrete values are drawn from
    p(discrete | other draws, x): choose particles by weight, and both together are a draw from the posterior. `sites`
    is one run of the model for all particles, or one for each if the pair does not let them run together. `parts` are
    what the weight is made of.
    """

    log_weight: Tensor
    latents: dict[str, Tensor]
    sites: list[Sites]
    parts: Parts


class Parts(NamedTuple):
    """log p(x | z), log p(z) and log q(z | x), [particle, row] in nats."""

    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor


def completed(pair: Pair, structure: Structure, batch: Batch, particles: int) -> Particles:
    """Draw particles for the rows of a batch."""
    runs = [particles] if structure.broadcasts else [1] * particles
    return concatenate([_complete(pair, batch, run(pair, structure, batch, k)) for k in runs])


def concatenate(parts: Sequence[Particles]) -> Particles:
    """Particles of the same rows from several runs."""
    return Particles(
        torch.cat([p.log_weight for p in parts]),
        {name: torch.cat([p.latents[name] for p in parts]) for name in parts[0].latents},
        [sites for p in parts for sites in p.sites],
        Parts(*(torch.cat(column) for column in zip(*(p.parts for p in parts), strict=True))),
    )


def _complete(pair: Pair, batch: Batch, drawn: PairTrace) -> Particles:
    structure, factors = drawn.structure, Factors(drawn)
    parts = reduced(factors, "marginal")
    names = [n for n in [*structure.latents, *sorted(structure.summed_model)] if n not in structure.auxiliary]
    latents = latent_values(factors, names)
    kept = Parts(parts.log_likelihood, parts.log_prior, parts.log_guide)
    log_weight = parts.log_likelihood + parts.log_prior - parts.log_guide
    loose = {n: mask for n, mask in factors.counting.items() if mask is not None and n in latents}
    if not structure.enumerates and not loose:
        return Particles(log_weight, latents, [factors.model_sites], kept)
    sites = _replay(pair, structure, batch, latents, drawn.particles, Redraw(loose))
    latents |= {n: expanded(structure, sites[n], sites[n]["value"], drawn.particles) for n in loose}
    return Particles(log_weight, latents, [sites], kept)


class Redraw(Messenger):
    """Draw entries of latents that have no part in the weight from the model: the guide's say nothing.

    A program draws what it masks from its prior, and so are these entries where fields are drawn that depend on them.
    """

    def __init__(self, counts: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.counts = counts

    def _pyro_sample(self, msg: Message) -> None:
        mask = self.counts.get(str(msg["name"]))
        if mask is not None:
            mask = mask.reshape(mask.shape + (1,) * msg["fn"].event_dim)
            msg["value"] = torch.where(mask, msg["value"], without_mask(msg["fn"]).sample())


def latent_values(factors: Factors, names: Sequence[str]) -> dict[str, Tensor]:
    """Values of latents in a run, [particle, plates, *event]: of summed ones a draw given all others."""
    run, found = factors.run, {}
    values = drawn_values(ValueSums(factors)) if run.structure.enumerates else {}
    for name in names:
        site = factors.guide_sites.get(name) or factors.model_sites.get(name)
        if site is None:
            continue  # a shorter series has fewer steps than the program that was read
        found[name] = expanded(run.structure, site, picked(run.structure, site, values), run.particles)
    return found


def expanded(structure: Structure, site: Mapping[str, Any], value: Tensor, particles: int) -> Tensor:
    """A site's value with all of its particles and plates, [particle, plates, *event]."""
    sizes, event = [1] * (structure.nesting + 1), site["fn"].event_dim
    sizes[0] = particles
    for frame in frames(site):
        if frame.dim is not None and -frame.dim <= structure.nesting:
            sizes[frame.dim] = frame.size
    value = value.reshape((1,) * (len(sizes) + event - value.dim()) + tuple(value.shape))
    sizes = [max(pair) for pair in zip(sizes, value.shape, strict=False)]  # of one unit, dims without a plate as well
    return value.expand(*sizes, *value.shape[value.dim() - event :])


def replayed(
    pair: Pair, structure: Structure, batch: Batch, latents: Mapping[str, Tensor], particles: int
) -> list[Sites]:
    """The model's sites for given latents [particle, plates, *event]: one run for all particles, where that is allowed.

    Entries that are missing are skipped, as in training; rows in which a held site was observed keep its value.
    """
    if structure.broadcasts:
        return [_replay(pair, structure, batch, latents, particles)]
    each = [{name: value[k : k + 1] for name, value in latents.items()} for k in range(particles)]
    return [_replay(pair, structure, batch, one, 1) for one in each]


def _replay(
    pair: Pair,
    structure: Structure,
    batch: Batch,
    latents: Mapping[str, Tensor],
    particles: int,
    redraw: Messenger | None = None,
) -> Sites:
    holes = Holes(structure.holes, structure.latents, batch)
    model = for_particles(holes(pair.model), structure, particles)
    program = poutine.replay(model, trace=fixed(structure, latents, particles))
    return sample_sites(holes.hold(traced(program if redraw is None else redraw(program), batch)))


def fixed(structure: Structure, latents: Mapping[str, Tensor], particles: int) -> Trace:
    """Values of latents [particle, plates, *event] as a trace on which a program is replayed."""
    trace = Trace()
    for name, value in latents.items():
        value = value if particles > 1 else structure.alone(name, value)
        trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
    return trace


def picked(structure: Structure, site: Mapping[str, Any], values: Chosen) -> Tensor:
    """A site's draw [particle or 1, plates, *event] where the summed latents take `values`."""
    value, event = site["value"], site["fn"].event_dim
    depth = structure.nesting + 1
    value = value.reshape((1,) * (depth + event - value.dim()) + tuple(value.shape))
    for batch_dim, symbol in site["infer"].get("_dim_to_symbol", {}).items():
        dim, index = batch_dim - event, values.get(symbol)
        # else the draw does not depend on this latent
        if index is not None and -dim <= value.dim() and value.shape[dim] > 1:
            index = index.reshape((1,) * (value.dim() - event - index.dim()) + index.shape + (1,) * event)
            value = torch.take_along_dim(value, index, dim)
    return value.reshape(value.shape[value.dim() - depth - event :])
