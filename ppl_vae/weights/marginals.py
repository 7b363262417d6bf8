"""What every row's posterior says of the draws of all rows: draws as points, densities entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions.transforms import IndependentTransform

from ppl_vae.distributions import unwrapped
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.completion import expanded

__all__ = ["columns", "elementwise", "marginals", "points"]


def points(structure: Structure, site: Mapping[str, Any]) -> Tensor:
    """One draw of each row as a value for whatever row, [draw, plates with one row, *event]."""
    whole = expanded(structure, site, site["value"], 1)
    return whole.transpose(0, structure.dim - site["fn"].event_dim)


def columns(log_q: Tensor, row: int) -> Tensor:
    """Densities of points, [point, plates, *entries], with the dim of the rows brought forward: [point, row, entry]."""
    log_q = log_q.movedim(row, 1)
    return log_q.reshape(*log_q.shape[:2], -1)


def elementwise(fn: Any) -> Any:
    """The distribution of the single entries of an event, if they are independent; else None.

    Example:
        >>> import torch
        >>> elementwise(dist.LogNormal(torch.zeros(3), 1.0).to_event(1)).log_prob(torch.ones(3)).shape
        torch.Size([3])
        >>> elementwise(dist.MultivariateNormal(torch.zeros(3), torch.eye(3))) is None
        True
    """
    fn = unwrapped(fn)
    if isinstance(fn, dist.TransformedDistribution) and fn.event_dim:
        base, steps = elementwise(fn.base_dist), [_of_entries(step) for step in fn.transforms]
        if base is None or any(step is None for step in steps):
            return None
        return dist.TransformedDistribution(base, steps)
    return None if fn.event_dim else fn


def _of_entries(transform: Any) -> Any:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return None if transform.domain.event_dim or transform.codomain.event_dim else transform


def marginals(fn: Any) -> Any:
    """The distributions of the single entries of an event, where they are known; else None."""
    base = unwrapped(fn)
    if isinstance(base, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        return dist.Normal(base.mean, base.variance.sqrt())
    return elementwise(fn)
