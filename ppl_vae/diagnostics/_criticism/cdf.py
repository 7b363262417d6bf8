"""Distribution functions of likelihoods, also of those for which torch has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.programs.missing import can_enumerate

__all__ = ["at_most"]

MOST_LEVELS = 10_000
"""Larger counts are compared by draws."""


def at_most(fn: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    """P(X < x) and P(X <= x) for a distribution of single entries; equal for densities.

    Where a distribution function is not known they are 0 or 1 by one draw, which is so on average.

    Example:
        >>> at_most(dist.Poisson(torch.tensor(2.0)), torch.tensor(1.0))
        (tensor(0.1353), tensor(0.4060))
        >>> at_most(dist.StudentT(torch.tensor(3.0)), torch.tensor(0.0))
        (tensor(0.5000), tensor(0.5000))
    """
    if getattr(fn.support, "is_discrete", False):
        levels = _levels(fn, value)
        return _drawn(fn, value) if levels is None else _summed(fn, value, levels)
    found = _known(fn, value)
    return _drawn(fn, value) if found is None else (found, found)


def _levels(fn: Any, value: Tensor) -> Tensor | None:
    """The values below the largest one that is asked about; None if there are too many."""
    top = int(value.max())
    if can_enumerate(fn):
        levels = fn.enumerate_support(expand=False).flatten()
        return levels if len(levels) <= MOST_LEVELS else None
    return torch.arange(top + 1, device=value.device) if 0 <= top < MOST_LEVELS else None


def _summed(fn: Any, value: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    below = torch.zeros(torch.broadcast_shapes(fn.batch_shape, value.shape), device=value.device)
    below = below.to(torch.promote_types(below.dtype, fn.log_prob(value).dtype))
    here = below.clone()
    for level in levels:
        mass = fn.log_prob(level.to(value.dtype).expand(value.shape)).exp()
        below += mass * (level < value)
        here += mass * (level == value)
    return below.clamp(max=1), (below + here).clamp(max=1)


def _drawn(fn: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    other = fn.sample()
    dtype = torch.get_default_dtype()
    return (other < value).to(dtype), (other <= value).to(dtype)


def _known(fn: Any, value: Tensor) -> Tensor | None:
    from scipy import special

    if isinstance(fn, dist.StudentT):
        standard = (value - fn.loc) / fn.scale
        return _by(special.stdtr, standard, fn.df.expand_as(standard), standard)
    if isinstance(fn, dist.Beta):
        a, b, x = torch.broadcast_tensors(fn.concentration1, fn.concentration0, value)
        return _by(special.betainc, a, a, b, x)
    try:
        return fn.cdf(value)
    except NotImplementedError:
        return None


def _by(function: Any, like: Tensor, *arguments: Tensor) -> Tensor:
    """A function of arrays, of tensors."""
    return torch.as_tensor(np.asarray(function(*(a.detach().cpu().double().numpy() for a in arguments)))).to(like)
