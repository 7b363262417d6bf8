"""What a distribution says about single entries: probabilities of levels, moments of mixtures, densities with holes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = [
    "expected_value",
    "is_discrete",
    "is_masked",
    "is_real",
    "log_density",
    "mixture_moments",
    "probabilities",
    "unwrapped",
    "without_mask",
]


def unwrapped(fn: Any) -> Any:
    """The distribution of single entries: without `to_event`, without masks."""
    while isinstance(fn, dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def without_mask(fn: Any) -> Any:
    """The distribution without its `.mask(...)`, wherever in `to_event` it stands.

    Example:
        >>> without_mask(dist.Normal(torch.zeros(3), 1.0).mask(False).to_event(1)).log_prob(torch.zeros(3)).shape
        torch.Size([])
    """
    if isinstance(fn, dist.MaskedDistribution):
        return without_mask(fn.base_dist)
    if isinstance(fn, dist.Independent):
        base = without_mask(fn.base_dist)
        return fn if base is fn.base_dist else base.to_event(fn.reinterpreted_batch_ndims)
    return fn


def is_masked(fn: Any) -> bool:
    """Whether some of a distribution's entries are masked.

    Example:
        >>> is_masked(dist.Normal(torch.zeros(3), 1.0).mask(torch.ones(3) > 0).to_event(1))
        True
    """
    return without_mask(fn) is not fn


def probabilities(fn: Any) -> Tensor:
    """The probability of every level of every entry, [row, *S, C]; of a one-hot vector [row, C]."""
    base = unwrapped(fn)
    if isinstance(base, dist.Categorical | dist.OneHotCategorical):
        return base.probs
    return base.log_prob(base.enumerate_support(expand=True)).exp().movedim(0, -1)


def mixture_moments(fns: Sequence[Any], drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the mixture of these distributions, from its draws where they have none."""
    try:
        means = torch.stack([expected_value(fn) for fn in fns])
        variances = torch.stack([unwrapped(fn).variance for fn in fns])
    except (NotImplementedError, AttributeError):
        return drawn.mean(0), drawn.std(0)
    return means.mean(0), (variances.mean(0) + means.var(0, correction=0)).sqrt()


def log_density(fn: Any, truth: Tensor) -> Tensor:
    """log p of true values, [row]; missing entries count as 0, and a row without any is NaN."""
    base = unwrapped(fn)
    gone = torch.isnan(truth) if truth.is_floating_point() else truth == -1
    if isinstance(base, dist.OneHotCategorical):
        return torch.where(gone.any(-1), torch.nan, base.log_prob(torch.nan_to_num(truth)))
    inside = base.sample()
    log_p = base.log_prob(torch.where(gone, inside.to(truth.dtype), truth)).masked_fill(gone, 0.0)
    dims = tuple(range(1, log_p.dim()))
    return torch.where(gone.flatten(1).all(1) if dims else gone, torch.nan, log_p.sum(dims) if dims else log_p)


def expected_value(fn: Any) -> Tensor:
    """E[x] of a likelihood: the mean, and for categories the mean level (grey level, count of a scale).

    Example:
        >>> expected_value(dist.Categorical(torch.tensor([0.5, 0.0, 0.5])))
        tensor(1.)
    """
    fn = unwrapped(fn)
    if isinstance(fn, dist.Categorical):
        return (fn.probs * torch.arange(fn.probs.shape[-1], device=fn.probs.device)).sum(-1)
    return fn.mean


def is_real(support: Any) -> bool:
    """Whether a support is all of R or R^d.

    Example:
        >>> is_real(dist.Normal(torch.zeros(3), 1.0).to_event(1).support), is_real(dist.Exponential(1.0).support)
        (True, False)
    """
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.real))  # a copy of it is another object


def is_discrete(fn: Any) -> bool:
    """Whether the values of a distribution are discrete.

    Example:
        >>> is_discrete(dist.Poisson(torch.ones(3)).to_event(1))
        True
    """
    return bool(getattr(unwrapped(fn).support, "is_discrete", False))
