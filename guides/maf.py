"""The masked autoregressive flow guide."""

from __future__ import annotations

from torch import nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.flows import zuko
from ppl_vae.nn.heads import DiagonalNormal, Flowing, Inverse, alternating

__all__ = ["MAF"]


class MAF(GeneratedGuide):
    """An amortized masked autoregressive flow: z_i <- m_i(z_<i, x) + s_i(z_<i, x) e_i with z itself on the right.

    Shapes: features [..., F], z [..., d]. Log q of a foreign value takes one pass, drawing d passes:
    for the densities of an `IAF`, take that.

    Raises:
        UserError: for a site that it cannot represent, by name.

    Source: Papamakarios et al. 2017, arXiv 1705.07057.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = MAF(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    flows: int = 3
    width: int = 64

    def family(self, features: int, size: int) -> nn.Module:
        """A diagonal normal, then the inverses of masked networks, in alternating order."""
        steps = [
            Inverse(
                zuko.flows.autoregressive.MaskedAutoregressiveTransform(
                    size, features, order=order, hidden_features=(self.width,) * 2
                )
            )
            for order in alternating(size, self.flows)
        ]
        return Flowing(DiagonalNormal(features, size, self.init_scale), steps)
