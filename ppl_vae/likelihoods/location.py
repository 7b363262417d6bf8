"""Likelihoods of real numbers: a location from the decoder, and a scale that is fixed, learned, or from it too."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ppl_vae.errors import UserError, check_flag, check_number
from ppl_vae.likelihoods.base import Likelihood, with_gaps

__all__ = ["Laplace", "LogNormal", "Normal", "StudentT"]

LEAST = 1e-3
"""The smallest scale, in deviations of the training rows: an entry that the latents explain exactly would drive
its scale to 0 and the density to infinity."""
RESOLVED = 10_000
"""So many training rows tell how finely an entry was written down."""


ONE = 0.5413
"""softplus is 1 here."""


class LocationScale(Likelihood):
    """Independent entries from a location-scale family; a subclass gives `family`.

    The decoder's location is in units of the train split's deviation around its mean, so that unscaled columns need
    no care. A learned scale stays above a floor that follows the resolution of the entry, r / sqrt(12) where r is the
    smallest step between two training values: what was rounded to tenths has no density narrower than a tenth.

    Args:
        scale: one fixed scale for all entries, in the units of the data; by default it is learned, one an entry.
        per_row: let the decoder give a scale to each entry of each row.

    Raises:
        UserError: if a fixed scale is not positive, or was given although each row has its own.
    """

    kinds: ClassVar[tuple[str, ...]] = ("real", "positive", "unit", "count")
    support: ClassVar[Any] = constraints.real
    linear = True
    shift: Tensor
    unit: Tensor
    least: Tensor

    def __init__(self, scale: float | None = None, *, per_row: bool = False) -> None:
        super().__init__()
        name = type(self).__name__
        if scale is not None:
            scale = check_number(f"{name}: scale", scale, positive=True)
        check_flag(f"{name}: per_row", per_row)
        if scale is not None and per_row:
            raise UserError(f"{name}: scale={scale} is for all rows, per_row=True gives each its own: leave one out")
        self.scale, self.per_row = scale, per_row
        self.width = 2 if per_row else 1

    @abstractmethod
    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """The distribution of single entries."""

    def standardised_by(self, train: Tensor) -> Tensor:
        """The values whose mean and deviation are the decoder's origin and unit."""
        return train

    def setup(self, train: Tensor | None) -> None:
        """Location and unit from the train split; the scale starts at the deviation of the data."""
        shift, unit = torch.zeros(self.field.shape), torch.ones(self.field.shape)
        if train is not None:
            train = self.standardised_by(with_gaps(self.field, train))
            shift = train.nanmean(0).nan_to_num()
            unit = (train - shift).square().nanmean(0).nan_to_num().sqrt()
            unit = torch.where(unit > 0, unit, torch.ones_like(unit))
        self.register_buffer("shift", shift)
        self.register_buffer("unit", unit)
        self.register_buffer("least", torch.full_like(unit, LEAST) if train is None else _resolution(train) / unit)
        self.least.clamp_(LEAST, 1.0)
        if self.scale is None and not self.per_row:
            self.log_scale = nn.Parameter(torch.zeros(self.field.shape, dtype=unit.dtype))

    def linear_targets(self, train: Tensor) -> Tensor:
        """The standardised entries."""
        rows = (self.standardised_by(with_gaps(self.field, train)) - self.shift) / self.unit
        each = torch.full((*rows.shape, self.width), torch.nan, dtype=rows.dtype, device=rows.device)
        each[..., 0] = rows
        return each.reshape(len(rows), -1)

    @torch.no_grad()
    def start_noise(self, noise: Tensor) -> Tensor:
        """The learned scale of each entry, or with `per_row` the feature that says it."""
        found = (noise.reshape(*self.field.shape, self.width)[..., 0] - self.least).clamp(min=LEAST)
        bias = torch.full((*self.field.shape, self.width), torch.nan, dtype=found.dtype, device=found.device)
        if self.per_row:
            bias[..., 1] = found + torch.log(-torch.expm1(-found)) - ONE
        elif self.scale is None:
            self.log_scale.copy_(found.log())
        return bias.reshape(-1)

    def entries(self, features: Tensor) -> dist.Distribution:
        """The decoder gives the standardised location, and with `per_row` the scale."""
        return self.family(self.shift + self.unit * features[..., 0], self._scale(features))

    def _scale(self, features: Tensor) -> Tensor:
        if self.per_row:
            # Shifted so that feature 0 is the deviation of the data.
            return self.unit * (self.least + F.softplus(features[..., 1] + ONE))
        if self.scale is not None:
            return torch.full_like(self.unit, self.scale)
        return self.unit * (self.least + self.log_scale.exp())


def _resolution(train: Tensor) -> Tensor:
    """The deviation of a uniform over the smallest step between two values of an entry, [*S]; 0 if all are alike."""
    steps = train[:RESOLVED].sort(0).values.diff(dim=0)  # NaN come last
    steps = torch.where(steps > 0, steps, torch.inf)
    least = steps.amin(0) if len(steps) else torch.full_like(train[0], torch.inf)
    return torch.where(least.isfinite(), least / 12**0.5, 0.0)


class Normal(LocationScale):
    """Independent normal entries with a learned (default), fixed or per-row scale.

    log p(x | m, s) = -((x - m) / s)^2 / 2 - log s - log(2 pi) / 2 nats each, normaliser included.

    Shapes: features [..., |S|] or, with `per_row`, [..., |S| * 2]; x [..., *S].

    Args:
        scale: one fixed s for all entries, in the units of the data; by default it is learned, one an entry.
        per_row: let the decoder give s to each entry of each row, at least a thousandth of the data's deviation
            (Takahashi et al. 2018, IJCAI, on what happens without such a bound).

    Raises:
        UserError: if a fixed scale is not positive, or was given together with `per_row`.

    Example:
        >>> from ppl_vae.data import Field
        >>> Normal(scale=0.5).build(Field("x", "real", (3,)))(torch.zeros(2, 3)).event_shape
        torch.Size([3])
    """

    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """Normal entries."""
        return dist.Normal(loc, scale)


class Laplace(LocationScale):
    """Independent Laplace entries, whose best location is the median: log p(x | m, b) = -|x - m| / b - log(2 b) nats.

    Shapes, arguments and errors as for `Normal`, with the scale b.

    Example:
        >>> from ppl_vae.data import Field
        >>> Laplace().build(Field("x", "real", (3,)))(torch.zeros(2, 3)).event_shape
        torch.Size([3])
    """

    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """Laplace entries."""
        return dist.Laplace(loc, scale)


class StudentT(LocationScale):
    """Independent Student entries: tails that let single wild values be, log p ~ -(df + 1) log |x| nats far out.

    log p(x | m, s) = log G((v + 1) / 2) - log G(v / 2) - log(pi v) / 2 - log s - (v + 1) / 2 log(1 + t^2 / v) nats
    each, t = (x - m) / s, v = df, G the gamma function. Shapes as for `Normal`.

    Args:
        df: the degrees of freedom, above 1 so that there is a mean; by default learned, one an entry.
        scale: as for `Normal`.
        per_row: as for `Normal`.

    Raises:
        UserError: if df is not above 1, or for a scale that `Normal` would refuse.

    Source: Lange, Little & Taylor 1989, JASA 84.

    Example:
        >>> from ppl_vae.data import Field
        >>> StudentT(df=4.0).build(Field("x", "real", (3,)))(torch.zeros(2, 3)).event_shape
        torch.Size([3])
    """

    def __init__(self, df: float | None = None, scale: float | None = None, *, per_row: bool = False) -> None:
        super().__init__(scale, per_row=per_row)
        if df is not None and not check_number("StudentT: df", df) > 1:
            raise UserError(f"StudentT: df must be above 1, or there is no mean, got {df}")
        self.df = df

    def setup(self, train: Tensor | None) -> None:
        """Degrees of freedom start at 5."""
        super().setup(train)
        if self.df is None:
            self.raw_df = nn.Parameter(torch.full(self.field.shape, 3.98, dtype=self.unit.dtype))

    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """Student entries."""
        df = torch.full_like(self.unit, self.df) if self.df is not None else 1.01 + F.softplus(self.raw_df)
        return dist.StudentT(df, loc, scale)


class LogNormal(LocationScale):
    """Independent positive entries whose logarithm is normal: log p(x | m, s) = log N(log x; m, s^2) - log x nats.

    Shapes, arguments and errors as for `Normal`; m and s are of log x. The density is over x, not over log x.
    A value that is not above 0 is refused.

    Example:
        >>> from ppl_vae.data import Field
        >>> LogNormal().build(Field("x", "positive", (3,)))(torch.zeros(2, 3)).event_shape
        torch.Size([3])
        >>> LogNormal().build(Field("price", "real"), torch.tensor([2.5, 0.0]))
        Traceback (most recent call last):
        ppl_vae.errors.UserError: field 'price' (training row 1: value 0) is outside the support of LogNormal, \
GreaterThan(lower_bound=0.0): use Normal or Laplace or StudentT
    """

    kinds = ("positive", "real", "unit")
    support = constraints.positive

    def standardised_by(self, train: Tensor) -> Tensor:
        """Logarithms."""
        return train.log()

    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """Entries whose logarithm is normal."""
        return dist.LogNormal(loc, scale)
