"""The inverse autoregressive flow guide."""

from __future__ import annotations

from torch import nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.flows import zuko
from ppl_vae.nn.heads import DiagonalNormal, Flowing, alternating

__all__ = ["IAF"]


class IAF(GeneratedGuide):
    """An amortized inverse autoregressive flow: z_i <- m_i(z_<i, x) + s_i(z_<i, x) z_i, `flows` times, from a normal.

    Shapes: features [..., F], z [..., d]. Drawing takes one pass, log q of a foreign value d passes.

    Raises:
        UserError: for a site that it cannot represent, by name.

    Source: Kingma et al. 2016, arXiv 1606.04934.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = IAF(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    flows: int = 3
    width: int = 64

    def family(self, features: int, size: int) -> nn.Module:
        """A diagonal normal, then masked networks of the draw and the features, in alternating order."""
        steps = [
            zuko.flows.autoregressive.MaskedAutoregressiveTransform(
                size, features, order=order, hidden_features=(self.width,) * 2
            )
            for order in alternating(size, self.flows)
        ]
        return Flowing(DiagonalNormal(features, size, self.init_scale), steps)
