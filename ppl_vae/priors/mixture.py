"""A mixture of normals as prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ppl_vae.priors.base import Prior, at_least_one
from ppl_vae.priors.normal_mixture import NormalMixture

__all__ = ["Mixture"]


class Mixture(Prior):
    """A mixture of K normals with learned weights, means and scales, log p(z) = log sum_k w_k N(z; m_k, s_k^2) nats.

    Shapes: z [d], w [K], m and s [K, d].

    Args:
        components: K.

    Raises:
        UserError: if components is less than 1.

    Source: Dilokthanakul et al. 2016, arXiv 1611.02648; as a baseline in Tomczak & Welling 2018, arXiv 1705.07120.

    Example:
        >>> Mixture(10).build(3)().event_shape
        torch.Size([3])
    """

    def __init__(self, components: int = 10) -> None:
        super().__init__()
        at_least_one(self, components=components)
        self.components = components

    def setup(self) -> None:
        """Means spread at random, for equal ones would stay equal; the whole has about variance 1."""
        spread = 0.5
        self.logits = nn.Parameter(torch.zeros(self.components))
        self.loc = nn.Parameter(spread * torch.randn(self.components, self.latent_dim))
        self.log_scale = nn.Parameter(torch.full_like(self.loc, (1 - spread**2) ** 0.5).log())

    def forward(self, condition: Tensor | None = None) -> NormalMixture:
        """sum_k w_k N(m_k, diag s_k^2)."""
        return NormalMixture(self.logits, self.loc, self.log_scale.exp())
