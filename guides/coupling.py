"""The coupling-flow guide (RealNVP)."""

from __future__ import annotations

import torch
from torch import nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.flows import zuko
from ppl_vae.nn.heads import DiagonalNormal, Flowing

__all__ = ["Coupling"]


class Coupling(GeneratedGuide):
    """An amortized coupling flow (RealNVP): half of z is scaled and shifted by networks of the other half and x.

    Shapes: features [..., F], z [..., d]. Drawing and log q of a foreign value take one pass each.

    Raises:
        UserError: for a site that it cannot represent, by name.

    Source: Dinh, Sohl-Dickstein & Bengio 2017, arXiv 1605.08803.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = Coupling(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    flows: int = 4
    width: int = 64

    def family(self, features: int, size: int) -> nn.Module:
        """A diagonal normal, then affine couplings whose halves alternate."""
        steps = [
            zuko.flows.coupling.GeneralCouplingTransform(
                size, features, mask=torch.arange(size) % 2 == i % 2, hidden_features=(self.width,) * 2
            )
            for i in range(self.flows)
        ]
        return Flowing(DiagonalNormal(features, size, self.init_scale), steps)
