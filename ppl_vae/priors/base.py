"""Priors p(z) of a latent vector: small modules that return a distribution when called."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.errors import UserError
from ppl_vae.recorded import Recorded

__all__ = ["Prior", "StandardNormal"]


class Prior(Recorded, nn.Module, ABC):
    """A distribution over R^d with its own parameters. `prior.build(d)` sizes it, `prior()` returns it.

    A subclass gives `forward` (and `setup`, if it has parameters): see `StandardNormal`.
    """

    latent_dim: int = 0

    def build(self, latent_dim: int) -> Self:
        """A copy of this prior for latent vectors of length `latent_dim`."""
        if latent_dim < 1:
            raise UserError(f"latent_dim must be at least 1, got {latent_dim}")
        built = copy.deepcopy(self)
        built.latent_dim = latent_dim
        built.setup()
        return built

    def setup(self) -> None:
        """Create parameters, once `latent_dim` is known."""

    @abstractmethod
    def forward(self) -> Any:
        """The distribution p(z): event shape [d], batch shape []."""


class StandardNormal(Prior):
    """The standard normal prior, log p(z) = -|z|^2 / 2 - (d / 2) log(2 pi) nats. Shape of z: [d].

    Source: Kingma & Welling 2014, arXiv 1312.6114.

    Example:
        >>> StandardNormal().build(3)().event_shape
        torch.Size([3])
    """

    zero: Tensor

    def setup(self) -> None:
        """A buffer, so that the prior moves with the module to its device and dtype."""
        self.register_buffer("zero", torch.zeros(self.latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        """N(0, I)."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)
