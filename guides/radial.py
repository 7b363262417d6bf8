"""The radial-flow guide."""

from __future__ import annotations

from typing import Any

from pyro.distributions.transforms.radial import ConditionedRadial
from torch import Tensor, nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.heads import DiagonalNormal, Flowing, LinearHeads

__all__ = ["Radial"]


class Radial(GeneratedGuide):
    """An amortized radial-flow guide: z <- z + b(x) (z - c(x)) / (a(x) + |z - c(x)|), `flows` times, from a normal.

    Shapes: features [..., F], z [..., d].

    Raises:
        NoInverse: when log q of a value that it did not just draw is asked (STL, DReG on several sites).

    Source: Rezende & Mohamed 2015, arXiv 1505.05770.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = Radial(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    flows: int = 8

    def family(self, features: int, size: int) -> nn.Module:
        """A diagonal normal and radial steps, all linear in the features."""
        base = DiagonalNormal(features, size, self.init_scale)
        return Flowing(base, [_Step(features, size) for _ in range(self.flows)])


class _Step(nn.Module):
    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.parts = LinearHeads(features, [(size,), (1,), (1,)])

    def forward(self, features: Tensor) -> Any:
        return ConditionedRadial(self.parts(features))
