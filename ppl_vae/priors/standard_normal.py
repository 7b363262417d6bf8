"""The prior that is not learned."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.priors.base import Prior

__all__ = ["StandardNormal"]


class StandardNormal(Prior):
    """The standard normal prior, log p(z) = -|z|^2 / 2 - (d / 2) log(2 pi) nats. Shape of z: [d].

    Source: Kingma & Welling 2014, arXiv 1312.6114.

    Example:
        >>> StandardNormal().build(3)().event_shape
        torch.Size([3])
    """

    zero: Tensor

    def setup(self) -> None:
        """A buffer, so that the prior moves with the module to its device and dtype."""
        self.register_buffer("zero", torch.zeros(self.latent_dim), persistent=False)

    def forward(self, condition: Tensor | None = None) -> dist.Distribution:
        """N(0, I)."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)
