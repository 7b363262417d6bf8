"""Where the posterior of latents shared by all rows starts: at the middle of the prior, or at a draw from it.

A regression's coefficients start best at the middle of what is believed of them: the median, or the mean where a
distribution has no quantiles, of each latent given the middles of those before it; the median of draws where it has
neither. (Draws alone would not do: of Gamma(0.001, 0.001) they are 0 or huge.) But components of a mixture, topics
or hidden units that start alike get the same gradients and stay alike: these start at one draw from the prior, which
sets them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from ppl_vae.autoguide.probing import run_model
from ppl_vae.autoguide.sites import Site
from ppl_vae.distributions import is_discrete, unwrapped
from ppl_vae.errors import UserError
from ppl_vae.programs.density import is_improper
from ppl_vae.programs.dependencies import Parents
from ppl_vae.programs.missing import can_enumerate
from ppl_vae.programs.program import Program
from ppl_vae.programs.randomness import seed_draws
from ppl_vae.programs.structure import TraceSites, sample_sites

__all__ = ["drawn_start", "starts"]

DRAWS = 25
"""Draws from the prior of which the median is taken."""

APART = 0.1
"""Share of a draw's distance to the median at which the entries of a matrix, such as a layer's weights, start."""


def starts(
    program: Program, batch: Mapping[str, Tensor], shared: Mapping[str, Site], sites: TraceSites, parents: Parents
) -> dict[str, Tensor]:
    """Unconstrained starting points of the shared latents, by site, [numbers of the site]."""
    if not shared:
        return {}
    drawn, middles = [_vectors(sites, shared)], _middles(program, batch, shared)
    for seed in range(1, DRAWS):
        seed_draws(seed)
        try:
            drawn.append(_vectors(sample_sites(run_model(program, batch)), shared))
        except UserError:  # extreme draws that the rest of the program cannot take
            continue
    found = {}
    for name, site in shared.items():
        values = torch.stack([d[name] for d in drawn if name in d])
        middle = values.nanmedian(0).values.nan_to_num()
        if name in middles:
            middle = torch.where(middles[name].isfinite(), middles[name], middle)
        away = torch.where(values[0].isfinite(), values[0], middle) - middle
        found[name] = middle + away * _apart(name, site, sites, parents)
    return found


class _AtMiddle(Messenger):
    """Give every latent the middle of its distribution, where one is known."""

    def _pyro_sample(self, msg: Message) -> None:
        fn: Any = msg["fn"]
        if not msg["is_observed"] and not msg["done"] and isinstance(fn, Distribution) and not is_discrete(fn):
            found = _middle(fn)
            if found is not None and bool(found.isfinite().all()):
                msg["value"], msg["done"] = found, True


def _middles(program: Program, batch: Mapping[str, Tensor], shared: Mapping[str, Site]) -> dict[str, Tensor]:
    try:
        with _AtMiddle():
            return _vectors(sample_sites(run_model(program, batch)), shared)
    except UserError:
        return {}


def _middle(fn: Any) -> Tensor | None:
    """The median of a distribution, or its mean; carried along where it is a transformed one.

    Example:
        >>> _middle(dist.HalfCauchy(torch.tensor(2.0))), _middle(dist.InverseGamma(torch.tensor(0.1), 0.1))
        (tensor(2.), tensor(1.))
    """
    if isinstance(fn, dist.Independent | dist.MaskedDistribution):
        return _middle(fn.base_dist)
    try:
        if type(fn).icdf not in (Distribution.icdf, TransformedDistribution.icdf):
            return fn.icdf(torch.full(fn.batch_shape, 0.5))
        if isinstance(fn, TransformedDistribution):
            value = _middle(fn.base_dist)
            for transform in fn.transforms if value is not None else ():
                value = transform(value)
            return value
        return fn.mean.expand(fn.batch_shape + fn.event_shape)
    except (NotImplementedError, AttributeError, RuntimeError, ValueError):
        return None


def drawn_start(program: Program, batch: Mapping[str, Tensor], shared: Mapping[str, Site], seed: int) -> Tensor | None:
    """One draw of the shared latents from the prior, unconstrained, [d]; None where that is not finite."""
    seed_draws(seed)
    try:
        with torch.no_grad():
            drawn = _vectors(sample_sites(run_model(program, batch)), shared)
    except UserError:
        return None
    vector = torch.cat([drawn[name] for name in shared])
    return vector if bool(vector.isfinite().all()) else None


def _vectors(sites: TraceSites, shared: Mapping[str, Site]) -> dict[str, Tensor]:
    found = {}
    for name, site in shared.items():
        if name in sites:
            fn, value = sites[name]["fn"], sites[name]["value"]
            vector = site.at(fn).vector(value)[0].reshape(-1)
            vector = torch.zeros_like(vector) if is_improper(fn) else vector
            found[name] = torch.where(vector.isfinite(), vector, torch.nan).to(torch.get_default_dtype())
    return found


def _apart(name: str, site: Site, sites: TraceSites, parents: Parents) -> float:
    """How far from the median, towards a draw, the numbers of a site start."""
    if site.width == 1:
        return 0.0
    for other, above in parents.items():
        if name in above and sites[other]["is_observed"]:
            finite = any(not sites[n]["is_observed"] and can_enumerate(sites[n]["fn"]) for n in above if n in sites)
            if finite or isinstance(unwrapped(sites[other]["fn"]), dist.MixtureSameFamily):
                return 1.0
    return APART if len(site.event_shape) > 1 or (site.plates and site.event_shape) else 0.0
