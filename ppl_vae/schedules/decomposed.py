"""The KL in three parts: what latents say about the row, what they say about each other, and how far each is off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.schedules.annealing import Cyclical, WarmUp, like
from ppl_vae.schedules.objectives import Latents, Objective, Seen, Shaped, check_between
from ppl_vae.weights.log_weights import LogWeights

__all__ = ["Decomposed", "aggregate_log_density"]


@dataclass(frozen=True)
class Decomposed(Objective):
    """beta-TCVAE: the three parts of the KL have a weight each, and the ELBO has 1 for all of them.

    KL(q(z | x) || p(z)), averaged over rows, is

        I(x; z) + KL(q(z) || prod_d q(z_d)) + KL(prod_d q(z_d) || p(z)),

    mutual information, total correlation and what single latents are off their prior; maximised is
    E[log p(x | z)] - beta (mi I + tc TC + dim D). `beta` may warm up.

    q(z) is estimated from the batch: a row's own posterior has the weight 1 / N, of N training rows, and the B - 1
    others share the rest. That is the minibatch-stratified estimate, averaged over which row stands for the others; it
    is unbiased for q(z), and its logarithm is too low (Jensen), the more so the more latents are taken together. So the
    parts are biased: I is told too high, TC too low, both less so for larger batches; with all rows in the batch there
    is no bias. With weights (1, 1, 1) the parts add up to the KL again, whatever the batch.

    Args:
        tc: weight of the total correlation; 6 is usual.
        mi, dim: weights of the other two.
        beta: a factor of all, a number or a warm-up.
        between: total correlation between "entries" of all latents, or between "sites": which keeps shared and private
            latents apart and leaves the entries of a site alone.

    Raises:
        UserError: when training begins, with a bound other than `ELBO()` of one particle, or for latents whose
            q(z) cannot be known from the batch: discrete ones, those that depend on others in the guide.

    Source: Chen et al. 2018, arXiv 1802.04942.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> model = VAE(data, latent_dim=4)
        >>> result = ppl_vae.fit(model, MeanField(model), data, beta=Decomposed(tc=6), epochs=1)
        >>> [name for name in result.history[0] if name.endswith(("information", "correlation"))]
        ['mutual_information', 'total_correlation']
    """

    tc: float = 6.0
    mi: float = 1.0
    dim: float = 1.0
    beta: float | WarmUp | Cyclical = 1.0
    between: Literal["entries", "sites"] = "entries"

    def __post_init__(self) -> None:
        self._check("tc", "mi", "dim")
        check_between("Decomposed", self.between)

    def _begin(self, latents: Latents, rows: int) -> Shaped:
        shaped = Shaped(self._value, rows)
        self._parts(latents, rows)  # what cannot be had is refused now
        return shaped

    def _value(self, weights: LogWeights, latents: Latents, beta: float | Tensor, rows: int) -> Seen:
        information, correlation, dimensions = (part.mean() for part in self._parts(latents, rows))
        weighed = self.mi * information + self.tc * correlation + self.dim * dimensions
        objective = weights.log_likelihood.mean() - like(beta, weighed) * weighed
        return Seen(objective, information.detach(), correlation.detach(), dimensions.detach())

    def _parts(self, latents: Latents, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of one draw of each row, [row]."""
        by_site = torch.stack([*latents.log_joint().values()], 2)
        joint = by_site.sum(2)
        each = by_site if self.between == "sites" else latents.log_entries()
        together = aggregate_log_density(joint.unsqueeze(2), rows)[:, 0]
        apart = aggregate_log_density(each, rows).sum(1)
        return joint.diagonal() - together, together - apart, apart - latents.log_prior()


def aggregate_log_density(log_q: Tensor, rows: int) -> Tensor:
    """log of the estimate of q(z_i), [draw, entry], from log q(z_i | x_j) of a batch of so many rows.

    Args:
        log_q: [draw i, row j, entry], where draw i is of row i.
        rows: N, of which the batch is a random part.

    Example:
        >>> aggregate_log_density(torch.zeros(4, 4, 1), rows=100).abs().max() < 1e-6
        tensor(True)
    """
    batch = len(log_q)
    rows = max(rows, batch)
    if batch == 1:
        return log_q[:, 0]
    own = torch.eye(batch, dtype=log_q.dtype, device=log_q.device)
    log_w = own * -math.log(rows) + (1 - own) * (math.log1p(-1 / rows) - math.log(batch - 1))
    return (log_q + log_w.unsqueeze(2)).logsumexp(1)
