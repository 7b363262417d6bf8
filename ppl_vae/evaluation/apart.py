"""A bridge whose group effects stand apart from their place and scale: u = m(g) + s(g) e, and chains move in e.

In the neck of a funnel, where a scale s is small, effects of that scale are narrow, and a step that suits the mouth is
too long; e ~ N(0, 1) is the same everywhere. Where data say much of each effect it is the other way round. Moves in the
one and the other by turns are good in both (interweaving).

Source: Papaspiliopoulos et al. 2007, Statist. Sci. 22(1); Yu and Meng 2011, J. Comput. Graph. Statist. 20(3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.transforms import ExpTransform

from ppl_vae.autoguide.sites import Site
from ppl_vae.autoguide.unpacked import Unpacked
from ppl_vae.evaluation.bridge import Bridge, _Sites
from ppl_vae.programs.program import Batch
from ppl_vae.programs.structure import sample_sites

__all__ = ["apart", "normal_of"]

FEW = 3
"""Draws that are looked at, where programs run one at a time."""


def normal_of(fn: Any) -> Any:
    """The independent normals that a latent's unconstrained numbers follow in the model; None if they do not.

    Example:
        >>> normal_of(dist.LogNormal(1.0, 2.0)).scale
        tensor(2.)
        >>> normal_of(dist.HalfNormal(1.0)) is None
        True
    """
    while isinstance(fn, torch.distributions.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    if isinstance(fn, torch.distributions.TransformedDistribution) and [type(t) for t in fn.transforms] == [
        ExpTransform
    ]:
        return normal_of(fn.base_dist)
    return fn if isinstance(fn, torch.distributions.Normal) else None


def apart(bridge: Bridge, batch: Batch, u: Tensor) -> Bridge | None:
    """The same bridge in these coordinates; None where no latent's normal has a scale that other latents decide.

    Args:
        bridge: between the same ends.
        batch: its rows.
        u: some draws, in which a scale is seen to differ.
    """
    found = _ApartBridge.like(bridge)
    together = bridge.structure.broadcasts
    runs = [sample_sites(bridge.placed_run(batch, some).model) for some in ([u] if together else u[:FEW].split(1))]
    for name, site in runs[0].items():
        normal = normal_of(site["fn"]) if name in bridge.sites else None
        depth = together + bridge.structure.nesting + site["fn"].event_dim
        if normal is not None and (not together or site["value"].dim() == depth):
            scales = [normal_of(run[name]["fn"]).scale.expand_as(run[name]["value"]) for run in runs]
            scale = scales[0] if together else torch.stack(scales)
            if bool((scale != scale[:1]).any()):
                found.apart.add(name)
    return found if found.apart else None


class _ApartBridge(Bridge):
    apart: set[str]

    @classmethod
    def like(cls, bridge: Bridge) -> _ApartBridge:
        found = cls.__new__(cls)
        found.__dict__.update(bridge.__dict__, apart=set())
        found.compile_for(bridge.mode)
        return found

    def coordinates(self, name: str, sites: _Sites) -> Site:
        """A site by which a vector becomes a value: in units of its normal in this run."""
        site = super().coordinates(name, sites)
        return _ApartSite(**vars(site), normal=normal_of(sites[name]["fn"])) if name in self.apart else site


@dataclass(frozen=True)
class _ApartSite(Site):
    """A site whose vector are the numbers e; its elements are m + s e, carried to the support."""

    normal: Any = None

    def unpacked(self, vector: Tensor) -> Unpacked:
        loc, scale = self.normal.loc, self.normal.scale
        free = loc + scale * self._unflattened(self.spread(vector))
        stretch = self._summed(scale.log().expand_as(free))
        value = free if self.is_real else self.bijection(free)
        if not self.is_real:
            stretch = stretch + self.bijection.log_abs_det_jacobian(free, value)
        return Unpacked(value, -stretch, self.support, len(self.event_shape))

    def vector(self, value: Tensor) -> tuple[Tensor, Tensor | float]:
        free = value if self.is_real else self.bijection.inv(value)
        e = (free - self.normal.loc) / self.normal.scale
        n = len(self.unconstrained_shape)
        stretch = self._summed(self.normal.scale.log().expand_as(e))
        if not self.is_real:
            stretch = stretch + self.bijection.log_abs_det_jacobian(free, value)
        vector = self.gathered(e.flatten(e.dim() - n) if n else e.unsqueeze(-1))
        return vector, self.gathered(stretch.unsqueeze(-1)).sum(-1)

    def _summed(self, values: Tensor) -> Tensor:
        """Over the dims of an element."""
        n = len(self.unconstrained_shape)
        return values.flatten(values.dim() - n).sum(-1) if n else values
