"""The mean-field guide: independent normals."""

from __future__ import annotations

from torch import nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.heads import DiagonalNormal

__all__ = ["MeanField"]


class MeanField(GeneratedGuide):
    """An amortized mean-field guide, q(z | x) = prod_i N(z_i; m_i(x), s_i(x)^2), generated from any model.

    Shapes: features [..., F], z [..., d]. Latents with other supports are carried there by `biject_to`; a latent is
    conditioned on the earlier ones that its posterior depends on, unless `conditioning="independent"`.

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

    joint = False

    def family(self, features: int, size: int) -> nn.Module:
        """Means and scales, linear in the features."""
        return DiagonalNormal(features, size, self.init_scale)
