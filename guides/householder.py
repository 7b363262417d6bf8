"""The Householder guide: reflections that turn a diagonal normal."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.transforms.householder import ConditionedHouseholder
from torch import Tensor, nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.heads import DiagonalNormal, Flowing, LinearHeads

__all__ = ["Householder"]


class Householder(GeneratedGuide):
    """An amortized Householder guide: a diagonal normal turned by reflections I - 2 v(x) v(x)' / |v(x)|^2.

    Shapes: features [..., F], z [..., d].
    A normal whose covariance the reflections turn: `flows` >= d of them reach any covariance; log q is exact for any z.

    Raises:
        UserError: for a site that it cannot represent, by name.

    Source: Tomczak & Welling 2016, arXiv 1611.09630.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = Householder(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    flows: int = 4

    def family(self, features: int, size: int) -> nn.Module:
        """A diagonal normal and the vectors of its reflections, all linear in the features."""
        base = DiagonalNormal(features, size, self.init_scale)
        return Flowing(base, [_Reflections(features, size, self.flows)])


class _Reflections(nn.Module):
    def __init__(self, features: int, size: int, flows: int) -> None:
        super().__init__()
        self.parts = LinearHeads(features, [(flows, size)], small=True)
        # only directions count, and where a vector is near 0 its direction turns wildly from row to row
        self.start = nn.Parameter(torch.randn(flows, size))

    def forward(self, features: Tensor) -> Any:
        return ConditionedHouseholder(self.parts(features)[0] + self.start)
