"""A likelihood of 8-bit images: mixtures of logistics, cut into the levels of the data."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from ppl_vae.data.schema import Field
from ppl_vae.errors import check_whole
from ppl_vae.likelihoods.base import Likelihood, with_gaps
from ppl_vae.likelihoods.logistic import log_mass

__all__ = ["DiscretisedLogistic"]


class DiscretisedLogistic(Likelihood):
    """Independent whole numbers 0 to L - 1 with an order, such as bytes: the mass of K logistics around each level.

    p(x) = sum_k w_k (sigmoid((x + 1/2 - m_k) / s_k) - sigmoid((x - 1/2 - m_k) / s_k)), log p in nats each; level 0
    takes the whole lower tail and level L - 1 the upper, so that the masses sum to 1. w, m and s come from the decoder,
    m and s in units of half the range; of a column of a table in units of the deviation of its training values, around
    their mean (years since 1990 take a small part of the range from 0 on).

    Shapes: features [..., |S| * 2], or [..., |S| * 3 K] for K > 1; x [..., *S].

    Args:
        components: K, the number of logistics.
        levels: L; by default the number of categories of the field, and for counts 256, as of bytes.

    Raises:
        UserError: if K < 1 or L < 2, or a value is not below L.

    Source: Salimans et al. 2017 (PixelCNN++), arXiv 1701.05517; the single logistic: Kingma et al. 2016,
    arXiv 1606.04934.

    Example:
        >>> bytes_ = DiscretisedLogistic(components=10).build(Field("x", "count", (3, 8, 8), 256))
        >>> bytes_(torch.zeros(5, bytes_.size)).event_shape
        torch.Size([3, 8, 8])
    """

    kinds = ("count", "categorical")
    support = constraints.nonnegative_integer
    linear = True
    origin: Tensor
    unit: Tensor

    def __init__(self, components: int = 1, levels: int | None = None) -> None:
        super().__init__()
        self.components = components = check_whole("DiscretisedLogistic: components", components)
        self.levels = None if levels is None else check_whole("DiscretisedLogistic: levels", levels, 2)
        self.width = 2 if components == 1 else 3 * components

    def levels_of(self, field: Field) -> int:
        """L for a field."""
        return self.levels or max(2, 256 if field.kind == "count" else int(field.cardinality or 0))

    def support_of(self, field: Field) -> Any:
        """0 to L - 1."""
        return constraints.integer_interval(0, self.levels_of(field) - 1)

    def setup(self, train: Tensor | None) -> None:
        """Where features are 0 and how far 1 is from there, in halves of the range around its middle."""
        origin, unit = torch.zeros(()), torch.ones(())
        if self.field.shape == () and train is not None:
            seen = self._in_range(train)
            origin = seen.nanmean().nan_to_num()
            unit = (seen - origin).square().nanmean().nan_to_num(1.0).sqrt().clamp(min=self._step())
        self.register_buffer("origin", origin)
        self.register_buffer("unit", unit)

    def _step(self) -> float:
        """From one level to the next."""
        return 2 / (self.levels_of(self.field) - 1)

    def _in_range(self, train: Tensor) -> Tensor:
        """Values [n, |S|], the levels spread over [-1, 1]."""
        return with_gaps(self.field, train).reshape(len(train), -1) * self._step() - 1

    def linear_targets(self, train: Tensor) -> Tensor:
        """Of a single logistic, the location."""
        rows = (self._in_range(train) - self.origin) / self.unit
        each = torch.full((*rows.shape, self.width), torch.nan, dtype=rows.dtype, device=rows.device)
        if self.components == 1:
            each[..., 0] = rows
        return each.reshape(len(rows), -1)

    def start_noise(self, noise: Tensor) -> Tensor:
        """Of a single logistic, the raw scale of this deviation, or of a third of a level if that is more."""
        bias = torch.full((self.field.size, self.width), torch.nan, dtype=noise.dtype, device=noise.device)
        if self.components == 1:
            noise = torch.maximum(noise.reshape(-1, 2)[:, 0], self._step() / 3 / self.unit)
            scale = noise * math.sqrt(3) / math.pi
            bias[:, 1] = scale + torch.log(-torch.expm1(-scale))
        return bias.reshape(-1)

    def entries(self, features: Tensor) -> dist.Distribution:
        """Locations, raw scales and, for a mixture, logits of the weights."""
        loc, raw, *logits = features.split(self.components, dim=-1)
        loc, scale = self.origin + self.unit * loc, self.unit * F.softplus(raw) + 1e-4
        return LogisticLevels(logits[0] if logits else torch.zeros_like(loc), loc, scale, self.levels_of(self.field))

    def initial_bias(self, train: Tensor) -> Tensor:
        """Locations spread over a deviation around the mean of the data, scales of its deviation."""
        x = (self._in_range(train) - self.origin) / self.unit
        mean = x.nanmean(0).nan_to_num()
        deviation = torch.maximum((x - mean).square().nanmean(0).nan_to_num(1.0).sqrt(), self._step() / self.unit)
        k = self.components
        places = torch.linspace(-1, 1, k, device=x.device) if k > 1 else x.new_zeros(1)
        loc = mean.unsqueeze(-1) + deviation.unsqueeze(-1) * places
        scale = deviation * math.sqrt(3) / math.pi  # the scale of a logistic with this deviation
        raw = (scale + torch.log(-torch.expm1(-scale))).unsqueeze(-1).expand(-1, k)
        return torch.cat([loc, raw] + [torch.zeros_like(loc)] * (k > 1), dim=-1).reshape(-1)


class LogisticLevels(dist.TorchDistribution):
    """A mixture of logistics, cut into levels 0 to L - 1, both tails included.

    Shapes: logits, loc, scale [..., K], loc and scale with the levels spread over [-1, 1]; values [...].

    Example:
        >>> levels = LogisticLevels(torch.zeros(1), torch.zeros(1), torch.ones(1), 256)
        >>> round(levels.log_prob(torch.arange(256)).exp().sum().item(), 4)
        1.0
    """

    arg_constraints = {  # noqa: RUF012, the attribute that torch reads
        "logits": constraints.independent(constraints.real, 1),
        "loc": constraints.independent(constraints.real, 1),
        "scale": constraints.independent(constraints.positive, 1),
    }
    has_enumerate_support = True

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, levels: int, validate_args: bool | None = None
    ) -> None:
        self.logits, self.loc, self.scale = torch.broadcast_tensors(logits, loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """0 to L - 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogisticLevels:
        """The same distribution, repeated."""
        new = self._get_checked_instance(LogisticLevels, _instance)
        shape = (*batch_shape, self.loc.shape[-1])
        logits, loc, scale = self.logits.expand(shape), self.loc.expand(shape), self.scale.expand(shape)
        LogisticLevels.__init__(new, logits, loc, scale, self.levels, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _standard(self, place: Tensor) -> Tensor:
        """A place on the scale of the levels as each logistic sees it, [..., K]."""
        return (place.unsqueeze(-1) * (2 / (self.levels - 1)) - 1 - self.loc) / self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.to(self.loc.dtype)
        low, high = self._standard(value - 0.5), self._standard(value + 0.5)
        at = value.unsqueeze(-1)
        mass = torch.where(at == self.levels - 1, F.logsigmoid(-low), log_mass(low, high))
        mass = torch.where(at == 0, F.logsigmoid(high), mass)
        return (self.logits.log_softmax(-1) + mass).logsumexp(-1)

    @property
    def mean(self) -> Tensor:
        """The sum of P(x >= j) over j; level by level, as an image times 256 levels is large."""
        weights, total = self.logits.softmax(-1), torch.zeros(self.batch_shape, dtype=self.loc.dtype)
        total = total.to(self.loc.device)
        for j in range(1, self.levels):
            total = total + (weights * torch.sigmoid(-self._standard(torch.full_like(total, j - 0.5)))).sum(-1)
        return total

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A logistic, a draw from it, the nearest level."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            which = dist.Categorical(logits=self.logits).sample(torch.Size(sample_shape)).unsqueeze(-1)
            loc, scale = (p.expand((*shape, p.shape[-1])).gather(-1, which).squeeze(-1) for p in (self.loc, self.scale))
            u = torch.rand(shape, dtype=loc.dtype, device=loc.device)
            eps = torch.finfo(u.dtype).tiny
            place = loc + scale * (u.clamp(min=eps).log() - torch.log1p(-u))
            return ((place + 1) * (self.levels - 1) / 2).round().clamp(0, self.levels - 1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All levels, on a new leading dim."""
        values = torch.arange(self.levels, dtype=self.loc.dtype, device=self.loc.device)
        values = values.reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1,) + self.batch_shape) if expand else values
