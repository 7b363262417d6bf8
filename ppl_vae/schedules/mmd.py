"""The aggregate posterior drawn to the prior by their maximum mean discrepancy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.schedules.annealing import Cyclical, WarmUp, like
from ppl_vae.schedules.objectives import Latents, Objective, Seen, Shaped
from ppl_vae.weights.log_weights import LogWeights
from ppl_vae.weights.marginals import points

__all__ = ["MMD", "squared_discrepancy"]


@dataclass(frozen=True)
class MMD(Objective):
    """InfoVAE: latents that may say much of a row, while those of all rows together look like the prior.

    Maximises ELBO(beta) - weight MMD^2(q(z), p(z)), of one draw of q(z | x) for each row of the batch and as many
    draws of the prior, with the kernel exp(-|a - b|^2 / (2 h)), h half of the mean squared distance between draws of
    the prior; the estimate is unbiased. With beta = 0 this is the MMD-VAE, beta = 1 - alpha of the paper.

    Args:
        weight: of the discrepancy, which is below 2.
        beta: weight of the KL of single rows, a number or a warm-up.

    Raises:
        UserError: when training begins, with a bound other than `ELBO()` of one particle, or discrete latents.

    Source: Zhao et al. 2019, arXiv 1706.02262.

    Example:
        >>> MMD(weight=100.0, beta=0.0)(3)
        0.0
    """

    weight: float = 100.0
    beta: float | WarmUp | Cyclical = 1.0

    def __post_init__(self) -> None:
        self._check("weight")

    def _begin(self, latents: Latents, rows: int) -> Shaped:
        return Shaped(self._value, rows)

    def _value(self, weights: LogWeights, latents: Latents, beta: float | Tensor, rows: int) -> Seen:
        with torch.no_grad():
            priors = [{**latents.model[n], "value": latents.model[n]["fn"].sample()} for n in latents.names]
            prior = torch.cat([points(latents.structure, site).flatten(1) for site in priors], 1)
        rate = weights.rate.mean()
        apart = squared_discrepancy(latents.joined, prior)
        return Seen(weights.log_likelihood.mean() - like(beta, rate) * rate - self.weight * apart)


def squared_discrepancy(draws: Tensor, prior: Tensor) -> Tensor:
    """The unbiased estimate of MMD^2 between draws [row, entry] and as many of the prior.

    Example:
        >>> both = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0))
        >>> [bool(squared_discrepancy(both[0] + shift, both[1]) > 0.1) for shift in (0, 2)]
        [False, True]
    """
    count = len(draws)
    if count < 2:
        return draws.new_zeros(())
    others = 1 - torch.eye(count, dtype=draws.dtype, device=draws.device)

    def distances(one: Tensor, other: Tensor) -> Tensor:
        return (one.unsqueeze(1) - other.unsqueeze(0)).square().sum(2)

    between = distances(prior, prior)
    pairs = count * (count - 1)
    width = (between * others).sum() / pairs  # 2 h

    def kernel(squares: Tensor) -> Tensor:
        return (-squares / width).exp()

    alike = ((kernel(distances(draws, draws)) + kernel(between)) * others).sum() / pairs
    found: Tensor = alike - 2 * kernel(distances(draws, prior)).mean()
    return found
