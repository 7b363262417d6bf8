"""Latents that are uncorrelated over rows, with variance 1."""

from __future__ import annotations

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.distributions import unwrapped
from ppl_vae.errors import UserError, check_number, check_whole
from ppl_vae.schedules.annealing import Cyclical, WarmUp, like
from ppl_vae.schedules.objectives import Latents, Objective, Seen, Shaped
from ppl_vae.weights.log_weights import LogWeights
from ppl_vae.weights.marginals import elementwise, points

__all__ = ["DIP"]


@dataclass(frozen=True)
class DIP(Objective):
    """DIP-VAE: the covariance of the latents over rows is drawn to the identity, as that of their prior N(0, I) is.

    Maximises ELBO(beta) - off sum_{i != j} C_ij^2 - diagonal sum_i (C_ii - 1)^2, where C is, over the rows of a batch,
    the covariance of the means E[z | x] (kind 1), or of z itself, Cov(E[z | x]) + E Cov(z | x) (kind 2). The square of
    a covariance of few rows is too large on average, by about the variance of the covariance.

    Args:
        off: weight of the covariances.
        kind: of what the covariance is.
        diagonal: weight of the variances; 10 off for kind 1, off for kind 2 unless given.
        beta: weight of the KL, a number or a warm-up.

    Raises:
        UserError: when training begins, with a bound other than `ELBO()` of one particle, a prior other than N(0, I),
            or a guide whose means are not known.

    Source: Kumar et al. 2018, arXiv 1711.00848.

    Example:
        >>> DIP(kind=1).weights, DIP(off=5.0, kind=2).weights
        ((10.0, 100.0), (5.0, 5.0))
    """

    off: float = 10.0
    kind: int = 2
    diagonal: float | None = None
    beta: float | WarmUp | Cyclical = 1.0

    def __post_init__(self) -> None:
        self._check("off")
        kind = check_whole("DIP: kind", self.kind, 1)
        if kind > 2:
            raise UserError(f"DIP: kind must be 1 (of means) or 2 (of latents), got {kind}")
        object.__setattr__(self, "kind", kind)
        if self.diagonal is not None:
            object.__setattr__(self, "diagonal", check_number("DIP: diagonal", self.diagonal))

    @property
    def weights(self) -> tuple[float, float]:
        """Of covariances, and of variances."""
        usual = self.off * (10 if self.kind == 1 else 1)
        return self.off, usual if self.diagonal is None else self.diagonal

    def _begin(self, latents: Latents, rows: int) -> Shaped:
        for name in latents.names:
            prior = elementwise(latents.model[name]["fn"])
            known = isinstance(prior, dist.Normal)
            if not known or bool((prior.loc != 0).any()) or bool((prior.scale != 1).any()):
                raise UserError(f"DIP draws covariances to those of N(0, I), which is not the prior of site {name!r}")
        self._covariance(latents)
        return Shaped(self._value, rows)

    def _value(self, weights: LogWeights, latents: Latents, beta: float | Tensor, rows: int) -> Seen:
        covariance = self._covariance(latents)
        variances = covariance.diagonal()
        off, diagonal = self.weights
        between = (covariance - variances.diag_embed()).square().sum()
        penalty = off * between + diagonal * (variances - 1).square().sum()
        rate = weights.rate.mean()
        return Seen(weights.log_likelihood.mean() - like(beta, rate) * rate - penalty)

    def _covariance(self, latents: Latents) -> Tensor:
        """Over the rows of the batch, [entry, entry]."""
        found = [_moments(latents, name, self.kind == 2) for name in latents.names]
        means = torch.cat([mean for mean, _ in found], 1)
        about = means - means.mean(0)
        within = torch.block_diag(*(inside for _, inside in found))
        return about.T @ about / len(means) + within


def _moments(latents: Latents, name: str, whole: bool) -> tuple[Tensor, Tensor]:
    """The posterior means of a site [row, entry], and its mean posterior covariance (or none of it)."""
    site, (rows, size) = latents.guide[name], latents.values[name].shape
    fn = unwrapped(site["fn"])
    joint = isinstance(fn, dist.MultivariateNormal | dist.LowRankMultivariateNormal)
    try:
        mean, variance = (points(latents.structure, {**site, "value": v}).flatten(1) for v in (fn.mean, fn.variance))
    except (NotImplementedError, AttributeError) as error:
        raise UserError(
            f"DIP needs the means of site {name!r}, which a {type(fn).__name__} does not know: use mean_field"
        ) from error
    if not whole:
        return mean, mean.new_zeros(size, size)
    if not joint:
        return mean, variance.mean(0).diag_embed()
    if fn.covariance_matrix.numel() != rows * size * size:
        raise UserError(f"DIP expects one vector of every row at site {name!r}, got several with a covariance each")
    return mean, fn.covariance_matrix.reshape(rows, size, size).mean(0)
