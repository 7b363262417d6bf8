"""Pareto smoothed importance sampling: how heavy the tail of a row's importance weights is, and weights without it.

Rows are fitted together: a generalised Pareto distribution over the largest weights of each, in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.errors import UserError

__all__ = ["FEWEST", "khat", "khat_limit", "smooth", "tail_khat", "tail_size"]

FEWEST = 25
"""With fewer particles the largest fifth is less than five weights, to which no tail can be fitted."""

AT_ONCE = 2**22
"""How many numbers the fit of some rows may hold."""

_PRIOR_K, _PRIOR_B = 10, 3
_SMALLEST = math.log(torch.finfo(torch.float64).tiny)
_ROUNDING = 8


def khat(log_weights: Float[Tensor, "particle row"]) -> Float[Tensor, " row"]:
    """The tail index k of the importance weights of each row: how far its guide can be trusted.

    The weights above a threshold are fitted by a generalised Pareto distribution, p(y) = (1 + k y / s)^(-1/k - 1) / s.
    Moments of order below 1/k are finite: with k > 0.5 the variance of the weights is infinite, with k > 1 their mean.
    The guide of a row is trusted where k is below `khat_limit`. nan with fewer than 25 particles, inf where
    fewer than five weights do not vanish beside the largest, 0 where the weights are one number up to rounding.

    Raises:
        UserError: for log weights that are not [particle, row].

    Source: Vehtari et al. 2024, arXiv 1507.02646; fit: Zhang and Stephens 2009.

    Example:
        >>> u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
        >>> [round(k, 1) for k in khat(torch.stack([-0.7 * u.log(), -0.3 * u.log()], 1)).tolist()]
        [0.7, 0.3]
    """
    _check(log_weights)
    particles = len(log_weights)
    tail = log_weights.topk(min(tail_size(particles) + 1, particles), 0).values
    return tail_khat(tail, particles)


def khat_limit(particles: int) -> float:
    """The largest k-hat at which estimates from so many particles can be believed: min(1 - 1 / log10 S, 0.7).

    Source: Vehtari et al. 2024, arXiv 1507.02646, section 3.2.

    Example:
        >>> round(khat_limit(100), 2), khat_limit(5000)
        (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(particles), 0.7) if particles > 1 else -math.inf


def smooth(log_weights: Float[Tensor, "particle row"]) -> Float[Tensor, "particle row"]:
    """Log weights whose largest are replaced by the quantiles of the fitted tail, cut at the largest raw one.

    They are not normalised. Rows to which no tail can be fitted keep their weights.

    Raises:
        UserError: for log weights that are not [particle, row].

    Source: Vehtari et al. 2024, arXiv 1507.02646.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> w = 3 * torch.randn(1000, 1)
        >>> bool(smooth(w).max() <= w.max()), bool((smooth(w) != w).sum() == 95)
        (True, True)
    """
    _check(log_weights)
    particles = len(log_weights)
    found, order = log_weights.topk(min(tail_size(particles) + 1, particles), 0)
    tail = _tail(found, particles)
    for size in _sizes(tail):
        rows = (tail.size == size).nonzero().squeeze(1)
        fit = _fit(tail.excess[:size, rows])
        share = 1 - (torch.arange(size, dtype=torch.float64, device=found.device) + 0.5) / size
        quantiles = fit.scale * _quantile(share[:, None], fit.k)
        logs = (quantiles + tail.cut[rows].exp()).log().clamp(max=0)
        smoothed = (logs + found[0, rows]).to(found.dtype)
        found[:size, rows] = torch.where(torch.isfinite(logs), smoothed, found[:size, rows])
    return log_weights.scatter(0, order, found)


def tail_size(particles: int) -> int:
    """How many of the weights are the tail: min(S / 5, 3 sqrt S), rounded up."""
    return math.ceil(min(particles / 5, 3 * math.sqrt(particles)))


def tail_khat(largest: Float[Tensor, "tail row"], particles: int) -> Float[Tensor, " row"]:
    """`khat` from the `tail_size` + 1 largest of so many log weights alone, largest first."""
    result = torch.full(largest.shape[1:], math.nan, dtype=torch.float64, device=largest.device)
    if particles >= FEWEST:
        tail = _tail(largest, particles)
        result = torch.where(_equal(largest), 0.0, math.inf).to(result)
        for size in _sizes(tail):
            rows = (tail.size == size).nonzero().squeeze(1)
            step = max(1, AT_ONCE // (size * _grid(size)))
            for some in rows.split(step):
                result[some] = _fit(tail.excess[:size, some]).k
    return result.to(largest.dtype)


class _Tail(NamedTuple):
    """Beside the largest weight of a row, which is 1: excesses over the cut [tail, row], their number, the log cut."""

    excess: Tensor
    size: Tensor
    cut: Tensor


class _Fit(NamedTuple):
    k: Tensor
    scale: Tensor


def _check(log_weights: Tensor) -> None:
    if log_weights.dim() != 2 or not len(log_weights):
        raise UserError(
            f"log weights are expected as [particle, row], got shape {tuple(log_weights.shape)}: k-hat is a number of "
            "each row, that of a sum over rows means nothing"
        )


def _tail(largest: Tensor, particles: int) -> _Tail:
    """The tail of each row; what equals the cut is not in it, so rows with ties have shorter tails."""
    # beside the largest weight all are in [0, 1]: k does not change with the unit, and nothing overflows
    logs = largest.to(torch.float64) - largest[0]
    cut = logs[-1].clamp(min=_SMALLEST)
    inside = (logs[:-1] > cut) & ~_equal(largest)
    size = inside.sum(0) if particles >= FEWEST else torch.zeros_like(cut, dtype=torch.long)
    return _Tail((logs[:-1].exp() - cut.exp()).where(inside, 0.0), size, cut)


def _equal(largest: Tensor) -> Tensor:
    """Where the weights of the tail differ by no more than the rounding of sums that they come from, [row]."""
    rounding = _ROUNDING * torch.finfo(largest.dtype).eps * largest[0].abs().clamp(min=1)
    return largest[0] - largest[-1] <= rounding


def _sizes(tail: _Tail) -> list[int]:
    """How long tails are: one number, but where weights are equal or vanish."""
    return [size for size in tail.size.unique().tolist() if size > 4]


def _grid(size: int) -> int:
    return 30 + int(math.sqrt(size))


def _fit(excess: Tensor) -> _Fit:
    """Shape k and scale s of a generalised Pareto distribution, 1 - F(x) = (1 + k x / s)^(-1 / k), [row].

    `excess` [tail, row] falls. In theta = -k / s the likelihood has its maximum over k in closed form, k(theta) = mean
    log(1 - theta x), which leaves one dimension: theta's posterior mean is a sum over a grid that the data choose.

    Source: Zhang & Stephens 2009, Technometrics 51(3), with the sign of k turned; the prior of k is that of Vehtari et
    al. 2024, arXiv 1507.02646.
    """
    n, m = len(excess), _grid(len(excess))
    largest, quartile = excess[0], excess[n - int(n / 4 + 0.5)]  # of rising values the first quartile
    # theta < 1 / largest, or the largest excess would be impossible; the prior is spread by the quartile
    j = torch.arange(1, m + 1, dtype=excess.dtype, device=excess.device)[:, None]
    theta = (1 - (m / (j - 0.5)).sqrt()) / (_PRIOR_B * quartile) + 1 / largest  # [grid, row]
    k = torch.log1p(-theta[:, None] * excess).mean(1)
    profile = n * ((-theta / k).log() - k - 1)  # log likelihood at the best k, nats
    posterior = profile.softmax(0)
    posterior = posterior.where(posterior >= 10 * torch.finfo(posterior.dtype).eps, 0.0)
    # where: a point of no weight may have no finite theta, and 0 * inf is nan
    mean = (posterior / posterior.sum(0) * theta.where(posterior > 0, 0.0)).sum(0)
    k = torch.log1p(-mean * excess).mean(0)
    shrunk = (n * k + _PRIOR_K / 2) / (n + _PRIOR_K)  # as if _PRIOR_K more excesses had spoken for k = 1/2
    return _Fit(shrunk, -k / mean)


def _quantile(share: Tensor, k: Tensor) -> Tensor:
    """F^-1(share) for scale 1: ((1 - share)^-k - 1) / k; at k = 0 that of an exponential distribution."""
    exponential = -torch.log1p(-share)
    return torch.where(k.abs() < 1e-12, exponential, torch.expm1(k * exponential) / k)
