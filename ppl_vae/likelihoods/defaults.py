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
    """The likelihood that a field gets when none is named, by its kind alone.

    Example:
        >>> type(default_likelihood(Field("x", "binary", (4,)))).__name__
        'Bernoulli'
    """
    return _DEFAULTS[field.kind]()


def column_likelihood(field: Field, train: Tensor | None = None) -> Likelihood:
    """The likelihood that a column of a table gets when none is named, by its kind and its training values.

    Two values: Bernoulli. Categories: Categorical, or Ordinal if they have an order. Counts: NegativeBinomial, but
    a discretised logistic where they spread less than Poisson counts would (ages, scores, years). Numbers: LogNormal
    if all are above 0, Beta if all are also below 1, else Normal.

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
        return DiscretisedLogistic(levels=max(int(field.cardinality or 0), 2)) if crowded else NegativeBinomial()
    narrower = {"unit": (Beta, LogNormal), "real": (LogNormal,), "positive": (LogNormal,)}
    for cls in narrower.get(field.kind, ()):
        if outside(cls.support, field, train) is None:
            return cls()
    return default_likelihood(field)
