"""Renyi's alpha bound."""

from __future__ import annotations

import math
from numbers import Real

from torch import Tensor

from ppl_vae.bounds.base import Bound
from ppl_vae.bounds.iwae import log_mean_exp
from ppl_vae.errors import UserError, shown

__all__ = ["Renyi"]


class Renyi(Bound):
    """The variational Renyi bound, E[1 / (1 - alpha) log (1/K) sum_k w_k^(1 - alpha)], in nats per row.

    alpha = 0 is IWAE, alpha -> 1 the ELBO, larger alpha lies below it. As a power mean of the same weights its
    estimate never exceeds IWAE's, so for alpha >= 0 it is a lower bound for every K; below 0 it would not be,
    which is refused.

    Args:
        alpha: the order, at least 0 and not 1.
        particles: draws per row, K.

    Raises:
        UserError: for other orders; for a pair with global latents.

    Source: Li & Turner 2016, arXiv 1602.02311.

    Example:
        >>> Renyi(0.5, particles=8).alpha
        0.5
    """

    discrete = "marginal"
    allows_global = False

    def __init__(self, alpha: float = 0.5, particles: int = 16) -> None:
        super().__init__(particles)
        if not isinstance(alpha, Real) or isinstance(alpha, bool) or not 0 <= alpha < math.inf or alpha == 1:
            raise UserError(
                f"Renyi: alpha must be at least 0 (below, the estimate is no lower bound: use CUBO for an upper "
                f"one), finite and not 1 (use ELBO), got {shown(alpha)}"
            )
        self.alpha: float = float(alpha)

    def of(self, log_w: Tensor) -> Tensor:
        """log of the power mean of order 1 - alpha."""
        return log_mean_exp((1 - self.alpha) * log_w) / (1 - self.alpha)
