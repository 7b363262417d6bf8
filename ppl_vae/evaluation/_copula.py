"""Columns of any kind joined by a Gaussian copula: the simplest density of a mixed table that knows of dependence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.special import log_ndtr, ndtr, ndtri

__all__ = ["Margin", "copula_log_density", "fit_copula", "margin"]

DRAWS, FITTED, ROUNDS = 200, 1000, 12
"""Draws of a row's scores; rows and rounds of EM with which correlations of discrete columns are fitted."""

HIGHEST = 20_000
"""A count above this has no table of its cumulative probabilities."""

EDGE = 1e-12


class Margin(NamedTuple):
    """One column of rows under a distribution of its own: P(X < x), P(X <= x), and log p(x); [row] each.

    Of a continuous column the first two are the same.
    """

    below: Tensor
    upto: Tensor
    log_prob: Tensor
    discrete: bool


def margin(fn: Any, values: Tensor) -> Margin | None:
    """The margin of complete values [row] under a distribution of one number; None where it has no cumulative one.

    Example:
        >>> import pyro.distributions as dist
        >>> found = margin(dist.Bernoulli(0.25), torch.tensor([0.0, 1.0]))
        >>> found.below.round(decimals=6).tolist(), found.upto.round(decimals=6).tolist()
        ([0.0, 0.75], [0.75, 1.0])
    """
    log_prob = fn.log_prob(values).double()
    if fn.support.is_discrete:
        top = int(values.max())
        if top > HIGHEST or int(values.min()) < 0:
            return None
        each = fn.log_prob(torch.arange(top + 1, device=values.device).to(values.dtype)).double().exp()
        upto = each.cumsum(0).clamp(max=1.0)
        at = values.long()
        return Margin((upto[at] - each[at]).clamp(min=0.0), upto[at], log_prob, True)
    place = _cumulative(fn, values)
    return None if place is None else Margin(place, place, log_prob, False)


def _cumulative(fn: Any, values: Tensor) -> Tensor | None:
    import scipy.stats

    name, x = type(fn).__name__, values.double().cpu().numpy()
    known = {
        "Normal": lambda: scipy.stats.norm.cdf(x, fn.loc.item(), fn.scale.item()),
        "LogNormal": lambda: scipy.stats.lognorm.cdf(x, fn.scale.item(), scale=math.exp(fn.loc.item())),
        "Laplace": lambda: scipy.stats.laplace.cdf(x, fn.loc.item(), fn.scale.item()),
        "StudentT": lambda: scipy.stats.t.cdf(x, fn.df.item(), fn.loc.item(), fn.scale.item()),
        "Beta": lambda: scipy.stats.beta.cdf(x, fn.concentration1.item(), fn.concentration0.item()),
    }
    return torch.as_tensor(known[name](), device=values.device) if name in known else None


def fit_copula(columns: Sequence[Margin]) -> Tensor:
    """The correlation of the normal scores of rows, [column, column]: the likeliest one, of discrete columns by EM.

    Of continuous columns it is that of their scores. A discrete value stands for an interval of scores; its moments
    given the whole row come from the weighted draws of `_simulated`.

    Source: Song, Li & Zhang 2009, Statistica Sinica 19 (continuous and discrete); Keane 1994, Econometrica 62 (GHK).
    """
    columns = [m._replace(below=m.below[:FITTED], upto=m.upto[:FITTED]) for m in columns] if _any(columns) else columns
    generator = torch.Generator().manual_seed(0)
    v = torch.rand(len(columns), len(columns[0].below), generator=generator, dtype=torch.double)
    scores = torch.stack(
        [_score(m.below + u.to(m.below) * (m.upto - m.below)) for m, u in zip(columns, v, strict=True)]
    )
    found = _correlation(scores @ scores.T / scores.shape[1])
    for _ in range(ROUNDS if _any(columns) else 0):
        z, log_weight = _simulated(columns, found, 30, generator)
        weight = log_weight.softmax(0)
        found = _correlation(torch.einsum("kn,kni,knj->ij", weight, z, z) / z.shape[1])
    return found


def copula_log_density(columns: Sequence[Margin], correlation: Tensor) -> Tensor:
    """log p of rows, [row] nats: of their margins joined by the copula; with discrete columns by simulation (GHK).

    The estimate of p is unbiased, so that of log p is below it in expectation, by half of its relative variance.
    """
    generator = torch.Generator().manual_seed(1)
    draws = DRAWS if _any(columns) else 1
    total = sum((m.log_prob for m in columns if not m.discrete), start=torch.zeros_like(columns[0].log_prob))
    _, log_weight = _simulated(columns, correlation, draws, generator)
    return total + log_weight.logsumexp(0) - math.log(draws)


def _simulated(
    columns: Sequence[Margin], correlation: Tensor, draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Scores z [draw, row, column] of rows and their log weights [draw, row]: each column given the ones before.

    Continuous columns come first, whose scores are known: their part is the density of the scores over that of
    independent ones. A discrete one is drawn from the normal given the scores before, cut to its interval, whose
    probability is the weight.
    """
    order = sorted(range(len(columns)), key=lambda i: columns[i].discrete)
    root = torch.linalg.cholesky(correlation[order][:, order])
    rows = len(columns[0].below)
    z = correlation.new_zeros(draws, rows, len(columns))
    noise = correlation.new_zeros(draws, rows, len(columns))
    log_weight = correlation.new_zeros(draws, rows)
    for place, i in enumerate(order):
        one, scale = columns[i], root[place, place]
        centre = noise[..., :place] @ root[place, :place]
        if one.discrete:
            low, high = (_bound(edge) for edge in (one.below, one.upto))
            low, high = (low - centre) / scale, (high - centre) / scale
            part, drawn = _cut(low, high, generator)
            log_weight = log_weight + part
            noise[..., place] = drawn
            z[..., i] = centre + scale * drawn
        else:
            score = _score(one.upto)
            noise[..., place] = (score - centre) / scale
            log_weight = log_weight + (score.square() - noise[..., place].square()) / 2 - scale.log()
            z[..., i] = score
    return z, log_weight


def _cut(low: Tensor, high: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """log P(low < e < high) of a standard normal e, and a draw of it; worked on the side where it is small."""
    flip = low > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    less, more = log_ndtr(low), log_ndtr(high)
    mass = more + torch.log(-torch.expm1((less - more).clamp(max=-1e-300))).clamp(min=-700.0)
    u = torch.rand(low.shape, generator=generator, dtype=torch.double).to(low)
    drawn = ndtri((ndtr(low) + u * (ndtr(high) - ndtr(low))).clamp(EDGE, 1 - EDGE))
    drawn = torch.minimum(torch.maximum(drawn, low), high)
    return mass, torch.where(flip, -drawn, drawn)


def _bound(place: Tensor) -> Tensor:
    return ndtri(place).clamp(-40.0, 40.0)


def _score(place: Tensor) -> Tensor:
    return ndtri(place.clamp(EDGE, 1 - EDGE))


def _any(columns: Sequence[Margin]) -> bool:
    return any(m.discrete for m in columns)


def _correlation(covariance: Tensor) -> Tensor:
    """Scaled to a unit diagonal, with a thousandth of independence."""
    scale = covariance.diagonal().sqrt()
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return 0.999 * covariance / scale / scale.unsqueeze(-1) + 0.001 * eye
