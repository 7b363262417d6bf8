"""The continuous-flow guide."""

from __future__ import annotations

from torch import nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.flows import zuko
from ppl_vae.nn.heads import DiagonalNormal, Flowing

__all__ = ["CNF"]


class CNF(GeneratedGuide):
    """An amortized continuous flow: z(0) is normal, dz/dt = f(z, t, x), z = z(1); log q by integrating div f.

    Shapes: features [..., F], z [..., d].
    Every draw solves a differential equation, with the exact divergence: tens of times the cost of an `IAF`.

    Raises:
        UserError: for a site that it cannot represent, by name.

    Source: Chen et al. 2018, arXiv 1806.07366; Grathwohl et al. 2019, arXiv 1810.01367.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = CNF(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    width: int = 64
    tolerance: float = 1e-5

    def family(self, features: int, size: int) -> nn.Module:
        """A diagonal normal and a field of velocities."""
        step = zuko.flows.continuous.FFJTransform(
            size, features, hidden_features=(self.width,) * 2, atol=self.tolerance, rtol=self.tolerance
        )
        return Flowing(DiagonalNormal(features, size, self.init_scale), [step])
