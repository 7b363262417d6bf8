"""The KL taken apart: what latents say of the row, and what the aggregate posterior is away from the prior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.diagnostics._collapse.aggregate import (
    MeanOverDraws,
    TraceSites,
    aggregate_log_density,
    estimated,
    total_correlation,
)
from ppl_vae.diagnostics._common.classes import levels_of
from ppl_vae.diagnostics._common.simulation import drawings, log_joint, specific
from ppl_vae.display.working import tracked
from ppl_vae.distributions import unwrapped
from ppl_vae.nn.flows import NoInverse
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure, sample_sites

__all__ = ["NOTHING", "Surgery", "surgery"]

NOTHING = MeanOverDraws(math.nan, math.nan)


class Surgery(NamedTuple):
    """The KL taken apart, in nats; what cannot be had is `NOTHING`, and a note says why.

    I_q(x; z) lies between `information` and `information_most`, KL(q(z) || p(z)) between `marginal_least` and
    `marginal`, on average over rows from a population.
    """

    information: MeanOverDraws = NOTHING
    information_most: MeanOverDraws = NOTHING
    marginal: MeanOverDraws = NOTHING
    marginal_least: MeanOverDraws = NOTHING
    correlation: Mapping[str, MeanOverDraws] = MappingProxyType({})
    notes: tuple[str, ...] = ()


def surgery(pair: Pair, structure: Structure, batches: list[dict[str, Tensor]]) -> Surgery:
    """I_q(x; z) and KL(q(z) || p(z)) from both sides, total correlations by site, and what of these cannot be had.

    Let q_in be the mixture of q(z | x_j) over all N rows and q_out that over all rows but i. Then
    E[log q(z_i | x_i) - log q_in(z_i)] <= I, at most log N, and E[log q(z_i | x_i) - log q_out(z_i)] >= I, by Jensen.

    Source: Hoffman & Johnson 2016, ELBO surgery, NIPS workshop on advances in approximate Bayesian inference; Poole et
    al. 2019, arXiv 1905.06922, section 2.2 (both sides).
    """
    drawn, log_q, log_p = _one_draw(pair, structure, batches)
    correlation, notes = _correlations(structure, drawn)
    nothing = Surgery(correlation=correlation)
    if helpers := [n for n in structure.auxiliary if drawn[0][n]["infer"].get("joint") != n]:
        said = f"the guide's own {', '.join(sorted(helpers))}, over which q(z | x) would have to be integrated"
        return nothing._replace(notes=(*notes, f"no I_q(x; z): {said}"))
    try:
        mixed = aggregate_log_density(pair, structure, batches, drawn)
    except NoInverse as error:
        return nothing._replace(notes=(*notes, f"no I_q(x; z) and no KL(q(z) || p(z)): {error}"))
    found = nothing._replace(
        information=estimated(log_q - mixed.inside), information_most=estimated(log_q - mixed.outside)
    )
    if structure.summed_model:
        sites = ", ".join(sorted(structure.summed_model))
        return found._replace(notes=(*notes, f"no KL: {sites} is summed out in the model"))
    if _depends_on_row(pair, structure, batches[0], drawn[0]):
        said = "no KL(q(z) || p(z)): the prior depends on the row (a condition), so that there is no single p(z)"
        return found._replace(notes=(*notes, said))
    marginal, least = estimated(mixed.inside - log_p), estimated(mixed.outside - log_p)
    return found._replace(marginal=marginal, marginal_least=least, notes=tuple(notes))


def _one_draw(
    pair: Pair, structure: Structure, batches: list[dict[str, Tensor]]
) -> tuple[Sequence[TraceSites], Tensor, Tensor]:
    """The guide's sites, log q(z | x) and log p(z), of one draw of each row."""
    drawn, log_q, log_p = [], [], []
    for batch in tracked(batches, "aggregate posterior"):
        ((_, once, parts),) = drawings(pair, structure, batch, [1])
        drawn.append(sample_sites(once.guide))
        log_q.append(parts.log_guide[0])
        log_p.append(parts.log_prior[0])
    return drawn, torch.cat(log_q), torch.cat(log_p)


def _correlations(structure: Structure, drawn: Sequence[TraceSites]) -> tuple[dict[str, MeanOverDraws], list[str]]:
    found, unknown = {}, []
    for name in structure.latents:
        site = drawn[0][name]
        pieces = site["infer"].get("joint", name) != name
        if pieces or levels_of(site["fn"]) or site["value"][..., :1].numel() == site["value"].numel():
            continue
        result = total_correlation(structure, name, drawn)
        if result is None:
            unknown.append(
                f"no total correlation of {name}: {type(unwrapped(site['fn'])).__name__} has no known marginals"
            )
        else:
            found[name] = result
    return found, unknown


def _depends_on_row(pair: Pair, structure: Structure, batch: Batch, drawn: TraceSites) -> bool:
    """Whether the same latents have another prior density in other rows."""
    latents = {name: drawn[name]["value"] for name in specific(structure)}
    order = torch.randperm(len(next(iter(batch.values()))))
    moved = {name: values[order.to(values.device)] for name, values in batch.items()}
    here, there = (log_joint(pair, structure, rows, latents).log_prior for rows in (batch, moved))
    return not torch.allclose(here, there, rtol=1e-4, atol=1e-3)
