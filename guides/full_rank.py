"""The full-rank guide: a normal with any covariance."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.following import LinearFollowing
from ppl_vae.nn.heads import DiagonalNormal, LinearHeads, NormalHead, positive

__all__ = ["FullRank"]


class FullRank(GeneratedGuide):
    """An amortized full-rank guide, q(z | x) = N(m(x), L(x) L(x)'), over all continuous latents jointly.

    Of a series the precision is block tridiagonal: each step's latents depend on those just before (`LinearFollowing`).

    Shapes: features [..., F], z [..., d]. L [..., d, d], lower triangular.

    Raises:
        UserError: for a site that it cannot represent, by name.

    Source: Titsias & Lazaro-Gredilla 2014, ICML; Kucukelbir et al. 2017, arXiv 1603.00788.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = FullRank(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    def family(self, features: int, size: int) -> nn.Module:
        """Mean and Cholesky factor, linear in the features."""
        return _FullNormal(features, size, self.init_scale)

    def following(self, features: int, lags: int, size: int) -> nn.Module:
        """The steps of a chain together are normal, with a precision that ties neighbours alone."""
        normal = self.family(features, size) if size > 1 else DiagonalNormal(features, size, self.init_scale)
        return LinearFollowing(normal, features, lags, size)


class _FullNormal(NormalHead):
    def __init__(self, features: int, size: int, scale: float) -> None:
        super().__init__()
        self.parts = LinearHeads(features, [(size,), (size,), (size * (size - 1) // 2,)], small=True)
        self.size, self.scale = size, scale
        # A step of an optimiser moves all d entries of a row at once: without this their sum runs away for large d.
        self.calm = size**-0.5
        self.register_buffer("below", torch.tril_indices(size, size, -1), persistent=False)

    below: Tensor

    @property
    def outputs(self) -> nn.Linear:
        """Means, raw diagonals, then what is below them."""
        return self.parts.linear

    def forward(self, features: Tensor) -> Any:
        loc, raw, below = self.parts(features)
        loc, raw = self.joined(loc, raw, features)
        diagonal = positive(raw, self.scale)
        lower = torch.diag_embed(diagonal)
        # rows in units of their scale, so that a correlation does not depend on the unit of a latent
        lower[..., self.below[0], self.below[1]] = self.calm * below * diagonal[..., self.below[0]]
        return _CorrelatedNormal(loc, scale_tril=lower)


class _CorrelatedNormal(dist.MultivariateNormal):
    """Draws as its parent does, without a copy of L for every particle, which torch.matmul would make."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + torch.einsum("...ij,...j->...i", self._unbroadcasted_scale_tril, noise)
