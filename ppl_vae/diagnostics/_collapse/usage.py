"""What draws from the guide tell of every latent site of some rows: means, KL by entry and by draw, probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.diagnostics._collapse.aggregate import MeanOverDraws
from ppl_vae.diagnostics._common.classes import class_probabilities, class_value, levels_of
from ppl_vae.diagnostics._common.simulation import drawings, entries, entry_names, specific
from ppl_vae.prediction.coding import posterior_mean
from ppl_vae.programs.execution import traced
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.simulating import unobserved
from ppl_vae.programs.structure import Structure, sample_sites
from ppl_vae.weights.marginals import elementwise

__all__ = ["Column", "Use", "estimate", "prior_moments", "used"]

PRIOR_DRAWS = 4000
"""Latents drawn from the prior to know its mean and deviation, at least."""

TraceSite = Mapping[str, Any]


@dataclass
class Column:
    """One site of some rows, its entries flattened; everything is summed over draws, [row, entry].

    `halves` are the sums of posterior means over each half of the draws, `total` and `square` those of the draws. `kl`
    is None where q and p do not factorise; `probs` is [row, entry, level], None where the site is no class.
    """

    names: list[str]
    halves: list[Tensor | Any] = field(default_factory=lambda: [0, 0])
    counts: list[int] = field(default_factory=lambda: [0, 0])
    total: Tensor | Any = 0
    square: Tensor | Any = 0
    kl: Tensor | Any = 0
    probs: Tensor | Any = 0


@dataclass
class Use:
    """Some rows: the columns of their latents, and log q - log p of each draw of the guide, sums over draws [row].

    Attributes:
        columns: by site of the model.
        rates: by site of the guide, the sum and the sum of squares.
        draws: of each row.
    """

    columns: dict[str, Column]
    rates: dict[str, tuple[Tensor, Tensor]]
    draws: int

    def rate(self, name: str, values: Tensor) -> None:
        """Take in log q - log p of some draws, [particle, row]."""
        total, square = self.rates.get(name, (torch.zeros_like(values[0]),) * 2)
        self.rates[name] = total + values.sum(0), square + values.square().sum(0)


def used(pair: Pair, structure: Structure, batch: Batch, sizes: Sequence[int]) -> Use:
    """Go through the draws of some rows."""
    found, half = Use({}, {}, sum(sizes)), sum(sizes) // 2
    done = 0
    for particles, drawn, parts in drawings(pair, structure, batch, list(sizes)):
        guide, model = sample_sites(drawn.guide), sample_sites(drawn.model)
        free = [n for n in specific(structure) if n not in drawn.observed or not bool(drawn.observed[n][1].any())]
        exact = set()
        for name in free:
            site = guide[name]
            if name not in found.columns:
                found.columns[name] = Column(entry_names(structure, site, class_value(site), name, particles))
            column = found.columns[name]
            if levels_of(site["fn"]):
                column.probs = column.probs + class_probabilities(structure, site, particles).sum(0)
            else:
                kl = _kl(structure, site, model[name], particles)
                if kl is not None:
                    exact.add(name)
                    found.rate(name, kl.sum(-1))
                _add(column, structure, site, kl, particles, half - done)
        for name, rate in parts.by_site.items():
            if name not in exact and name not in drawn.observed.keys() - set(free):
                found.rate(name, rate)
        done += particles
    return found


def _add(column: Column, structure: Structure, site: TraceSite, kl: Tensor | None, particles: int, first: int) -> None:
    """Take in some draws of a continuous site, the first of which belong to the first half."""
    values = entries(structure, site, site["value"], particles)
    means = entries(structure, site, posterior_mean(site), particles)
    cut = max(0, min(first, particles))
    for i, part in enumerate((means[:cut], means[cut:])):
        column.halves[i] = column.halves[i] + part.sum(0)
        column.counts[i] += len(part)
    column.total = column.total + values.sum(0)
    column.square = column.square + values.square().sum(0)
    column.kl = None if kl is None or column.kl is None else column.kl + kl.sum(0)


def _kl(structure: Structure, q_site: TraceSite, p_site: TraceSite, particles: int) -> Tensor | None:
    """KL of each entry in closed form, or log q - log p of the draws, [particle, row, entry]; None if not by entry."""
    if "joint" in q_site["infer"] or q_site["mask"] is not None or p_site["mask"] is not None:
        return None
    q, p = elementwise(q_site["fn"]), elementwise(p_site["fn"])
    if q is None or p is None:
        return None
    try:
        kl = kl_divergence(q, p)
    except NotImplementedError:
        kl = q.log_prob(q_site["value"]) - p.log_prob(q_site["value"])
    return entries(structure, q_site, kl, particles)


def prior_moments(pair: Pair, structure: Structure, batches: Sequence[Batch]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation of every continuous latent under the model alone, given the rows' conditions, [entry]."""
    program = unobserved()(pair.model)
    total = sum(len(next(iter(batch.values()))) for batch in batches)
    found: dict[str, list[Tensor]] = {}
    for batch in batches:
        copies = max(1, PRIOR_DRAWS // 4 // total)  # rows are independent given the model: few runs of many rows
        tiled = {name: values.repeat((copies,) + (1,) * (values.dim() - 1)) for name, values in batch.items()}
        for _ in range(-(-PRIOR_DRAWS // (copies * total))):
            for name, site in sample_sites(traced(program, tiled)).items():
                if name in structure.latents and not levels_of(site["fn"]):
                    found.setdefault(name, []).append(entries(structure, site, site["value"], 1)[0])
    draws = {name: torch.cat(parts) for name, parts in found.items()}
    return {name: (values.mean(0), values.std(0)) for name, values in draws.items()}


# -- classes -------------------------------------------------------------------------------------------------------


def estimate(parts: Sequence[tuple[Tensor, Tensor]], draws: int) -> MeanOverDraws:
    """From sums over draws of a number and of its square, [row]: the mean, and its Monte Carlo standard error."""
    mean, square = (torch.cat(column) / draws for column in zip(*parts, strict=True))
    variance = (square - mean.square()).clamp(min=0) / max(draws - 1, 1)
    return MeanOverDraws(float(mean.mean()), float(variance.sum().sqrt() / len(mean)))
