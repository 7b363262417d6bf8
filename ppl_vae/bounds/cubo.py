"""The chi upper bound."""

from __future__ import annotations

from torch import Tensor

from ppl_vae.bounds.base import Bound
from ppl_vae.bounds.iwae import log_mean_exp
from ppl_vae.errors import UserError, check_number
from ppl_vae.weights.log_weights import LogWeights

__all__ = ["CUBO"]


class CUBO(Bound):
    """The chi upper bound, (1/n) log E_q[w^n] >= log p(x), in nats per row.

    Its estimate from K draws, (1/n) log (1/K) sum_k w_k^n, lies below it in expectation and above IWAE-K draw by
    draw, and grows with K: with heavy-tailed weights it may still lie below the evidence. It serves to bracket
    the evidence and trains nothing: what minimises the estimate is a guide so narrow that no draw meets a large
    weight.

    Args:
        n: the order, greater than 1.
        particles: draws per row, K.

    Raises:
        UserError: for n <= 1 or particles < 1; for a pair with global latents; when a gradient is asked for.

    Source: Dieng et al. 2017, arXiv 1611.00328.

    Example:
        >>> CUBO(particles=8).is_upper
        True
    """

    discrete = "marginal"
    allows_global = False
    is_upper = True

    def __init__(self, n: float = 2.0, particles: int = 64) -> None:
        super().__init__(particles)
        self.n = check_number("CUBO: n", n)
        if not self.n > 1:
            raise UserError(f"CUBO: n must be greater than 1, got {n}")

    def of(self, log_w: Tensor) -> Tensor:
        """log of the power mean of order n."""
        return log_mean_exp(self.n * log_w) / self.n

    def surrogate(self, weights: LogWeights, beta: float | Tensor = 1.0) -> Tensor:
        """Refused."""
        raise UserError(
            "CUBO is an upper bound and trains nothing (its estimate is smallest for a guide that misses the "
            "posterior): train with ELBO or IWAE, and compare with CUBO afterwards"
        )
