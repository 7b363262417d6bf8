"""The importance-weighted bound."""

from __future__ import annotations

import math

from torch import Tensor

from ppl_vae.bounds.base import Bound
from ppl_vae.programs.gradients import Estimator

__all__ = ["IWAE", "log_mean_exp"]


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """log of the mean of exp(log_w) along a dim, without overflow.

    Example:
        >>> import torch
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
        estimator: "dreg" is doubly reparameterised (Tucker et al. 2019, arXiv 1810.04152): unbiased, and its
            signal does not drown in noise as K grows.

    Raises:
        UserError: if particles is less than 1; for a pair with global latents, which no weight per row can hold.

    Source: Burda et al. 2016, arXiv 1509.00519.

    Example:
        >>> IWAE(16).particles
        16
    """

    discrete = "marginal"
    allows_global = False
    estimators = ("reparameterised", "dreg")

    def __init__(self, particles: int = 16, *, estimator: Estimator = "reparameterised") -> None:
        super().__init__(particles, estimator=estimator)

    def of(self, log_w: Tensor) -> Tensor:
        """log-mean-exp over particles."""
        return log_mean_exp(log_w)

    def path_factor(self, log_w: Tensor) -> Tensor:
        """DReG: the normalised weight once more."""
        return log_w.softmax(0)
