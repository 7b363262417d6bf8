"""The importance-weighted bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae.bounds.base import Bound
from ppl_vae.errors import UserError
from ppl_vae.structure import Structure
from ppl_vae.weights import LogWeights

__all__ = ["IWAE", "log_mean_exp"]


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """log of the mean of exp(log_w) along a dim, without overflow.

    Example:
        >>> log_mean_exp(torch.zeros(5, 3))
        tensor([0., 0., 0.])
    """
    return log_w.logsumexp(dim) - math.log(log_w.shape[dim])


class IWAE(Bound):
    """The importance-weighted bound, E[log (1/K) sum_k p(x, z_k) / q(z_k | x)] <= log p(x), in nats per row.

    It grows with K towards the evidence. The logarithm is taken row by row, and N / B stands outside of it, so
    that it stays a bound under minibatches. Discrete latents with finite support are summed out inside each
    weight; their classifier in the guide then cancels and gets no gradient from this bound. Sites without a
    reparameterised sampler get the VIMCO gradient (Mnih & Rezende 2016, arXiv 1602.06725).

    Args:
        particles: draws per row, K.

    Raises:
        UserError: if particles is less than 1; for a pair with global latents, which no weight per row can hold.

    Source: Burda et al. 2016, arXiv 1509.00519.

    Example:
        >>> IWAE(16).particles
        16
    """

    discrete = "marginal"
    allows_global = False

    def __init__(self, particles: int = 16) -> None:
        super().__init__(particles)

    def refuse(self, structure: Structure) -> None:
        """Besides what every bound refuses: VIMCO compares particles, so it needs two."""
        super().refuse(structure)
        if structure.scored and self.particles < 2:
            sites = ", ".join(sorted(structure.scored))
            raise UserError(f"IWAE with the sampled discrete latent {sites} needs at least 2 particles (VIMCO)")

    def reduce(self, weights: LogWeights, beta: float | Tensor = 1.0) -> Tensor:
        """log-mean-exp over particles."""
        return log_mean_exp(weights.tempered(beta))

    def surrogate(self, weights: LogWeights, beta: float | Tensor = 1.0) -> Tensor:
        """The bound, plus the VIMCO term of sites that cannot be reparameterised."""
        log_w = weights.tempered(beta)
        bound = log_mean_exp(log_w)
        if weights.score is None:
            return bound
        signal = (bound - _without_each(log_w)).detach()
        return bound + (signal * (weights.score - weights.score.detach())).sum(0)


def _without_each(log_w: Tensor) -> Tensor:
    """The bound with particle k replaced by the geometric mean of the others: [particle, row]."""
    k = len(log_w)
    others = (log_w.sum(0) - log_w) / (k - 1)
    own = torch.eye(k, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    return log_mean_exp(torch.where(own, others.unsqueeze(1), log_w.unsqueeze(0)), dim=1)
