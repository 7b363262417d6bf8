"""Likelihoods of counts with more zeros than the counting explains."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.likelihoods.base import Likelihood
from ppl_vae.likelihoods.counts import NegativeBinomial, Poisson

__all__ = ["ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"]


class ZeroInflated(Likelihood):
    """Counts that are 0 for another reason with probability sigmoid(g); a subclass names the `counts`."""

    kinds = ("count",)
    support = constraints.nonnegative_integer
    counts: ClassVar[type[Likelihood]]

    def setup(self, train: Tensor | None) -> None:
        """The features of the counts, and the logit g."""
        self.counting = self.counts().build(self.field, train)
        self.width = self.counting.width + 1

    def entries(self, features: Tensor) -> dist.Distribution:
        """The last feature of an entry is g."""
        return dist.ZeroInflatedDistribution(self.counting.entries(features[..., :-1]), gate_logits=features[..., -1])

    def initial_bias(self, train: Tensor) -> Tensor:
        """The counts fit the mean of the data; few zeros are extra."""
        counting = self.counting.initial_bias(train).reshape(self.field.size, -1)
        return torch.cat([counting, torch.full_like(counting[:, :1], -2.0)], dim=-1).reshape(-1)


class ZeroInflatedPoisson(ZeroInflated):
    """Independent counts with extra zeros: p(x | g, r) = sigmoid(g) [x = 0] + sigmoid(-g) Poisson(x; r).

    log p in nats each. Shapes: features [..., |S| * 2], x [..., *S].

    Source: Lambert 1992, Technometrics 34.

    Example:
        >>> from ppl_vae.data import Field
        >>> ZeroInflatedPoisson().build(Field("x", "count", (3,)))(torch.zeros(2, 6)).event_shape
        torch.Size([3])
    """

    counts = Poisson


class ZeroInflatedNegativeBinomial(ZeroInflated):
    """Independent counts with extra zeros and extra spread, p(x | g, m) = sigmoid(g) [x = 0] + sigmoid(-g) NB(x; m, r).

    log p in nats each; NB and its learned r as in `NegativeBinomial`. Shapes: features [..., |S| * 2], x [..., *S].

    Source: Greene 1994, NYU working paper EC-94-10.

    Example:
        >>> from ppl_vae.data import Field
        >>> ZeroInflatedNegativeBinomial().build(Field("x", "count", (3,)))(torch.zeros(2, 6)).event_shape
        torch.Size([3])
    """

    counts = NegativeBinomial
