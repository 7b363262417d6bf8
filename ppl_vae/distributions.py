"""What a distribution says about single entries: probabilities of levels, moments of mixtures, densities with holes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.transforms import AffineTransform, ComposeTransform

__all__ = [
    "Image",
    "OneByOne",
    "elementwise",
    "expected_value",
    "is_cut",
    "is_discrete",
    "is_masked",
    "is_real",
    "log_density",
    "mixture_moments",
    "probabilities",
    "support_of",
    "unwrapped",
    "without_mask",
]


class OneByOne(dist.TorchDistribution):
    """A distribution of rows that are drawn entry by entry, each given those before: p(x) = prod_t p(x_t | x_<t).

    Its entries are not independent, so that none can be left out but the last ones. A subclass says:

    levels: of categories how many there are, else 0.
    entry_support: where single entries may lie.
    given(value, missing): of rows in which these entries are missing, which do not count in `log_prob`.
    completed(): the rows that were given, with draws of their missing entries given those before.
    terms(value): log p of every entry given those before it.
    path(): entry by entry the likeliest level or the mean.
    fault(rows): what keeps rows from being values, in words, or None.
    """

    levels: int
    entry_support: Any

    def given(self, value: Tensor, missing: Tensor) -> OneByOne:
        """Of rows with missing entries."""
        raise NotImplementedError

    def completed(self) -> Tensor:
        """Rows that go on."""
        raise NotImplementedError

    def terms(self, value: Tensor) -> Tensor:
        """The log-probability of every entry."""
        raise NotImplementedError

    def path(self) -> Tensor:
        """The likeliest entry after the likeliest."""
        raise NotImplementedError

    def fault(self, rows: Tensor) -> str | None:
        """What keeps rows from being values."""
        raise NotImplementedError


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
    if isinstance(base, OneByOne):
        whole = base.given(truth, gone).log_prob(torch.where(gone, 0, truth))
        return torch.where(gone.flatten(1).all(1), torch.nan, whole)
    if isinstance(base, dist.OneHotCategorical):
        return torch.where(gone.any(-1), torch.nan, base.log_prob(torch.nan_to_num(truth)))
    inside = base.sample()
    log_p = base.log_prob(torch.where(gone, inside.to(truth.dtype), truth)).masked_fill(gone, 0.0)
    dims = tuple(range(1, log_p.dim()))
    return torch.where(gone.flatten(1).all(1) if dims else gone, torch.nan, log_p.sum(dims) if dims else log_p)


def elementwise(fn: Any, value: Tensor) -> Tensor | None:
    """log p of every entry of a value, where the entries are independent and none is masked; else None.

    Example:
        >>> elementwise(dist.Bernoulli(torch.full((3,), 0.5)).to_event(1), torch.ones(3)).shape
        torch.Size([3])
    """
    base = unwrapped(fn)
    if is_masked(fn) or base.event_dim:
        return None
    found: Tensor = base.log_prob(value)
    return found.expand(torch.broadcast_shapes(found.shape, value.shape))


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


_ON_CIRCLES = {dist.VonMises: 0, dist.SineBivariateVonMises: 1, dist.SineSkewed: 1}
"""Distributions of angles, with their event dims: Pyro lets them live on all of R, where their density repeats."""


class Image(constraints.Constraint):
    """What one-to-one transforms make of a set: {T_n(... T_1(v)) : v in the set}; `biject_to` knows it.

    Example:
        >>> shifted = Image(constraints.positive, [AffineTransform(2.0, 1.0)])
        >>> shifted.check(torch.tensor([1.0, 3.0])), biject_to(shifted)(torch.tensor(0.0))
        (tensor([False,  True]), tensor(3.))
    """

    def __init__(self, base: Any, transforms: Sequence[Transform]) -> None:
        self.base, self.transforms = base, list(transforms)

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """Dims of one value."""
        return ComposeTransform(self.transforms).codomain.event_dim

    def check(self, value: Tensor) -> Tensor:
        """Whether the values come from values of the set."""
        return self.base.check(ComposeTransform(self.transforms).inv(value))


@biject_to.register(Image)
def _to_image(support: Image) -> Transform:
    return ComposeTransform([biject_to(support.base), *support.transforms])


def is_cut(support: Any) -> bool:
    """Whether a support is that of angles, a circle that is cut at pi.

    Example:
        >>> is_cut(support_of(dist.VonMises(0.0, 1.0))), is_cut(dist.Normal(0.0, 1.0).support)
        (True, False)
    """
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    ends = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    return all(isinstance(end, float) for end in ends) and ends == (-math.pi, math.pi)


def support_of(fn: Any) -> Any:
    """The set on which the density of a distribution integrates to one.

    It is `fn.support`, but for distributions of angles, which Pyro lets live on all of R while their density repeats
    with period 2 pi, and for affine maps, of which torch says that they reach all of R.

    Example:
        >>> support_of(dist.VonMises(0.0, 1.0))
        Interval(lower_bound=-3.141592653589793, upper_bound=3.141592653589793)
        >>> later = dist.TransformedDistribution(dist.Exponential(1.0), AffineTransform(2.0, 1.0))
        >>> later.support, support_of(later).check(torch.tensor([1.0, 3.0]))
        (Real(), tensor([False,  True]))
    """
    while isinstance(fn, dist.MaskedDistribution):
        fn = fn.base_dist
    for angles, dims in _ON_CIRCLES.items():
        if isinstance(fn, angles):
            circle = constraints.interval(-math.pi, math.pi)
            return constraints.independent(circle, dims) if dims else circle
    if isinstance(fn, dist.Independent):
        base, more = support_of(fn.base_dist), fn.reinterpreted_batch_ndims
        return constraints.independent(base, more) if more else base
    if getattr(type(fn), "support", None) is torch.distributions.TransformedDistribution.support and fn.transforms:
        base = support_of(fn.base_dist)
        return fn.support if _reaches_all(base, fn.transforms) else Image(base, fn.transforms)
    return fn.support


def _reaches_all(support: Any, transforms: Sequence[Any]) -> bool:
    """Whether the image of a set is the last transform's codomain: each takes all of its domain."""
    for transform in ComposeTransform(list(transforms)).parts:
        if is_real(transform.domain) != is_real(support):
            return False
        if isinstance(transform, AffineTransform) and not is_real(support):
            return False
        support = transform.codomain
    return True


def is_discrete(fn: Any) -> bool:
    """Whether the values of a distribution are discrete.

    Example:
        >>> is_discrete(dist.Poisson(torch.ones(3)).to_event(1))
        True
    """
    return bool(getattr(unwrapped(fn).support, "is_discrete", False))
