"""Where the posterior of latents shared by all rows starts: at the median of the prior, or at a draw from it.

A regression's coefficients start best at the middle of what is believed of them. But components of a mixture, topics
or hidden units that start alike get the same gradients and stay alike: these start at one draw from the prior, which
sets them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.autoguide.probing import run_model
from ppl_vae.autoguide.sites import Site
from ppl_vae.distributions import unwrapped
from ppl_vae.errors import UserError
from ppl_vae.programs.density import is_improper
from ppl_vae.programs.dependencies import Parents
from ppl_vae.programs.missing import can_enumerate
from ppl_vae.programs.program import Program
from ppl_vae.programs.structure import sample_sites

__all__ = ["starts"]

DRAWS = 25
"""Draws from the prior of which the median is taken."""

APART = 0.1
"""Share of a draw's distance to the median at which the entries of a matrix, such as a layer's weights, start."""

Sites = Mapping[str, Mapping[str, Any]]


def starts(
    program: Program, batch: Mapping[str, Tensor], shared: Mapping[str, Site], sites: Sites, parents: Parents
) -> dict[str, Tensor]:
    """Unconstrained starting points of the shared latents, by site, [numbers of the site]."""
    if not shared:
        return {}
    drawn = [_vectors(sites, shared)]
    for seed in range(1, DRAWS):
        torch.manual_seed(seed)
        try:
            drawn.append(_vectors(sample_sites(run_model(program, batch)), shared))
        except UserError:  # extreme draws that the rest of the program cannot take
            continue
    found = {}
    for name, site in shared.items():
        values = torch.stack([d[name] for d in drawn if name in d])
        middle = values.nanmedian(0).values.nan_to_num()
        away = torch.where(values[0].isfinite(), values[0], middle) - middle
        found[name] = middle + away * _apart(name, site, sites, parents)
    return found


def _vectors(sites: Sites, shared: Mapping[str, Site]) -> dict[str, Tensor]:
    found = {}
    for name, site in shared.items():
        if name in sites:
            fn, value = sites[name]["fn"], sites[name]["value"]
            vector = site.at(fn).vector(value)[0].reshape(-1)
            vector = torch.zeros_like(vector) if is_improper(fn) else vector
            found[name] = torch.where(vector.isfinite(), vector, torch.nan).to(torch.get_default_dtype())
    return found


def _apart(name: str, site: Site, sites: Sites, parents: Parents) -> float:
    """How far from the median, towards a draw, the numbers of a site start."""
    if site.width == 1:
        return 0.0
    for other, above in parents.items():
        if name in above and sites[other]["is_observed"]:
            finite = any(not sites[n]["is_observed"] and can_enumerate(sites[n]["fn"]) for n in above if n in sites)
            if finite or isinstance(unwrapped(sites[other]["fn"]), dist.MixtureSameFamily):
                return 1.0
    return APART if len(site.event_shape) > 1 or (site.plates and site.event_shape) else 0.0
