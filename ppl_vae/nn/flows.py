"""Normalizing flows: zuko's and Pyro's transforms as Pyro distributions, with a memory of the last draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ppl_vae.errors import UserError

_validation = Distribution._validate_args
import zuko  # noqa: E402 - importing it switches torch's validation off for the whole process: it is put back

Distribution.set_default_validate_args(_validation)

__all__ = ["Flow", "NoInverse", "zuko"]


class NoInverse(UserError, NotImplementedError):
    """log q of a value that a flow did not draw was asked of a flow without an inverse."""


class Flow(dist.TorchDistribution):
    """The distribution of T_n(... T_1(e)), e ~ base: log q(z) = log q(e) - sum log |det dT_i|.

    It remembers its last draw and that draw's density, which costs one pass forward; the density of any other
    value needs the inverses of all transforms.

    Shapes: batch shape that of the base, event shape [d].

    Raises:
        NoInverse: for the density of a foreign value, if a transform has no inverse.

    Example:
        >>> from torch.distributions.transforms import AffineTransform
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> flow = Flow(base, [AffineTransform(1.0, torch.tensor([2.0, 3.0]), event_dim=1)])
        >>> flow.log_prob(flow.rsample((4,))).shape
        torch.Size([4])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, base: Any, transforms: Sequence[Any]) -> None:
        self.base, self.transforms = base, list(transforms)
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Flow:
        """The same flow for more particles."""
        batch = torch.Size(batch_shape)
        return self if batch == self.batch_shape else Flow(self.base.expand(batch), self.transforms)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw from the base, and carry it through every transform."""
        z = self.base.rsample(torch.Size(sample_shape))
        log_q = self.base.log_prob(z)
        for transform in self.transforms:
            z, stretch = _applied(transform, z)
            log_q = log_q - stretch
        self._drawn = z, log_q
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """log q of the last draw, or of any value by way of the inverses."""
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        z, log_q = value, torch.zeros((), dtype=value.dtype, device=value.device)
        for transform in reversed(self.transforms):
            try:
                z, stretch = _applied(transform.inv, z)
            except (NotImplementedError, KeyError) as error:  # KeyError: Pyro's way of having no inverse
                name = type(transform).__name__.removeprefix("Conditioned")
                raise NoInverse(
                    f"{name} has no inverse, so that log q of a value that it did not just draw cannot be had: use "
                    "the reparameterised estimator, or an invertible family (IAF, MAF, Coupling, Spline)"
                ) from error
            log_q = log_q + stretch
        return self.base.log_prob(z) + log_q


def _applied(transform: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if hasattr(transform, "call_and_ladj"):
        return transform.call_and_ladj(x)
    y = transform(x)
    return y, transform.log_abs_det_jacobian(x, y)
