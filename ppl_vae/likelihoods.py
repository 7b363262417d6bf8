"""Likelihoods p(x | z): small modules from decoder features to a normalised distribution over one field."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ppl_vae.data.schema import Field
from ppl_vae.errors import UserError
from ppl_vae.recorded import Recorded

__all__ = ["Bernoulli", "Categorical", "Likelihood", "Normal", "Poisson", "default_likelihood"]


class Likelihood(Recorded, nn.Module, ABC):
    """A distribution over a field of shape S, given `width` features for each of its entries.

    `likelihood.build(field)` fits it to a field; calling it with features [..., |S| * width] returns a
    distribution with event shape S. Every likelihood is normalised: a density for continuous, a mass for
    discrete fields. A subclass gives `kinds`, `support` and `entries` (and `setup`, if it has parameters).

    Raises:
        UserError: if the field's kind is not one that this likelihood is a distribution over.
    """

    kinds: ClassVar[tuple[str, ...]]
    support: ClassVar[Any]
    width: int = 1
    field: Field

    def build(self, field: Field, train: Tensor | None = None) -> Self:
        """A copy for this field; `train` [n, *S] are the training rows, from which scales may be initialised."""
        if field.kind not in self.kinds:
            raise UserError(
                f"field {field.name!r} is {field.kind}, which {type(self).__name__} is no distribution over"
                f"{self._outside(train)}: use {' or '.join(fitting(field))}"
            )
        built = copy.deepcopy(self)
        built.field = field
        built.setup(train)
        return built

    def _outside(self, train: Tensor | None) -> str:
        """Where the first training value outside this likelihood's support is, in words."""
        if train is None:
            return ""
        outside = (~self.support.check(train) & ~torch.isnan(train)).nonzero()
        if not len(outside):
            return ""
        row, *entry = outside[0].tolist()
        value = float(train[tuple(outside[0].tolist())])
        return f" (training row {row}, entry {tuple(entry)}: value {value:g})"

    def setup(self, train: Tensor | None) -> None:
        """Create parameters, once the field is known."""

    @abstractmethod
    def entries(self, features: Tensor) -> dist.Distribution:
        """The distribution of single entries from features [..., *S, width]: batch shape [..., *S]."""

    def forward(self, features: Tensor) -> dist.Distribution:
        """The distribution of the whole field: batch shape [...], event shape S."""
        shape = self.field.shape
        each = features.reshape(features.shape[:-1] + shape + (self.width,))
        return self.entries(each).to_event(len(shape))

    def initial_bias(self, train: Tensor) -> Tensor:
        """The decoder's output bias [|S| * width] at which p(x) fits the train rows' marginals; zeros if unknown."""
        return torch.zeros(self.field.size * self.width)


class Bernoulli(Likelihood):
    """Independent binary entries: log p(x | logits) = x l - softplus(l) nats each.

    Grey levels are refused: a cross-entropy of grey levels is no log-likelihood. Binarise the data instead.

    Example:
        >>> Bernoulli().build(Field("x", "binary", (2, 2)))(torch.zeros(5, 4)).event_shape
        torch.Size([2, 2])
    """

    kinds = ("binary",)
    support = constraints.boolean

    def entries(self, features: Tensor) -> dist.Distribution:
        """One logit an entry."""
        return dist.Bernoulli(logits=features.squeeze(-1))

    def initial_bias(self, train: Tensor) -> Tensor:
        """The logit of the mean of the data (Burda et al. 2016, arXiv 1509.00519)."""
        mean = train.reshape(len(train), -1).nanmean(0).nan_to_num(0.5).clamp(1e-3, 1 - 1e-3)
        return torch.logit(mean)


class Categorical(Likelihood):
    """Independent entries with C levels: log p(x | logits) = log_softmax(l)[x] nats each.

    Example:
        >>> Categorical().build(Field("x", "categorical", (8, 8), 17))(torch.zeros(5, 64 * 17)).batch_shape
        torch.Size([5])
    """

    kinds = ("categorical", "count", "binary")
    support = constraints.nonnegative_integer

    def setup(self, train: Tensor | None) -> None:
        """Features are one logit for each level."""
        self.width = 2 if self.field.kind == "binary" else int(self.field.cardinality or 0)
        if self.width < 1:
            raise UserError(f"field {self.field.name!r} has no number of levels; give Field(cardinality=...)")

    def entries(self, features: Tensor) -> dist.Distribution:
        """One logit a level."""
        return dist.Categorical(logits=features)

    def initial_bias(self, train: Tensor) -> Tensor:
        """The smoothed log frequencies of the levels, entry by entry."""
        levels = torch.arange(self.width)
        counts = (train.reshape(len(train), -1, 1) == levels).sum(0) + 0.1
        return (counts / counts.sum(-1, keepdim=True)).log().reshape(-1)


class Normal(Likelihood):
    """Independent normal entries with a learned (default) or fixed scale, one for each entry.

    log p(x | m) = -((x - m) / s)^2 / 2 - log s - log(2 pi) / 2 nats each, normaliser included. The decoder's
    mean is in units of the train split's deviation around its mean, so that unscaled columns need no care.

    Raises:
        UserError: if a fixed scale is not positive.

    Example:
        >>> Normal(scale=0.5).build(Field("x", "real", (3,)))(torch.zeros(2, 3)).event_shape
        torch.Size([3])
    """

    kinds = ("real", "positive", "unit")
    support = constraints.real
    shift: Tensor
    unit: Tensor

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        if scale is not None and not scale > 0:
            raise UserError(f"Normal: scale must be positive, got {scale}")
        self.scale = scale

    def setup(self, train: Tensor | None) -> None:
        """Location and unit from the train split; the scale starts at the deviation of the data."""
        shift, unit = torch.zeros(self.field.shape), torch.ones(self.field.shape)
        if train is not None:
            shift = train.nanmean(0).nan_to_num()
            unit = (train - shift).square().nanmean(0).nan_to_num().sqrt()
            unit = torch.where(unit > 0, unit, torch.ones_like(unit))
        self.register_buffer("shift", shift)
        self.register_buffer("unit", unit)
        if self.scale is None:
            self.log_scale = nn.Parameter(torch.zeros(self.field.shape, dtype=unit.dtype))

    def entries(self, features: Tensor) -> dist.Distribution:
        """The decoder gives the standardised mean."""
        loc = self.shift + self.unit * features.squeeze(-1)
        if self.scale is not None:
            return dist.Normal(loc, torch.full_like(self.unit, self.scale))
        # A column that the latents explain exactly would drive its scale to 0 and the density to infinity.
        return dist.Normal(loc, self.unit * (1e-3 + self.log_scale.exp()))


class Poisson(Likelihood):
    """Independent counts: log p(x | r) = x log r - r - log x! nats each, with r = softplus(feature).

    Example:
        >>> Poisson().build(Field("x", "count", (3,)))(torch.zeros(2, 3)).event_shape
        torch.Size([3])
    """

    kinds = ("count",)
    support = constraints.nonnegative_integer

    def entries(self, features: Tensor) -> dist.Distribution:
        """One rate an entry."""
        return dist.Poisson(F.softplus(features.squeeze(-1)) + 1e-6)

    def initial_bias(self, train: Tensor) -> Tensor:
        """The inverse softplus of the mean count."""
        mean = train.reshape(len(train), -1).nanmean(0).nan_to_num(1.0).clamp(min=1e-2)
        return mean + torch.log(-torch.expm1(-mean))


_DEFAULTS: dict[str, type[Likelihood]] = {
    "binary": Bernoulli,
    "categorical": Categorical,
    "real": Normal,
    "positive": Normal,
    "unit": Normal,
    "count": Poisson,
}


def fitting(field: Field) -> list[str]:
    """The names of the likelihoods that are distributions over this field."""
    known = (Bernoulli, Categorical, Normal, Poisson)
    return [cls.__name__ for cls in known if field.kind in cls.kinds]


def default_likelihood(field: Field) -> Likelihood:
    """The likelihood that a field gets when none is named.

    Example:
        >>> type(default_likelihood(Field("x", "binary", (4,)))).__name__
        'Bernoulli'
    """
    return _DEFAULTS[field.kind]()
