"""The posterior of latents shared by all rows: ordinary variational parameters, nothing amortized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.posteriors import positive
from ppl_vae.sites import Site, sample_together

__all__ = ["SharedPosterior"]

START = 0.1
"""The scale at which the posterior of a latent shared by all rows starts, as in Pyro's own guides."""


class SharedPosterior(nn.Module):
    """Normals on the unconstrained space of all shared latents: independent, or with a covariance of low rank.

    q(v) = N(m, diag s^2) for rank 0, else N(m, V V' + diag s^2) with V of `rank` columns, over all of them jointly.
    """

    def __init__(self, sites: Sequence[Site], rank: int = 0) -> None:
        super().__init__()
        self.sites, self.names = tuple(sites), tuple(s.name for s in sites)
        width = sum(s.width for s in sites)
        self.loc = nn.Parameter(torch.zeros(width)) if sites else None
        self.raw_scale = nn.Parameter(torch.zeros(width)) if sites else None
        self.factor = nn.Parameter(0.01 * torch.randn(width, rank)) if sites and rank else None

    def forward(self, entered: dict[str, Any]) -> dict[str, Tensor]:
        """Draw every shared latent, by site name; `entered` keeps the plates of one run of the guide."""
        if self.loc is None or self.raw_scale is None:
            return {}
        scale = positive(self.raw_scale, START)
        if self.factor is not None:
            joint = dist.LowRankMultivariateNormal(self.loc, self.factor, scale.square())
            return sample_together(",".join(self.names), joint, self.sites, entered)
        values = {}
        widths = [s.width for s in self.sites]
        for site, m, s in zip(self.sites, self.loc.split(widths), scale.split(widths), strict=True):
            with site.inside(entered):
                values[site.name] = pyro.sample(site.name, site.constrained(dist.Normal(m, s).to_event(1)))
        return values
