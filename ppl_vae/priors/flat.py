"""The prior that is none: of a deterministic autoencoder, which is no density."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.priors.base import Prior

__all__ = ["Flat"]


class Flat(Prior):
    """The improper flat prior, log p(z) = 0 everywhere on R^d. Shape of z: [d].

    It does not integrate to one, so a model with it has no p(x), no evidence and no samples; a guide of points
    (`Point`) is the only one that it goes with. Its draws are N(0, I): they are needed to read a program's shapes, and
    to show what a decoder makes of them, and are draws of no density.

    Example:
        >>> Flat().build(3)().log_prob(torch.ones(2, 3))
        tensor([0., 0.])
    """

    zero: Tensor

    def setup(self) -> None:
        """A buffer, so that the prior moves with the module to its device and dtype."""
        self.register_buffer("zero", torch.zeros(self.latent_dim), persistent=False)

    def forward(self, condition: Tensor | None = None) -> dist.Distribution:
        """The flat prior."""
        return _Flat(self.zero)


class _Flat(dist.ImproperUniform):
    """Pyro's improper uniform over R^d, on the device and of the dtype of `zero` [..., d], with draws of N(0, I)."""

    def __init__(self, zero: Tensor) -> None:
        self.zero = zero
        super().__init__(constraints.independent(constraints.real, 1), zero.shape[:-1], zero.shape[-1:])

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Flat:
        """The same for more rows and particles."""
        return _Flat(self.zero.expand(torch.Size(batch_shape) + self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """0, on the device of the value."""
        return value.new_zeros(()).expand(torch.broadcast_shapes(value.shape[:-1], self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of N(0, I): see `Flat`."""
        return torch.randn(torch.Size(sample_shape) + self.zero.shape, dtype=self.zero.dtype, device=self.zero.device)
