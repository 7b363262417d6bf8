"""Normalizing flows of zuko as Pyro distributions."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

__all__ = ["FlowDistribution", "zuko_flows"]


def zuko_flows() -> Any:
    """The module `zuko.flows`. Importing zuko switches torch's validation off for the whole process: it is put back."""
    before = Distribution._validate_args
    import zuko.flows

    Distribution.set_default_validate_args(before)
    return zuko.flows


class FlowDistribution(dist.TorchDistribution):
    """A normalizing flow, log p(z) = log N(f(z); 0, I) + log |det df/dz| nats, with f a transform of zuko.

    log p of any value costs one pass through f; a draw costs its inverse.

    Shapes: z [..., *batch, d].

    Example:
        >>> flow = FlowDistribution(zuko_flows().MAF(2)().transform, torch.zeros(2))
        >>> flow.expand([7]).log_prob(torch.zeros(3, 7, 2)).shape
        torch.Size([3, 7])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, transform: Any, zero: Tensor, validate_args: bool | None = None) -> None:
        self.transform, self.zero = transform, zero
        super().__init__(zero.shape[:-1], zero.shape[-1:], validate_args=validate_args)

    @property
    def base(self) -> Any:
        """N(0, I)."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        """Only the base has a batch."""
        zero = self.zero.expand(torch.Size(batch_shape) + self.event_shape)
        return FlowDistribution(self.transform, zero, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Change of variables."""
        if self._validate_args:
            self._validate_sample(value)
        noise, log_det = self.transform.call_and_ladj(value)
        return self.base.log_prob(noise) + log_det

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - as torch has it
        """The inverse of the transform at draws of the base."""
        return self.transform.inv(self.base.rsample(torch.Size(sample_shape)))
