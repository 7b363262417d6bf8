"""The low-rank guide: a normal whose covariance is a few directions plus a diagonal."""

from __future__ import annotations

from torch import nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.heads import LowRankNormal

__all__ = ["LowRank"]


class LowRank(GeneratedGuide):
    """An amortized low-rank guide, q(z | x) = N(m(x), V(x) V(x)' + diag s(x)^2), over all continuous latents jointly.

    Shapes: features [..., F], z [..., d]. V [..., d, r] with r the smaller of `rank` and d.

    Raises:
        UserError: for a site that it cannot represent, by name.

    Source: Ong, Nott & Smith 2018, arXiv 1701.03208 (the factor covariance).

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = LowRank(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    rank: int = 2

    def family(self, features: int, size: int) -> nn.Module:
        """Mean, directions and scales, linear in the features."""
        return LowRankNormal(features, size, min(self.rank, size), self.init_scale)
