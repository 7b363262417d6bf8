"""The planar-flow guide."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn import functional as F

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.heads import DiagonalNormal, Flowing, LinearHeads

__all__ = ["Planar"]


class Planar(GeneratedGuide):
    """An amortized planar-flow guide: z <- z + u(x) tanh(w(x)' z + b(x)), `flows` times, from a diagonal normal.

    Shapes: features [..., F], z [..., d].

    Raises:
        NoInverse: when log q of a value that it did not just draw is asked (STL, DReG on several sites).

    Source: Rezende & Mohamed 2015, arXiv 1505.05770.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = Planar(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    flows: int = 8

    def family(self, features: int, size: int) -> nn.Module:
        """A diagonal normal and planar steps, all linear in the features."""
        base = DiagonalNormal(features, size, self.init_scale)
        return Flowing(base, [_Step(features, size) for _ in range(self.flows)])


class _Step(nn.Module):
    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.parts = LinearHeads(features, [(1,), (size,), (size,)])

    def forward(self, features: Tensor) -> Any:
        bias, w, u = self.parts(features)
        return _PlanarTransform(bias, w, u)


class _PlanarTransform(Transform):
    """z -> z + u tanh(w'z + b), with u changed along w so that w'u > -1: then the map is one to one.

    w'u becomes softplus(w'u + log(e - 1)) - 1, which is 0 at 0, so that u stays bounded where w vanishes. (The usual
    softplus(w'u) - 1 is not, and u would then be about -0.3 w / |w|^2.)
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, bias: Tensor, w: Tensor, u: Tensor) -> None:
        super().__init__()
        inner = (w * u).sum(-1, keepdim=True)
        wanted = (1 - 1e-4) * (F.softplus(inner + math.log(math.expm1(1.0))) - 1)  # log det stays finite
        squared = w.square().sum(-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)
        self.bias, self.w, self.u, self.slope = bias, w, u + (wanted - inner) * w / squared, wanted

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The map and log |det|, where det = 1 + tanh' w'u."""
        h = ((self.w * z).sum(-1, keepdim=True) + self.bias).tanh()
        return z + self.u * h, torch.log1p((1 - h.square()) * self.slope).squeeze(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        raise NotImplementedError
