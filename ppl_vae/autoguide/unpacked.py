"""A site's part of a joint draw, as a distribution of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["Unpacked"]


class Unpacked(dist.TorchDistribution):
    """A site's part of a joint draw: its value, known once the joint is drawn, and log |d vector / d value|.

    log_prob is that number at the value and -inf elsewhere, up to rounding, since replaying a draw computes it
    anew. Shapes: value [..., *event], log_density [...].
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, value: Tensor, log_density: Tensor, support: Any, event_dim: int) -> None:
        self.value, self.log_density, self._support = value, log_density, support
        edge = value.dim() - event_dim
        super().__init__(value.shape[:edge], value.shape[edge:], validate_args=False)

    @property
    def support(self) -> Any:
        """The support of the site."""
        return self._support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Unpacked:
        """The same values for more particles."""
        batch = torch.Size(batch_shape)
        value = self.value.expand(batch + self.event_shape)
        return Unpacked(value, self.log_density.expand(batch), self._support, len(self.event_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The value: there is nothing to draw."""
        return self.value.expand(torch.Size(sample_shape) + self.value.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log |d vector / d value| at the value of the joint draw."""
        if value is self.value:
            return self.log_density
        near = (value - self.value).abs() <= 1e-4 * (1 + self.value.abs())
        same = near.flatten(near.dim() - len(self.event_shape)).all(-1) if self.event_shape else near
        return torch.where(same, self.log_density, -torch.inf)
