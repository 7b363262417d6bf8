"""Which likelihood a field gets when none is named."""

from __future__ import annotations

from torch import Tensor

from ppl_vae.data.schema import Field
from ppl_vae.likelihoods.base import Likelihood, outside, with_gaps
from ppl_vae.likelihoods.binary import Bernoulli
from ppl_vae.likelihoods.categorical import Categorical, Ordinal
from ppl_vae.likelihoods.counts import NegativeBinomial, Poisson
from ppl_vae.likelihoods.discretised import DiscretisedLogistic
from ppl_vae.likelihoods.location import LogNormal, Normal
from ppl_vae.likelihoods.unit import Beta

__all__ = ["column_likelihood", "default_likelihood"]

_DEFAULTS: dict[str, type[Likelihood]] = {
    "binary": Bernoulli,
    "categorical": Categorical,
    "real": Normal,
    "positive": Normal,
    "unit": Normal,
    "count": Poisson,
}


def default_likelihood(field: Field) -> Likelihood:
    """The likelihood that a field gets when none is named, by its kind alone; bytes are discretised logistics.

    Example:
        >>> type(default_likelihood(Field("x", "binary", (4,)))).__name__
        'Bernoulli'
    """
    return _DEFAULTS[field.kind]() if field.top is None else DiscretisedLogistic(levels=field.top + 1)


def column_likelihood(field: Field, train: Tensor | None = None) -> Likelihood:
    """The likelihood that a column of a table gets when none is named, by its kind and its training values.

    Two values: Bernoulli. Categories: Categorical, or Ordinal if they have an order. Counts: NegativeBinomial, but
    a discretised logistic where they spread less than Poisson counts would (ages, scores, years), with twice the levels
    that occur. Numbers: Beta if their kind is unit and all are in (0, 1), LogNormal if all are above 0 and it fits
    them better than a normal, else Normal.

    Example:
        >>> import torch
        >>> type(column_likelihood(Field("price", "real"), torch.tensor([2.5, 0.3]))).__name__
        'LogNormal'
    """
    if field.shape or train is None:
        return default_likelihood(field)
    if field.kind == "categorical":
        return Ordinal() if field.ordered else Categorical()
    if field.kind == "count":
        seen = with_gaps(field, train)
        mean = seen.nanmean()
        crowded = (seen - mean).square().nanmean() < mean
        if field.top is not None:
            return default_likelihood(field)
        # later rows may be a little above all training rows
        return DiscretisedLogistic(levels=max(2 * int(field.cardinality or 0), 2)) if crowded else NegativeBinomial()
    if field.kind == "unit" and outside(Beta.support, field, train) is None:
        return Beta()
    if field.kind in ("unit", "real", "positive") and _skewed(field, train):
        return LogNormal()
    return default_likelihood(field)


def _skewed(field: Field, train: Tensor) -> bool:
    """Whether all values are above 0 and a log-normal has a higher log density [nats] than a normal, each fitted."""
    if outside(LogNormal.support, field, train) is not None:
        return False
    seen = train[~train.isnan()].double()
    logs = seen.log()
    normal, lognormal = -seen.std(correction=0).log(), -logs.std(correction=0).log() - logs.mean()
    return not bool(normal > lognormal)  # of a constant column neither is to be preferred
