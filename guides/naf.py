"""The neural autoregressive flow guide."""

from __future__ import annotations

from torch import nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.flows import zuko
from ppl_vae.nn.heads import DiagonalNormal, Flowing, alternating

__all__ = ["NAF"]


class NAF(GeneratedGuide):
    """An amortized neural autoregressive flow: z_i <- f(z_i; c_i(z_<i, x)) with f a monotone network, `flows` times.

    Shapes: features [..., F], z [..., d]. Drawing takes one pass; log q of a
    foreign value is found by bisection, for values within 10 of 0.

    Raises:
        UserError: for a site that it cannot represent, by name.

    Source: Huang et al. 2018, arXiv 1804.00779.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = NAF(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    flows: int = 2
    width: int = 64
    signal: int = 8

    def family(self, features: int, size: int) -> nn.Module:
        """A diagonal normal, then monotone networks steered by masked ones."""
        steps = [
            zuko.flows.autoregressive.MaskedAutoregressiveTransform(
                size,
                features,
                order=order,
                univariate=zuko.flows.neural.MNN(signal=self.signal, stack=size, hidden_features=(32, 32)),
                shapes=[(self.signal,)],
                hidden_features=(self.width,) * 2,
            )
            for order in alternating(size, self.flows)
        ]
        return Flowing(DiagonalNormal(features, size, self.init_scale), steps)
