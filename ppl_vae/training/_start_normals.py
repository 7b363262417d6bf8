"""Normals over the blocks of shared latents, each in the units of where it starts."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.autoguide.shared import SharedPosterior
from ppl_vae.autoguide.whitening import moved

__all__ = ["Normals"]


class Normals(nn.Module):
    """One normal for each block, in units of where it starts: N(0, scale^2 I) at first."""

    def __init__(self, shared: SharedPosterior) -> None:
        super().__init__()
        centres = shared.centre.split(shared.widths)
        self.full = [shared.unit(i).dim() > 1 for i in range(len(centres))]
        self.loc = nn.ParameterList([torch.zeros_like(c) for c in centres])
        self.log_scale = nn.ParameterList([torch.zeros_like(c) for c in centres])
        self.below = nn.ParameterList(
            [c.new_zeros((len(c) * (len(c) - 1) // 2) if f else 0) for c, f in zip(centres, self.full, strict=True)]
        )
        for place, centre in enumerate(centres):
            self.register_buffer(f"centre_{place}", centre.clone())
            self.register_buffer(f"unit_{place}", shared.unit(place).clone())
        self.sums, self.count = [torch.zeros_like(p) for p in self.parameters()], 0

    @torch.no_grad()
    def begin(self, centre: Tensor, units: list[Tensor], scale: float = 1.0) -> None:
        """Stand at a centre [d], in these units; the same tensors have other values."""
        for place, (own, unit) in enumerate(zip(centre.split([len(p) for p in self.loc]), units, strict=True)):
            self.get_buffer(f"centre_{place}").copy_(own)
            self.get_buffer(f"unit_{place}").copy_(unit)
            self.loc[place].zero_()
            self.log_scale[place].fill_(math.log(scale))
            self.below[place].zero_()
        self.sums, self.count = [torch.zeros_like(p) for p in self.parameters()], 0

    def base(self, place: int) -> Any:
        """The distribution of a block's vector."""
        return moved(self._normal(place), self.get_buffer(f"centre_{place}"), self.get_buffer(f"unit_{place}"))

    def _normal(self, place: int) -> Any:
        loc, scale = self.loc[place], self.log_scale[place].exp()
        if not self.full[place]:
            return dist.Normal(loc, scale).to_event(1)
        lower, size = torch.diag_embed(scale), len(loc)
        at = torch.tril_indices(size, size, -1, device=loc.device)
        lower = lower.index_put((at[0], at[1]), self.below[place] * scale[at[0]] * size**-0.5)
        return dist.MultivariateNormal(loc, scale_tril=lower)

    @torch.no_grad()
    def mean_of_last(self) -> None:
        """Take the parameters as they are now into the mean that `absorbed` goes by (Polyak averaging)."""
        self.count += 1
        for total, parameter in zip(self.sums, self.parameters(), strict=True):
            total += parameter

    @torch.no_grad()
    def absorbed(self) -> tuple[Tensor, list[Tensor]]:
        """Centre and units of the normals as they are now."""
        if self.count:
            for total, parameter in zip(self.sums, self.parameters(), strict=True):
                parameter.copy_(total / self.count)
        centres, units = [], []
        for place in range(len(self.full)):
            fn = self.base(place)
            if self.full[place]:
                centres.append(fn.loc)
                units.append(fn.scale_tril)
            else:
                centres.append(fn.base_dist.loc)
                units.append(fn.base_dist.scale)
        return torch.cat(centres), units
