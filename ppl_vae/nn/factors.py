"""The linear-Gaussian model of a table: where a network for a table starts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ROWS", "FactorAnalysis", "factor_analysis"]

STEPS, ROUNDS = 300, 20
ROWS, WIDEST = 2000, 60
"""So many rows are enough for a start; of more columns missing entries are taken for their mean."""

SHRUNK = 0.1
"""As if there were so much of a further row in which columns are independent."""

LEAST = 1e-4
"""The least noise, of a variance of 1."""


class FactorAnalysis(NamedTuple):
    """x = mean + W z + noise, z ~ N(0, I): columns [F], W [F, d], noise deviations [F]; of the rows E[z | x] and sd."""

    mean: Tensor
    loadings: Tensor
    noise: Tensor
    codes: Tensor
    spread: Tensor


def factor_analysis(rows: Tensor, factors: int) -> FactorAnalysis:
    """Factor analysis: the likeliest W and noise of rows [n, F], NaN where missing.

    W is turned so that the factors of a complete row are independent given the row: W' noise^-2 W is diagonal,
    and a mean-field posterior is the exact one. With as many factors as columns, which are more than they can tell
    apart, half of what is a column's own may have a factor: the density is the same. Further ones have no loadings.

    Source: Barber 2012, Bayesian Reasoning and Machine Learning, 21.2.

    Example:
        >>> z = torch.randn(500, 1, generator=torch.manual_seed(0))
        >>> x = z @ torch.tensor([[1.0, -2.0, 3.0]]) + 0.5 * torch.randn(500, 3, generator=torch.manual_seed(1))
        >>> found = factor_analysis(x, 1)
        >>> torch.allclose(found.loadings[:, 0].abs(), torch.tensor([1.0, 2.0, 3.0]), atol=0.15)
        True
        >>> torch.allclose(found.noise, torch.tensor(0.5), atol=0.15)
        True
    """
    kind, rows = rows.dtype, rows[:ROWS].double()
    seen = ~rows.isnan()
    mean = rows.nanmean(0).nan_to_num()
    unit = (rows - mean).square().nanmean(0).nan_to_num().sqrt()
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    x = ((rows - mean) / unit).nan_to_num()
    found = min(factors, x.shape[1])
    weights, noise = _fitted(_covariance(x, seen), found)
    scaled = weights / noise.unsqueeze(-1)
    if bool(seen.all()):
        precision = (1 + (scaled * weights).sum(0)).expand(len(x), found)
        z = (x @ scaled) / precision
    else:
        each = torch.einsum("nf,fij->nij", seen.to(x.dtype), scaled.unsqueeze(-1) * weights.unsqueeze(-2))
        posterior = torch.linalg.inv(torch.eye(found, dtype=x.dtype, device=x.device) + each)
        z, precision = (posterior @ (x @ scaled).unsqueeze(-1)).squeeze(-1), 1 / posterior.diagonal(dim1=-2, dim2=-1)
    spread = precision.rsqrt()
    wide = x.new_zeros(x.shape[1], factors)
    wide[:, :found] = weights * unit.unsqueeze(-1)
    codes, spreads = x.new_zeros(len(x), factors), x.new_ones(len(x), factors)
    codes[:, :found], spreads[:, :found] = z, spread
    return FactorAnalysis(*(each.to(kind) for each in (mean, wide, noise.sqrt() * unit, codes, spreads)))


def _covariance(x: Tensor, seen: Tensor) -> Tensor:
    """The covariance of standardised rows, by EM where entries are missing; x is 0 there."""
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    found = (x.T @ x + SHRUNK * eye) / (len(x) + SHRUNK)
    if bool(seen.all()) or x.shape[1] > WIDEST:
        return found
    blind = torch.diag_embed(1e6 * (~seen).to(x.dtype))  # a missing entry is one that was seen with much noise
    for _ in range(ROUNDS):
        gain = found @ torch.linalg.inv(found + blind)
        filled = (gain @ x.unsqueeze(-1)).squeeze(-1)
        left = (found - gain @ found).sum(0)
        found = (filled.T @ filled + left + SHRUNK * eye) / (len(x) + SHRUNK)
    return found


def _fitted(covariance: Tensor, factors: int) -> tuple[Tensor, Tensor]:
    """Loadings [F, d], turned so that W' noise^-1 W is diagonal, and noise variances [F]."""
    noise = (0.5 / torch.linalg.inv(covariance).diagonal()).clamp(min=LEAST)
    for _ in range(STEPS):
        root = noise.sqrt()
        values, vectors = torch.linalg.eigh(covariance / root / root.unsqueeze(-1))
        values, vectors = values[-factors:].flip(0), vectors[:, -factors:].flip(1)
        weights = root.unsqueeze(-1) * vectors * (values - 1).clamp(min=0).sqrt()
        new = (covariance.diagonal() - weights.square().sum(1)).clamp(min=LEAST)
        if bool(((new - noise).abs() < 1e-4 * noise).all()):
            break
        noise = new
    return weights, noise
