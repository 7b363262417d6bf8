"""The smallest learned prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.priors.base import Prior

__all__ = ["Diagonal"]


class Diagonal(Prior):
    """A normal with learned means and scales, log p(z) = sum_i log N(z_i; m_i, s_i^2) nats.

    Shapes: z, m, s [d]. It starts as the standard normal. A decoder whose first layer is linear can learn the same
    by itself: this prior is for decoders that cannot, and for reading m and s off.

    Example:
        >>> Diagonal().build(3)().event_shape
        torch.Size([3])
    """

    def setup(self) -> None:
        """m = 0, s = 1."""
        self.loc = nn.Parameter(torch.zeros(self.latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(self.latent_dim))

    def forward(self, condition: Tensor | None = None) -> dist.Distribution:
        """N(m, diag s^2)."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
