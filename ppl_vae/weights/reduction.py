"""From the factors of a run to the parts of its log weight, [particle, row]; all data as one unit are one row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ppl_vae.errors import UserError
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.value_sums import Term, ValueSums

__all__ = ["Discrete", "WeightParts", "by_row", "for_each_row", "reduced", "shared_density"]

Discrete = Literal["expectation", "marginal"]


class WeightParts(NamedTuple):
    """What a reduction gives: the log weight's parts [particle, row] and the rate of every latent site."""

    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor
    log_global: Tensor | None
    score: Tensor | None
    by_site: dict[str, Tensor]
    labels: dict[str, Tensor]


def reduced(factors: Factors, discrete: Discrete = "expectation", beta: float | Tensor = 1.0) -> WeightParts:
    """The parts of the log weight, in nats; `discrete` and `beta` as in `ppl_vae.weights.log_weights.weigh`.

    Without discrete latents to sum out, both are the same: every site's factor, summed over its plates.
    """
    if not factors.structure.enumerates:
        return _collect(factors, ((f.part, f.name, f.log) for f in factors.all))
    sums = ValueSums(factors)
    return _collect(factors, sums.expectation() if discrete == "expectation" else sums.marginal(beta))


def for_each_row(factors: Factors, name: str, log: Tensor) -> Tensor:
    """A site's log-probability, all that it has inside of a row summed up, [particle, row]."""
    rows = _rows(factors.structure, factors.model_sites)
    return by_row(factors.structure, name, log).expand(factors.particles, rows)


def _collect(factors: Factors, terms: Iterable[Term]) -> WeightParts:
    sums: dict[str, Tensor] = {}
    by_site: dict[str, Tensor] = {}
    for part, name, full in terms:
        log = _over_plates(factors, name, full) if part == "global" else for_each_row(factors, name, full)
        sums[part] = sums[part] + log if part in sums else log
        if part in ("prior", "guide"):  # a rate is log q - log p
            name = factors.drawn_as.get(name, name)
            by_site[name] = by_site[name] - log if name in by_site else -log
    some = next((v for p, v in sums.items() if p != "global"), None)
    if some is None and not factors.structure.is_one_unit:
        raise UserError("the pair has no factor inside its data plate: put the rows' statements into it")
    zero = torch.zeros(factors.particles, 1) if some is None else torch.zeros_like(some)
    score = [for_each_row(factors, name, _over_values(factors, log_q)) for name, log_q in factors.score]
    return WeightParts(
        log_likelihood=sums.get("likelihood", zero),
        log_prior=sums.get("prior", zero),
        log_guide=-sums.get("guide", zero),
        log_global=sums.get("global"),
        score=torch.stack(score).sum(0) if score else None,
        by_site=by_site,
        labels={name: for_each_row(factors, name, log_q) for name, log_q in factors.labels.items()},
    )


def _over_values(factors: Factors, log_q: Tensor) -> Tensor:
    """log q of draws made for every value of a summed latent: they are draws of their own, so scores add up."""
    depth = factors.structure.nesting + (factors.particles > 1)
    return log_q.sum(tuple(range(log_q.dim() - depth))) if log_q.dim() > depth else log_q


def _over_plates(factors: Factors, name: str, log: Tensor) -> Tensor:
    """A shared site's log-probability, summed over all of its plates, [particle]."""
    depth = factors.structure.nesting + 1
    log = _padded(name, log, depth)
    log = log.sum(tuple(range(1, depth))) if depth > 1 else log  # of no dims torch would sum all
    return log.expand(factors.particles)


def shared_density(factors: Factors) -> Tensor:
    """log q of what all rows share, as the guide says it, summed over all plates, [particle]."""
    own = (f for f in factors.all if f.part == "global" and f.site is factors.guide_sites.get(f.name))
    logs = [-_over_plates(factors, f.name, f.log) for f in own]
    return torch.stack(logs).sum(0) if logs else torch.zeros(factors.particles)


def by_row(structure: Structure, name: str, log: Tensor) -> Tensor:
    """A site's log-probability summed over its plates inside of a unit: [particle or 1, row or 1]."""
    depth = structure.nesting + 1
    log = _padded(name, log, depth)
    if structure.is_one_unit:
        return log.flatten(1).sum(1, keepdim=True) if depth > 1 else log.unsqueeze(-1)
    log = log.movedim(structure.dim, -1)
    return log.sum(tuple(range(1, depth - 1))) if depth > 2 else log


def _padded(name: str, log: Tensor, depth: int) -> Tensor:
    if log.dim() > depth:
        raise UserError(
            f"site {name!r} has a log-probability of shape {tuple(log.shape)}, with more dims than its "
            "plates have: declare event dims with .to_event()"
        )
    return log.reshape((1,) * (depth - log.dim()) + tuple(log.shape))


def _rows(structure: Structure, sites: dict[str, dict[str, Any]]) -> int:
    """How many units this run has: the size of the rows' plate, or, for a plate without a size, of what is in it."""
    if structure.is_one_unit:
        return 1
    inside = ((site, frame) for site in sites.values() if (frame := structure.row_frame(site)) is not None)
    around = []
    for site, frame in inside:  # the first that has a size tells: a long series has thousands of sites
        if frame.size > 0:
            return int(frame.size)
        around.append(site)
    shapes = [site["fn"].batch_shape for site in around]
    return max((shape[structure.dim] for shape in shapes if len(shape) >= -structure.dim), default=1)
