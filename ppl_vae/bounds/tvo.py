"""The thermodynamic variational objective."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.bounds.base import Bound
from ppl_vae.errors import UserError, check_number, check_whole

__all__ = ["TVO"]


class TVO(Bound):
    """The thermodynamic objective: a left Riemann sum of E_{pi_t}[log w] over the path from q (t=0) to p (t=1).

    sum_s (t_{s+1} - t_s) sum_k softmax(t_s log w)_k log w_k. The integrand grows with t and its integral over
    [0, 1] is IWAE-K's estimate, so that the sum never exceeds it: a lower bound for every K, in nats per row.

    Args:
        partition: 0 = t_0 < t_1 < ... < 1, or the number of points, spaced evenly in the logarithm from 0.025.
        particles: draws per row, K.

    Raises:
        UserError: for points outside [0, 1) or not growing; for a pair with global latents.

    Source: Masrani et al. 2019, arXiv 1907.00031.

    Example:
        >>> TVO(4, particles=8).partition[0]
        0.0
    """

    discrete = "marginal"
    allows_global = False

    def __init__(self, partition: int | Sequence[float] = 5, particles: int = 16) -> None:
        super().__init__(particles)
        if isinstance(partition, str | bytes) or not isinstance(partition, Sequence):
            partition = check_whole("TVO: partition", partition)
            rest = torch.logspace(-1.6, 0, partition, dtype=torch.float64)[:-1].tolist()
            partition = [0.0, *rest]
        points = [check_number("TVO: a point of the partition", t) for t in partition]
        if not points or points[0] != 0.0 or any(b <= a for a, b in zip(points, [*points[1:], 1.0], strict=True)):
            raise UserError(f"TVO: partition must start at 0, grow, and stay below 1, got {points}")
        self.partition = tuple(points)

    def of(self, log_w: Tensor) -> Tensor:
        """The left Riemann sum, from 0 to 1."""
        total = torch.zeros_like(log_w[0])
        for left, right in zip(self.partition, (*self.partition[1:], 1.0), strict=True):
            total = total + (right - left) * ((left * log_w).softmax(0) * log_w).sum(0)
        return total
