"""The posterior of latents shared by all rows: ordinary variational parameters, nothing amortized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.autoguide.sites import Site, sample_together
from ppl_vae.errors import unknown_name
from ppl_vae.nn.heads import positive

__all__ = ["SharedPosterior"]

START = 0.1
"""The scale at which the posterior of a latent shared by all rows starts, as in Pyro's own guides."""


class SharedPosterior(nn.Module):
    """Normals on the unconstrained space of all shared latents: independent, or with a covariance of low rank.

    q(v) = N(m, diag s^2) for rank 0, else N(m, V V' + diag s^2) with V of `rank` columns, over all of them jointly.
    `guide.shared["name"]` is the posterior of one of them on its own.
    """

    def __init__(self, sites: Sequence[Site], rank: int = 0) -> None:
        super().__init__()
        self.sites = {s.name: s for s in sites}
        width = sum(s.width for s in sites)
        self.loc = nn.Parameter(torch.zeros(width)) if sites else None
        self.raw_scale = nn.Parameter(torch.zeros(width)) if sites else None
        self.factor = nn.Parameter(0.01 * torch.randn(width, rank)) if sites and rank else None

    def __getitem__(self, name: str) -> dist.Distribution:
        """The marginal posterior of a shared latent."""
        if name not in self.sites or self.loc is None:
            raise unknown_name("latent shared by all rows", name, self.sites)
        widths = [s.width for s in self.sites.values()]
        place = [*self.sites].index(name)
        variance = self._scale.square()
        if self.factor is not None:
            variance = variance + self.factor.square().sum(-1)
        loc, scale = self.loc.split(widths)[place], variance.sqrt().split(widths)[place]
        return self.sites[name].constrained(dist.Normal(loc, scale).to_event(1))

    def forward(self, entered: dict[str, Any]) -> dict[str, Tensor]:
        """Draw every shared latent, by site name; `entered` keeps the plates of one run of the guide."""
        if self.factor is not None and self.loc is not None:
            joint = dist.LowRankMultivariateNormal(self.loc, self.factor, self._scale.square())
            return sample_together(",".join(self.sites), joint, [*self.sites.values()], entered)
        values = {}
        for name, site in self.sites.items():
            with site.inside(entered):
                values[name] = pyro.sample(name, self[name])
        return values

    @property
    def _scale(self) -> Tensor:
        return positive(self.raw_scale, START)  # type: ignore[arg-type]
