"""The distribution behind mixtures, VampPrior and exemplars: many diagonal normals, compared with many values."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["NormalMixture"]


class NormalMixture(dist.TorchDistribution):
    """A mixture of K diagonal normals, log p(z) = logsumexp_k [log w_k + log N(z; m_k, s_k^2)] nats.

    The same as `MixtureSameFamily`, but it never holds a tensor [..., K, d]: squares are expanded and all pairs of
    values and components come from two matrix products, in float64 because the terms cancel. With 500 components
    this is several times faster, and 50,000 become possible.

    Shapes: logits [*batch, K], loc and scale [K, d], z [..., *batch, d]. The components are shared by the batch,
    their weights need not be.

    Example:
        >>> fn = NormalMixture(torch.zeros(5), torch.zeros(5, 2), torch.ones(5, 2))
        >>> fn.expand([7]).log_prob(torch.zeros(3, 7, 2)).shape
        torch.Size([3, 7])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    support = constraints.real_vector

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        self.components = loc, scale.expand_as(loc)
        super().__init__(logits.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalMixture:
        """Only the weights have a batch."""
        logits = self.logits.expand(torch.Size(batch_shape) + self.logits.shape[-1:])
        return NormalMixture(logits, *self.components, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """All components at all values."""
        if self._validate_args:
            self._validate_sample(value)
        loc, scale = (v.double() for v in self.components)
        z, precision = value.double(), scale.pow(-2)
        square = z.square() @ precision.mT - 2 * z @ (loc * precision).mT + (loc.square() * precision).sum(-1)
        log_norm = scale.log().sum(-1) + loc.shape[-1] * math.log(2 * math.pi) / 2
        each = self.logits.double().log_softmax(-1) - log_norm - square / 2
        return each.logsumexp(-1).to(value.dtype)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - as torch has it
        """A component, then a value."""
        loc, scale = self.components
        with torch.no_grad():
            k = dist.Categorical(logits=self.logits).sample(torch.Size(sample_shape))
            return torch.normal(loc[k], scale[k])
