"""The spline-flow guide: monotone rational-quadratic splines."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.nn.flows import zuko
from ppl_vae.nn.heads import Affine, Flowing, StandardBase, alternating

__all__ = ["Spline"]


class Spline(GeneratedGuide):
    """An amortized neural spline flow: z_i goes through a monotone rational-quadratic spline set by z_<i and x.

    Shapes: features [..., F], z [..., d]. With `coupling`, half of z sets the splines of the other half.
    Drawing takes one pass; log q of a foreign value takes d passes (with coupling, one). Splines live on [-5, 5] and
    are the identity outside; location and scale come after them.

    Raises:
        UserError: for a site that it cannot represent, by name.

    Source: Durkan et al. 2019, arXiv 1906.04032.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = Spline(VAE(data, latent_dim=4))
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    flows: int = 2
    bins: int = 8
    coupling: bool = False
    width: int = 64

    def family(self, features: int, size: int) -> nn.Module:
        """Standard normals through splines, then location and scale, linear in the features."""
        bins = self.bins
        spline: dict[str, Any] = {
            "univariate": zuko.transforms.MonotonicRQSTransform,
            "shapes": [(bins,), (bins,), (bins - 1,)],
            "hidden_features": (self.width,) * 2,
        }
        if self.coupling:
            masks = [torch.arange(size) % 2 == i % 2 for i in range(self.flows)]
            steps = [
                zuko.flows.coupling.GeneralCouplingTransform(size, features, mask=mask, **spline) for mask in masks
            ]
        else:
            orders = alternating(size, self.flows)
            steps = [
                zuko.flows.autoregressive.MaskedAutoregressiveTransform(size, features, order=order, **spline)
                for order in orders
            ]
        return Flowing(StandardBase(size), [*steps, Affine(features, size, self.init_scale)])
