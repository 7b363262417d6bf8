"""Bounds between ELBO and IWAE: MIWAE, PIWAE and CIWAE.

Source of all three: Rainforth et al. 2018, arXiv 1802.04537.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ppl_vae.bounds.base import Bound
from ppl_vae.bounds.iwae import log_mean_exp
from ppl_vae.errors import UserError, check_number, check_whole
from ppl_vae.programs.gradients import Estimator, PathScale
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.log_weights import LogWeights

__all__ = ["CIWAE", "MIWAE", "PIWAE"]


class MIWAE(Bound):
    """The mean of M importance-weighted bounds of K particles each, (1/M) sum_m log (1/K) sum_k w_mk.

    Its expectation is that of IWAE-K; M lowers the variance of its gradient. In nats per row.

    Args:
        m: number of groups, M.
        particles: draws in each group, K.
        estimator: "dreg" is doubly reparameterised within each group.

    Raises:
        UserError: if m or particles is less than 1; for a pair with global latents.

    Source: Rainforth et al. 2018, arXiv 1802.04537.

    Example:
        >>> MIWAE(4, 8).particles
        32
    """

    discrete = "marginal"
    allows_global = False
    estimators: ClassVar[tuple[Estimator, ...]] = ("reparameterised", "dreg")

    def __init__(self, m: int = 8, particles: int = 8, *, estimator: Estimator = "reparameterised") -> None:
        self.m, name = check_whole(f"{type(self).__name__}: m", m), type(self).__name__
        super().__init__(self.m * check_whole(f"{name}: particles", particles), estimator=estimator)

    def of(self, log_w: Tensor) -> Tensor:
        """Mean over groups of log-mean-exp within them."""
        return log_mean_exp(log_w.unflatten(0, (self.m, -1)), dim=1).mean(0)

    def path_factor(self, log_w: Tensor) -> Tensor:
        """DReG within each group."""
        return log_w.unflatten(0, (self.m, -1)).softmax(1).flatten(0, 1)


class PIWAE(MIWAE):
    """Partially importance weighted: the model is trained by IWAE-(M K), the guide by MIWAE(M, K).

    The value is that of IWAE with M K particles, in nats per row.

    Args:
        m: number of groups for the guide, M.
        particles: draws in each group, K.

    Raises:
        UserError: if m or particles is less than 1; for a pair with global latents, or with sampled discrete
            latents.

    Source: Rainforth et al. 2018, arXiv 1802.04537.

    Example:
        >>> PIWAE(8, 8).particles
        64
    """

    estimators: ClassVar[tuple[Estimator, ...]] = ("reparameterised",)

    def __init__(self, m: int = 8, particles: int = 8) -> None:
        super().__init__(m, particles)

    def refuse(self, structure: Structure) -> None:
        """Besides the usual: the two objectives are told apart by the paths through draws."""
        super().refuse(structure)
        sites = structure.scored | structure.summed_guide
        if sites:
            raise UserError(
                f"PIWAE trains the guide through its draws, but {', '.join(sorted(sites))} is discrete: use MIWAE"
            )
        if not structure.broadcasts:
            raise UserError("PIWAE needs programs that broadcast over particles: write them with ... indexing")

    def of(self, log_w: Tensor) -> Tensor:
        """IWAE of all particles."""
        return log_mean_exp(log_w)

    def _path(self, structure: Structure) -> PathScale:
        return PathScale(structure, self.particles)

    def surrogate(self, weights: LogWeights, beta: float | Tensor = 1.0) -> Tensor:
        """The model's gradient weighs particles over all groups, the guide's within each group."""
        log_w = weights.tempered(beta)
        value = log_w.detach()
        guide = super().path_factor(value) / self.m
        # The path into the draws starts with the model's weight, which may underflow; a millionth of the guide's
        # keeps the ratio finite and the guide's gradient exact, at a millionth of error in the model's.
        model = torch.maximum(value.softmax(0), 1e-6 * guide)
        if weights.path is not None:
            weights.path.factor = guide / model
        joint = weights.log_likelihood + beta * weights.log_prior
        moving = (model * joint - guide * beta * weights.log_guide).sum(0)
        return self.of(value) + moving - moving.detach()


class CIWAE(Bound):
    """A convex combination, beta ELBO + (1 - beta) IWAE-K, in nats per row.

    Args:
        beta: weight of the ELBO, in [0, 1].
        particles: draws per row, K, for both.

    Raises:
        UserError: for beta outside [0, 1] or particles < 1; for a pair with global latents.

    Source: Rainforth et al. 2018, arXiv 1802.04537.

    Example:
        >>> CIWAE(0.5, 8).of(torch.zeros(8, 2))
        tensor([0., 0.])
    """

    discrete = "marginal"
    allows_global = False

    def __init__(self, beta: float = 0.5, particles: int = 16) -> None:
        super().__init__(particles)
        self.beta = check_number("CIWAE: beta", beta)
        if not self.beta <= 1:
            raise UserError(f"CIWAE: beta must be between 0 (IWAE) and 1 (ELBO), got {beta}")

    def of(self, log_w: Tensor) -> Tensor:
        """The combination of the mean and the log-mean-exp."""
        return self.beta * log_w.mean(0) + (1 - self.beta) * log_mean_exp(log_w)
