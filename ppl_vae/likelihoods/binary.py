"""Likelihoods of 0 and 1."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.likelihoods.base import Likelihood

__all__ = ["Bernoulli"]


class Bernoulli(Likelihood):
    """Independent binary entries: log p(x | logits) = x l - softplus(l) nats each.

    Shapes: features [..., |S|], x [..., *S]. Grey levels are refused: a cross-entropy of grey levels is no
    log-likelihood. Binarise the data, or use `ContinuousBernoulli`.

    Example:
        >>> from ppl_vae.data import Field
        >>> Bernoulli().build(Field("x", "binary", (2, 2)))(torch.zeros(5, 4)).event_shape
        torch.Size([2, 2])
    """

    kinds = ("binary",)
    support = constraints.boolean

    def entries(self, features: Tensor) -> dist.Distribution:
        """One logit an entry."""
        return dist.Bernoulli(logits=features.squeeze(-1))

    def initial_bias(self, train: Tensor) -> Tensor:
        """The logit of the mean of the data (Burda et al. 2016, arXiv 1509.00519)."""
        mean = train.reshape(len(train), -1).nanmean(0).nan_to_num(0.5).clamp(1e-3, 1 - 1e-3)
        return torch.logit(mean)
