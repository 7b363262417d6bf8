"""Likelihoods of numbers between 0 and 1, with and without the ends."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import SigmoidTransform
from torch.nn import functional as F

from ppl_vae.likelihoods.base import Likelihood

__all__ = ["Beta", "ContinuousBernoulli"]


class ContinuousBernoulli(Likelihood):
    """Independent grey levels on [0, 1], ends included: log p(x | l) = x l - log((e^l - 1) / l) nats each.

    What a cross-entropy of grey levels lacks to be a log-likelihood is its normaliser. Shapes: features [..., |S|],
    x [..., *S].

    Source: Loaiza-Ganem & Cunningham 2019, arXiv 1907.06845.

    Example:
        >>> from ppl_vae.data import Field
        >>> grey = ContinuousBernoulli().build(Field("x", "unit", (2,)))(torch.tensor([0.0, 50.0]))
        >>> grey.base_dist.mean
        tensor([0.5000, 0.9800])
    """

    kinds = ("unit",)
    support = constraints.unit_interval

    def entries(self, features: Tensor) -> dist.Distribution:
        """One logit an entry."""
        return TiltedUniform(features.squeeze(-1))

    def initial_bias(self, train: Tensor) -> Tensor:
        """A logit whose mean is near the mean of the data, (1 / (1 - m) - 1 / m) at both ends."""
        mean = train.reshape(len(train), -1).nanmean(0).nan_to_num(0.5).clamp(0.01, 0.99)
        return 1 / (1 - mean) - 1 / mean


class TiltedUniform(dist.TorchDistribution):
    """The continuous Bernoulli distribution by its logit l: density l e^(l x) / (e^l - 1) on [0, 1].

    Torch's own is given by clamped probabilities: in float32 it integrates to 0.80 at l = 20 and 0.32 at l = 50.

    Example:
        >>> x = torch.linspace(0, 1, 100_001, dtype=torch.float64)
        >>> torch.trapezoid(TiltedUniform(torch.tensor(50.0)).log_prob(x).exp(), x)
        tensor(1.0000, dtype=torch.float64)
    """

    arg_constraints = {"logit": constraints.real}  # noqa: RUF012, the attribute that torch reads
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logit: Tensor, validate_args: bool | None = None) -> None:
        self.logit = logit
        super().__init__(logit.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TiltedUniform:
        """The same distribution, repeated."""
        new = self._get_checked_instance(TiltedUniform, _instance)
        TiltedUniform.__init__(new, self.logit.expand(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _apart(self, small: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
        """Where l is small, l there, and l elsewhere; both without values that spoil the other's gradient."""
        near = self.logit.abs() < small
        return near, torch.where(near, self.logit, 0.0), torch.where(near, torch.ones_like(self.logit), self.logit)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats."""
        if self._validate_args:
            self._validate_sample(value)
        near, small, l = self._apart()  # where it is, a series in l, to the order l^6
        size = l.abs()
        # log((e^l - 1) / l) = max(l, 0) + log(1 - e^-|l|) - log |l|
        far_normaliser = l.clamp(min=0) + torch.log(-torch.expm1(-size)) - size.log()
        near_normaliser = small / 2 + small**2 / 24 - small**4 / 2880
        return value * self.logit - torch.where(near, near_normaliser, far_normaliser)

    @property
    def mean(self) -> Tensor:
        """1 / (1 - e^-l) - 1 / l."""
        near, small, l = self._apart()
        return torch.where(near, 0.5 + small / 12 - small**3 / 720, -1 / torch.expm1(-l) - 1 / l)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """By the inverse of the distribution function, log(1 + u (e^l - 1)) / l."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self.logit.dtype, device=self.logit.device)
        near, small, l = self._apart(1e-3)
        size = l.abs()
        # for l > 0 from the upper end, 1 + log(v + (1 - v) e^-l) / l with v = 1 - u: nothing overflows
        fall = torch.log1p(torch.where(l > 0, 1 - u, u) * torch.expm1(-size)).neg() / size
        far = torch.where(l > 0, 1 - fall, fall)
        return torch.where(near, u + small * u * (1 - u) / 2, far).clamp(0, 1)


class _OpenUnitInterval(constraints.Constraint):
    """0 < x < 1."""

    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)

    def __repr__(self) -> str:
        return "0 < x < 1"


open_unit_interval = _OpenUnitInterval()
for registry in (biject_to, transform_to):
    registry.register(_OpenUnitInterval, lambda constraint: SigmoidTransform())


class OpenBeta(dist.Beta):
    """Torch says that its support is closed, but the density at the ends is 0 or infinite."""

    support = open_unit_interval


class Beta(Likelihood):
    """Independent entries strictly between 0 and 1, such as rates: a density with two parameters from the decoder.

    log p(x | a, b) = (a - 1) log x + (b - 1) log(1 - x) - log B(a, b) nats each, a and b at least 0.01.
    Shapes: features [..., |S| * 2], x [..., *S]. The ends 0 and 1 are refused: there the density is 0 or infinite.

    Source: Ferrari & Cribari-Neto 2004, J. Appl. Stat. 31.

    Example:
        >>> from ppl_vae.data import Field
        >>> Beta().build(Field("x", "unit", (3,)))(torch.zeros(2, 6)).event_shape
        torch.Size([3])
        >>> Beta().build(Field("rate", "unit"), torch.tensor([0.3, 1.0]))
        Traceback (most recent call last):
        ppl_vae.errors.UserError: field 'rate' (training row 1: value 1) is outside the support of Beta, 0 < x < 1: \
use Normal or ContinuousBernoulli or Laplace or LogNormal or StudentT
    """

    kinds = ("unit",)
    support = open_unit_interval
    width = 2

    def entries(self, features: Tensor) -> dist.Distribution:
        """Two concentrations an entry."""
        a, b = (F.softplus(features) + 0.01).unbind(-1)
        return OpenBeta(a, b)

    def initial_bias(self, train: Tensor) -> Tensor:
        """The concentrations that have the mean and the variance of the data."""
        x = train.reshape(len(train), -1)
        mean = x.nanmean(0).nan_to_num(0.5).clamp(0.01, 0.99)
        variance = (x - mean).square().nanmean(0).nan_to_num(1 / 12)
        total = (mean * (1 - mean) / variance.clamp(min=1e-6) - 1).clamp(0.1, 1e3)
        both = (torch.stack([mean * total, (1 - mean) * total], dim=-1) - 0.01).clamp(min=1e-3)
        return (both + torch.log(-torch.expm1(-both))).reshape(-1)
