"""The mean-field guide: independent normals."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.generated import GeneratedGuide

__all__ = ["MeanField"]


class MeanField(GeneratedGuide):
    """An amortized mean-field guide, q(z | x) = prod_i N(z_i; m_i(x), s_i(x)^2), generated from any model.

    Shapes: features [..., F], z [..., d]. Latents with other supports are carried there by `biject_to`;
    a latent is conditioned on the latents that the model draws before it.

    Raises:
        UserError: for a site that it cannot represent, by name.

    Source: Kingma & Welling 2014, arXiv 1312.6114.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = MeanField(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    def family(self, features: int, size: int) -> nn.Module:
        """Means and scales, linear in the features."""
        return _DiagonalNormal(features, size)


class _DiagonalNormal(nn.Module):
    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * size)

    def forward(self, features: Tensor) -> dist.Distribution:
        loc, raw = self.linear(features).chunk(2, dim=-1)
        # Shifted so that scales start near 1, the prior's; never 0, where log q would be infinite.
        return dist.Normal(loc, F.softplus(raw + 0.5413) + torch.finfo(raw.dtype).eps).to_event(1)
