"""The mixture guide: several mean-field normals."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.heads import LinearHeads, positive

__all__ = ["Mixture"]


class Mixture(GeneratedGuide):
    """An amortized mixture guide, q(z | x) = sum_k w_k(x) N(z; m_k(x), diag s_k(x)^2), reparameterised.

    Shapes: features [..., F], z [..., d]. Gradients go through the draws, the choice of a component included.

    Raises:
        UserError: for a site that it cannot represent, by name.

    Source: Jankowiak & Karaletsos 2019, arXiv 1806.01856 (pathwise gradients of mixtures).

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = Mixture(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    components: int = 4

    def family(self, features: int, size: int) -> nn.Module:
        """Weights, means and scales of the components, linear in the features."""
        return _Mixture(features, size, self.components, self.init_scale)


class _Mixture(nn.Module):
    def __init__(self, features: int, size: int, components: int, scale: float) -> None:
        super().__init__()
        self.parts = LinearHeads(features, [(components,), (components, size), (components, size)])
        self.scale = scale
        self.starts = nn.Parameter(0.5 * scale * torch.randn(components, size))  # equal components would stay equal

    def forward(self, features: Tensor) -> Any:
        logits, locs, raw = self.parts(features)
        return dist.MixtureOfDiagNormals(locs + self.starts, positive(raw, self.scale), logits)
