"""What a distribution says about single entries: probabilities of levels, moments of mixtures, densities with holes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.prediction.coding import expected_value

__all__ = ["log_density", "mixture_moments", "probabilities", "single"]


def single(fn: Any) -> Any:
    """The distribution of single entries."""
    while isinstance(fn, dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def probabilities(fn: Any) -> Tensor:
    """The probability of every level of every entry, [row, *S, C]; of a one-hot vector [row, C]."""
    base = single(fn)
    if isinstance(base, dist.Categorical | dist.OneHotCategorical):
        return base.probs
    return base.log_prob(base.enumerate_support(expand=True)).exp().movedim(0, -1)


def mixture_moments(fns: Sequence[Any], drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the mixture of these distributions, from its draws where they have none."""
    try:
        means = torch.stack([expected_value(fn) for fn in fns])
        variances = torch.stack([single(fn).variance for fn in fns])
    except (NotImplementedError, AttributeError):
        return drawn.mean(0), drawn.std(0)
    return means.mean(0), (variances.mean(0) + means.var(0, correction=0)).sqrt()


def log_density(fn: Any, truth: Tensor) -> Tensor:
    """log p of true values, [row]; missing entries count as 0, and a row without any is NaN."""
    base = single(fn)
    gone = torch.isnan(truth) if truth.is_floating_point() else truth == -1
    if isinstance(base, dist.OneHotCategorical):
        return torch.where(gone.any(-1), torch.nan, base.log_prob(torch.nan_to_num(truth)))
    inside = base.sample()
    log_p = base.log_prob(torch.where(gone, inside.to(truth.dtype), truth)).masked_fill(gone, 0.0)
    dims = tuple(range(1, log_p.dim()))
    return torch.where(gone.flatten(1).all(1) if dims else gone, torch.nan, log_p.sum(dims) if dims else log_p)
