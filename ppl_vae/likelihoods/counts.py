"""Likelihoods of counts: without an end, with extra spread, and out of a known number of trials."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ppl_vae.data.schema import Field
from ppl_vae.errors import UserError, check_whole
from ppl_vae.likelihoods.base import Likelihood, with_gaps

__all__ = ["Binomial", "NegativeBinomial", "Poisson"]


LINEAR = 5.0
"""From this mean on softplus is nearly the identity."""


class Counts(Likelihood):
    """Independent counts whose mean is softplus(u * feature), u the deviation of the training counts, at least 1.

    So a feature moves a count of hundreds as far as it moves one of a few.
    """

    kinds = ("count",)
    support = constraints.nonnegative_integer
    linear = True
    unit: Tensor

    def setup(self, train: Tensor | None) -> None:
        """u, from the training rows."""
        unit = torch.ones(self.field.shape)
        if train is not None:
            unit = (train - train.nanmean(0)).square().nanmean(0).nan_to_num().sqrt().clamp(min=1.0)
        self.register_buffer("unit", unit.to(torch.get_default_dtype()))

    def mean_count(self, features: Tensor) -> Tensor:
        """A mean from one feature an entry, never 0, where the log of a rate is infinite."""
        return F.softplus(self.unit * features.squeeze(-1)) + 1e-6

    def initial_bias(self, train: Tensor) -> Tensor:
        """The inverse softplus of the mean count, in units of u."""
        mean = train.reshape(len(train), -1).nanmean(0).nan_to_num(1.0).clamp(min=1e-2)
        return (mean + torch.log(-torch.expm1(-mean))) / self.unit.reshape(-1)

    def linear_targets(self, train: Tensor) -> Tensor:
        """The counts in units of u, of entries that are large enough for softplus to be linear."""
        rows = train.reshape(len(train), -1)
        large = rows.nanmean(0).nan_to_num() >= LINEAR
        return torch.where(large, rows / self.unit.reshape(-1), torch.nan)


class Poisson(Counts):
    """Independent counts: log p(x | r) = x log r - r - log x! nats each, with r = softplus(u * feature).

    u is the deviation of the training counts, at least 1.

    Shapes: features [..., |S|], x [..., *S].

    Example:
        >>> Poisson().build(Field("x", "count", (3,)))(torch.zeros(2, 3)).event_shape
        torch.Size([3])
    """

    def entries(self, features: Tensor) -> dist.Distribution:
        """One rate an entry."""
        return dist.Poisson(self.mean_count(features))


class NegativeBinomial(Counts):
    """Independent counts with more spread than Poisson's: mean m = softplus(u * feature), variance m + m^2 / r.

    u is the deviation of the training counts, at least 1.

    log p(x | m) = log G(x + r) - log G(r) - log x! + r log(r / (r + m)) + x log(m / (r + m)) nats each, G the gamma
    function. r is learned, one an entry, below 1000, where the distribution is Poisson's to a relative m / 1000.
    Shapes: features [..., |S|], x [..., *S].

    Source: Hilbe 2011, Negative Binomial Regression (the form called NB2).

    Example:
        >>> NegativeBinomial().build(Field("x", "count", (3,)))(torch.zeros(2, 3)).event_shape
        torch.Size([3])
    """

    largest = 1e3  # beyond, log G(x + r) - log G(r) loses its digits in float32

    def setup(self, train: Tensor | None) -> None:
        """r starts where mean and variance are those of the data."""
        super().setup(train)
        size = torch.ones(self.field.shape)
        if train is not None:
            mean = self.mean = train.nanmean(0).nan_to_num(1.0)
            extra = (train - mean).square().nanmean(0).nan_to_num() - mean
            size = torch.where(extra > 0, mean.square() / extra.clamp(min=1e-6), self.largest).clamp(0.05, 0.5e3)
        self.raw_size = nn.Parameter(torch.logit(size / self.largest))

    @property
    def dispersion(self) -> Tensor:
        """r, [*S]."""
        return self.largest * torch.sigmoid(self.raw_size)

    def entries(self, features: Tensor) -> dist.Distribution:
        """One mean an entry."""
        return dist.NegativeBinomial(self.dispersion, logits=self.mean_count(features).log() - self.dispersion.log())

    @torch.no_grad()
    def start_noise(self, noise: Tensor) -> Tensor:
        """r where the variance that is left is m + m^2 / r, at the mean at which r starts."""
        before = (self.mean.square() / self.dispersion + self.mean).clamp(min=1e-6)
        left = torch.minimum((noise.reshape(self.field.shape).to(before) * self.unit).square(), before)
        size = self.mean.square() / (left - self.mean).clamp(min=1e-6)
        size = torch.where(self.mean >= LINEAR, size, self.dispersion).clamp(0.05, 0.5e3)
        self.raw_size.copy_(torch.logit(size / self.largest))
        return super().start_noise(noise)


class Binomial(Likelihood):
    """Independent counts out of n trials: log p(x | l) = log C(n, x) + x l - n softplus(l) nats each.

    Shapes: features [..., |S|], x [..., *S].

    Args:
        total_count: n; by default the largest value of the field.

    Raises:
        UserError: if n is not a whole number of at least 1, or a value is larger.

    Example:
        >>> Binomial(10).build(Field("x", "count", (3,), 9))(torch.zeros(2, 3)).base_dist.mean[0]
        tensor([5., 5., 5.])
    """

    kinds = ("count", "categorical")
    support = constraints.nonnegative_integer

    def __init__(self, total_count: int | None = None) -> None:
        super().__init__()
        self.total_count = None if total_count is None else check_whole("Binomial: total_count", total_count)

    def trials(self, field: Field) -> int:
        """n for a field.

        Raises:
            UserError: if neither the likelihood nor the field says.
        """
        if self.total_count is None and not field.cardinality:
            raise UserError(f"field {field.name!r} has no largest value: give Binomial(total_count=...)")
        return self.total_count or max(int(field.cardinality or 0) - 1, 1)

    def support_of(self, field: Field) -> Any:
        """0 to n."""
        return constraints.integer_interval(0, self.trials(field))

    def entries(self, features: Tensor) -> dist.Distribution:
        """One logit an entry."""
        return dist.Binomial(self.trials(self.field), logits=features.squeeze(-1))

    def initial_bias(self, train: Tensor) -> Tensor:
        """The logit of the mean share."""
        share = with_gaps(self.field, train).reshape(len(train), -1).nanmean(0) / self.trials(self.field)
        return torch.logit(share.nan_to_num(0.5).clamp(1e-3, 1 - 1e-3))
